//! Owns the end-to-end tests of a worker's programs: when they count as ready, and how they end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::worker::{Caller, Folder, ONE_RUN, Worker, has_ended, until};
use support::{Broker, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A program that tells its process id, and executes a run.
const NAMED_RUN: &str = "mark('ids', os.getpid())\nexec(sys.stdin.read())";

/// Waits until another worker's program waits at the broker: it began later, so that a program that has not come by then
/// is not on its way.
async fn wait_for_a_later_worker(broker: &Broker, folder: &Folder) -> Worker {
    let pool = Pool::small("later");
    let worker = Worker::running(broker.public, &pool, folder, &[], &["cat"]);
    let waits = async || broker.waiters("deployment=later").await == 1;
    broker.wait_until("a later worker", waits).await;
    worker
}

async fn waiters(broker: &Broker) -> u64 {
    broker.waiters("deployment=d1").await
}

async fn is_delivered(broker: &Broker, pool: &Pool, run: &str) -> bool {
    let answer = Caller::post(broker, pool, "", run).await.rest().await.unwrap();
    serde_json::from_str::<serde_json::Value>(&answer).unwrap()["delivered"] == true
}

/// Starts a program, asserts that nobody can reach it, lets it go on, and waits until a run has reached it.
async fn is_ready_only_later(arguments: &[&str], program: &str) {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    let worker = Worker::start(broker.public, &pool, &folder, arguments, program);
    folder.wait_for_marks("begun", 1).await;
    let _later = wait_for_a_later_worker(&broker, &folder).await;
    assert_eq!(waiters(&broker).await, 0, "{}", worker.log());
    assert!(!is_delivered(&broker, &pool, "mark('ran')").await);
    folder.open("import");
    broker.wait_until("a ready program", async || waiters(&broker).await == 1).await;
    assert!(is_delivered(&broker, &pool, "mark('ran')").await);
    folder.wait_for_marks("ran", 1).await;
}

#[tokio::test]
async fn nobody_is_matched_before_the_program_reads_its_input() {
    is_ready_only_later(&[], &format!("mark('begun'); gate('import'); {ONE_RUN}")).await;
}

#[tokio::test]
async fn a_program_that_waits_for_its_input_with_an_event_loop_is_seen() {
    for wait in [
        "import select; select.select([0, 1], [], [])",
        "import select; poll = select.poll(); poll.register(0, select.POLLIN); poll.poll()",
        "import select; poll = select.epoll(); poll.register(0, select.EPOLLIN); poll.poll()",
    ] {
        is_ready_only_later(&[], &format!("mark('begun'); gate('import'); {wait}\n{ONE_RUN}")).await;
    }
}

#[tokio::test]
async fn a_child_of_the_program_that_reads_the_input_is_seen() {
    let child = "os.fork() and (os.wait(), sys.exit())";
    is_ready_only_later(&[], &format!("{child}\nmark('begun'); gate('import'); {ONE_RUN}")).await;
}

#[tokio::test]
async fn a_program_can_say_that_it_is_ready() {
    let says = "os.write(int(os.environ['PILOTLIGHT_READY_FD']), b'!')";
    let waits = "while not os.path.exists(f'{folder}/ran'): time.sleep(0.002); mark('ran')";
    is_ready_only_later(&[], &format!("mark('begun'); gate('import'); {says}\n{waits}")).await;
}

#[tokio::test]
async fn with_ready_after_a_program_counts_as_ready_without_reading() {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    let program = format!("gate('read'); {ONE_RUN}");
    let _worker = Worker::start(broker.public, &pool, &folder, &["--ready-after", "1ms"], &program);
    broker.wait_for_waiters(1).await;
    assert!(is_delivered(&broker, &pool, "mark('ran', os.environ['PILOTLIGHT_SLOT'])").await);
    folder.open("read");
    assert_eq!(folder.wait_for_marks("ran", 1).await, ["1"]);
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_started_again_and_never_matched() {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    let program = "mark('begun'); print('no such model', file=sys.stderr); sys.exit(3)";
    let worker = Worker::start(broker.public, &pool, &folder, &[], program);
    folder.wait_for_marks("begun", 3).await;
    worker.wait_for_log("exit code 3").await;
    worker.wait_for_log("no such model").await;
    assert!(!is_delivered(&broker, &pool, "").await);
    assert_eq!(broker.waiters("").await, 0);
}

#[tokio::test]
async fn the_poll_of_a_program_that_dies_is_withdrawn_and_the_next_one_polls() {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    let program = "mark('ids', os.getpid()); os.path.exists(f'{folder}/died') and gate('again')";
    let program = format!("{program}\n{ONE_RUN}");
    let _worker = Worker::start(broker.public, &pool, &folder, &[], &program);
    broker.wait_for_waiters(1).await;
    let first = folder.marks("ids").remove(0);
    folder.open("died");
    kill(&first, Signal::KILL);
    broker.wait_for_waiters(0).await;
    assert!(!is_delivered(&broker, &pool, "mark('ran')").await);
    folder.open("again");
    broker.wait_for_waiters(1).await;
    assert!(is_delivered(&broker, &pool, "mark('ran')").await);
    folder.wait_for_marks("ran", 1).await;
}

#[tokio::test]
async fn programs_die_with_a_worker_that_is_killed() {
    let (broker, folder, pool) = (Broker::start(&[]), Folder::new(), Pool::small("d1"));
    let mut worker = Worker::start(broker.public, &pool, &folder, &["--slots", "2"], NAMED_RUN);
    broker.wait_for_waiters(2).await;
    assert!(is_delivered(&broker, &pool, "mark('running'); time.sleep(1000)").await);
    folder.wait_for_marks("running", 1).await;
    let programs = folder.marks("ids");
    assert!(programs.len() == 2 && programs.iter().all(|program| !has_ended(program)));
    worker.signal(Signal::KILL);
    worker.ended().await;
    until("the programs' end", || programs.iter().all(|program| has_ended(program)).then_some(())).await;
}

#[tokio::test]
async fn sigterm_ends_the_worker_and_programs_that_ignore_it() {
    let (broker, folder, pool) = (Broker::start(&[]), Folder::new(), Pool::small("d1"));
    let program = format!("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{NAMED_RUN}");
    let mut worker = Worker::start(broker.public, &pool, &folder, &[], &program);
    broker.wait_for_waiters(1).await;
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    assert!(has_ended(&folder.marks("ids")[0]));
    assert_eq!(broker.waiters("").await, 0);
}

#[tokio::test]
async fn after_sigterm_the_run_under_way_is_finished_and_a_second_signal_kills_it() {
    let (broker, folder, pool) = (Broker::start(&[]), Folder::new(), Pool::small("d1"));
    let arguments = ["--slots", "2"];
    let run = "mark('running'); gate('finish'); mark('finished')";
    let mut worker = Worker::start(broker.public, &pool, &folder, &arguments, NAMED_RUN);
    broker.wait_for_waiters(2).await;
    assert!(is_delivered(&broker, &pool, run).await);
    folder.wait_for_marks("running", 1).await;
    worker.signal(Signal::TERM);
    broker.wait_for_waiters(0).await;
    folder.open("finish");
    assert_eq!(worker.ended().await.code(), Some(0));
    assert_eq!(folder.marks("finished").len(), 1);

    std::fs::remove_file(folder.path("finish")).unwrap();
    let mut worker = Worker::start(broker.public, &pool, &folder, &[], NAMED_RUN);
    broker.wait_for_waiters(1).await;
    assert!(is_delivered(&broker, &pool, run).await);
    folder.wait_for_marks("running", 2).await;
    worker.signal(Signal::INT);
    worker.wait_for_log("no run is taken any more").await;
    worker.signal(Signal::INT);
    assert_eq!(worker.ended().await.code(), Some(130));
    // They were killed, and end in their own time.
    let programs = folder.marks("ids");
    until("the programs' end", || programs.iter().all(|program| has_ended(program)).then_some(())).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_run_ends_the_worker_with_a_shells_exit_code() {
    let (folder, pool) = (Folder::new(), Pool::small("d1"));
    let nowhere = ([127, 0, 0, 1], 9).into();
    for (program, code, reason) in [
        ("no-such-program", 127, "no-such-program is not there"),
        ("/no/such/program", 127, "/no/such/program is not there"),
        ("/etc/passwd", 126, "/etc/passwd cannot be executed"),
        ("/etc", 126, "/etc cannot be executed"),
    ] {
        let mut worker = Worker::running(nowhere, &pool, &folder, &[], &[program]);
        assert_eq!(worker.ended().await.code(), Some(code), "{program}");
        assert!(worker.log().contains(reason), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_restart_of_the_broker_is_survived() {
    let [public, ops] = support::free_addresses();
    let start = || {
        let addresses =
            ["--listen", &public.to_string(), "--ops-listen", &ops.to_string(), "--drain-window", "0s"];
        Broker::run(
            std::process::Command::new(env!("CARGO_BIN_EXE_pilotlight"))
                .args(addresses)
                .env("RUST_LOG", "error"),
        )
    };
    let (folder, pool) = (Folder::new(), Pool::small("d1"));
    let worker = Worker::start(public, &pool, &folder, &["--slots", "3"], ONE_RUN);
    worker.wait_for_log("cannot be reached").await;
    for signal in [Signal::KILL, Signal::TERM] {
        let mut broker = start();
        broker.wait_for_waiters(3).await;
        assert!(is_delivered(&broker, &pool, "mark('ran')").await);
        broker.signal(signal);
        broker.ended().await;
    }
    let broker = start();
    broker.wait_for_waiters(3).await;
    folder.wait_for_marks("ran", 2).await;
    drop(worker);
}

/// Answers each request with the same head and ends the connection. Returns how many requests came until the log of a worker
/// has a text, and for a second afterwards; and the log.
async fn answer_always(head: &str, text: &str) -> (usize, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (folder, pool) = (Folder::new(), Pool::small("d1"));
    let program = format!("mark('begun'); {NAMED_RUN}; mark('ran')");
    let worker = Worker::start(listener.local_addr().unwrap(), &pool, &folder, &[], &program);
    let mut count = 0;
    let answers = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert_ne!(stream.read(&mut request).await.unwrap(), 0);
            count += 1;
            let answer = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: 4\r\n\r\npass");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let seen = async {
        worker.wait_for_log(text).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = answers => {}
        () = seen => {}
    }
    assert_eq!((folder.marks("begun").len(), folder.marks("ran").len()), (1, 0), "{}", worker.log());
    (count, worker.log())
}

#[tokio::test]
async fn polls_that_bring_nothing_are_repeated_with_growing_pauses_whatever_the_answer_is() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let redirect = format!("307 Temporary Redirect\r\nLocation: http://{dead}/v1");
    for (head, text) in [
        ("503 Service Unavailable\r\nRetry-After: 0", "the broker answers 503"),
        ("200 OK", "is no broker of pilotlight"),
        ("200 OK\r\npilotlight-reply: /v1/runs/x/reply?token=x", "is no broker of pilotlight"),
        (&redirect, &format!("{dead} cannot be reached")),
    ] {
        let (count, log) = answer_always(head, text).await;
        assert!((2..20).contains(&count), "{head}: {count} requests\n{log}");
        assert_eq!(log.matches("cannot poll: ").count(), 1, "{log}");
        assert!(!log.contains("polls at"), "{log}");
    }
}

#[tokio::test]
async fn a_retry_after_is_waited_for() {
    let (count, log) = answer_always("429 Too Many Requests\r\nRetry-After: 60", "answers 429").await;
    assert_eq!(count, 1, "{log}");
}

#[tokio::test]
async fn a_program_that_floods_its_standard_error_does_not_flood_the_log() {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    let worker = Worker::start(broker.public, &pool, &folder, &[], ONE_RUN);
    broker.wait_for_waiters(1).await;
    let run = "sys.stderr.write(''.join(f'line {n} of it\\n' for n in range(100000))); sys.exit(3)";
    let text = Caller::post(&broker, &pool, "reply=20s", run).await.rest().await.unwrap();
    assert!(text.ends_with("\nline 99998 of it\nline 99999 of it\n"), "{text}");
    worker.wait_for_log(" lines were dropped").await;
    let logged = worker.log().matches(" of it\"").count();
    assert!((1000..20_000).contains(&logged), "{logged}");
}

fn kill(process: &str, signal: Signal) {
    let process = rustix::process::Pid::from_raw(process.parse().unwrap()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
}
