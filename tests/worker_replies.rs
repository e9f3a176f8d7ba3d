//! Owns the end-to-end tests of a worker's replies: a program's output reaches the caller as it comes, and each side's end
//! reaches the other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use rustix::process::Signal;
use support::worker::{Caller, Folder, ONE_RUN, Worker, has_ended, until};
use support::{Broker, PATIENCE, Pool};

/// How long callers wait for the first byte.
const REPLY: &str = "reply=20s";

struct Scene {
    broker: Broker,
    folder: Folder,
    pool: Pool,
    worker: Worker,
}

impl Scene {
    /// A broker and a worker with one slot that is ready.
    async fn new(arguments: &[&str], program: &str) -> Self {
        let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
        let worker = Worker::start(broker.public, &pool, &folder, arguments, program);
        // With several slots, the first waiter is not alone for long.
        broker.wait_until("a slot waits", async || broker.waiters("").await > 0).await;
        Self { broker, folder, pool, worker }
    }

    async fn post(&self, run: &str) -> Caller {
        post(&self.broker, &self.pool, run).await
    }

    /// Whether a program that executes runs serves one.
    async fn is_served(&self) -> bool {
        self.post("say('served')").await.rest().await.unwrap() == "served"
    }
}

/// Posts a run until a program takes it: the next one may still be starting.
async fn post(broker: &Broker, pool: &Pool, run: &str) -> Caller {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let caller = Caller::post(broker, pool, &format!("{REPLY}&wait=1s"), run).await;
        if caller.header("pilotlight-outcome") != "miss" {
            return caller;
        }
        assert!(Instant::now() < deadline, "no program within {PATIENCE:?}");
    }
}

#[tokio::test]
async fn output_reaches_the_caller_as_it_comes() {
    let scene = Scene::new(&["--content-type", "text/event-stream"], ONE_RUN).await;
    let mut caller = scene.post("say('one'); gate('two'); say('two'); gate('end')").await;
    assert_eq!((caller.status(), caller.header("content-type")), (200, "text/event-stream"));
    assert_eq!(
        (caller.header("pilotlight-outcome"), caller.header("pilotlight-proof")),
        ("replied", "replied")
    );
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    scene.folder.open("two");
    assert_eq!(caller.piece().await.unwrap().unwrap(), "two");
    scene.folder.open("end");
    assert!(caller.piece().await.is_none());
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn one_connection_carries_a_worker_from_run_to_run() {
    let scene = Scene::new(&[], ONE_RUN).await;
    let connections = "pilotlight_connections_accepted_total{listener=\"public\"}";
    for _ in 0..3 {
        scene.broker.wait_for_waiters(1).await;
        let before = scene.broker.metric(connections).await;
        assert_eq!(scene.post("say('x')").await.rest().await.unwrap(), "x");
        scene.broker.wait_for_waiters(1).await;
        // The caller's.
        assert_eq!(scene.broker.metric(connections).await - before, 1);
    }
}

#[tokio::test]
async fn a_run_that_fails_is_an_error_with_the_last_lines() {
    let scene = Scene::new(&[], ONE_RUN).await;
    let mut caller = scene.post("print('no such model', file=sys.stderr); sys.exit(3)").await;
    assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"));
    let text = caller.rest().await.unwrap();
    assert_eq!(text, "the program ended with exit code 3\n\nno such model\n");
    let mut caller = scene.post("os.kill(os.getpid(), signal.SIGKILL)").await;
    assert_eq!(caller.rest().await.unwrap(), "the program was ended by signal 9\n");

    let mut caller = scene.post("say('part'); gate('fail'); sys.exit(3)").await;
    assert_eq!((caller.status(), caller.piece().await.unwrap().unwrap().as_str()), (200, "part"));
    scene.folder.open("fail");
    assert!(caller.rest().await.is_err(), "a broken stream");
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn with_buffer_a_failed_run_has_no_part_of_a_reply() {
    let scene = Scene::new(&["--buffer"], ONE_RUN).await;
    let mut caller = scene.post("say('part'); sys.exit(3)").await;
    assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"));
    assert_eq!(caller.rest().await.unwrap(), "the program ended with exit code 3\n");
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_program_and_what_it_has_started() {
    let scene = Scene::new(&[], ONE_RUN).await;
    let run = "mark('ids', os.getpid()); os.fork() and os.wait(); mark('ids', os.getpid()); say('x'); time.sleep(1000)";
    let caller = scene.post(run).await;
    let programs = scene.folder.wait_for_marks("ids", 2).await;
    assert!(programs.iter().all(|program| !has_ended(program)));
    drop(caller);
    until("the end of both", || programs.iter().all(|program| has_ended(program)).then_some(())).await;
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_an_error() {
    let scene = Scene::new(&["--timeout", "100ms"], ONE_RUN).await;
    let ignores = "signal.signal(signal.SIGTERM, signal.SIG_IGN)";
    let mut caller = scene.post(&format!("{ignores}; mark('ids', os.getpid()); time.sleep(1000)")).await;
    assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"));
    assert!(caller.rest().await.unwrap().contains("after 100ms (--timeout)"));
    assert!(has_ended(&scene.folder.marks("ids")[0]));
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn a_program_that_ignores_its_input_or_leaves_something_behind_replies() {
    let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
    // The second one leaves a process that keeps standard output open.
    let program = "os.write(int(os.environ['PILOTLIGHT_READY_FD']), b'!'); say('deaf'); gate('end')";
    let program =
        format!("{program}; os.fork() or (os.setsid(), mark('ids', os.getpid()), time.sleep(1000))");
    let _worker = Worker::start(broker.public, &pool, &folder, &[], &program);
    broker.wait_for_waiters(1).await;
    let mut caller = Caller::post(&broker, &pool, REPLY, &"x".repeat(1 << 20)).await;
    assert_eq!(caller.piece().await.unwrap().unwrap(), "deaf");
    folder.open("end");
    assert!(caller.piece().await.is_none());
    for program in folder.wait_for_marks("ids", 1).await {
        let process = rustix::process::Pid::from_raw(program.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
}

#[tokio::test]
async fn what_a_process_that_was_left_behind_writes_does_not_keep_the_reply_open() {
    let scene = Scene::new(&[], ONE_RUN).await;
    for pause in ["0", "0.05"] {
        // It ends when nobody reads its output any more.
        let left = format!("os.setsid()\n while True: os.write(1, b'y' * 100); time.sleep({pause})");
        let mut caller = scene.post(&format!("say('x' * 60000)\nif os.fork() == 0:\n {left}")).await;
        let text = tokio::time::timeout(PATIENCE, caller.rest()).await.expect("the reply's end").unwrap();
        assert!(text.starts_with(&"x".repeat(60_000)));
    }
    assert!(scene.is_served().await);
}

#[tokio::test]
async fn after_sigterm_the_reply_under_way_is_finished() {
    let mut scene = Scene::new(&[], ONE_RUN).await;
    let mut caller = scene.post("say('one'); gate('two'); say('two')").await;
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    scene.worker.signal(Signal::TERM);
    scene.worker.wait_for_log("no run is taken any more").await;
    scene.folder.open("two");
    assert_eq!(caller.rest().await.unwrap(), "two");
    assert_eq!(scene.worker.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_drains_loses_no_run() {
    let scene = Scene::new(&["--slots", "4"], ONE_RUN).await;
    scene.broker.wait_for_waiters(4).await;
    let mut workers = vec![scene.worker];
    let start = || Worker::start(scene.broker.public, &scene.pool, &scene.folder, &["--slots", "4"], ONE_RUN);
    let post = async |number: usize| {
        let mut caller = post(&scene.broker, &scene.pool, &format!("say({number})")).await;
        assert_eq!((caller.status(), caller.rest().await.unwrap()), (200, number.to_string()));
    };
    for number in 0..40 {
        if number % 10 == 5 {
            workers.push(start());
            workers[number / 10].signal(Signal::TERM);
        }
        tokio::join!(post(4 * number), post(4 * number + 1), post(4 * number + 2), post(4 * number + 3));
    }
    for worker in workers.iter_mut().take(4) {
        assert_eq!(worker.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_broker_that_is_killed_breaks_the_reply_and_the_run_is_finished() {
    let mut scene = Scene::new(&[], ONE_RUN).await;
    let mut caller = scene.post("say('one'); gate('two'); say('two'); mark('finished')").await;
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    scene.broker.signal(Signal::KILL);
    scene.broker.ended().await;
    assert!(caller.rest().await.is_err(), "a broken stream");
    scene.worker.wait_for_log("no reply is possible").await;
    scene.folder.open("two");
    scene.folder.wait_for_marks("finished", 1).await;
    assert!(scene.worker.child.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_reply_of_a_gigabyte_takes_no_memory() {
    let mut scene = Scene::new(&[], ONE_RUN).await;
    assert!(scene.is_served().await);
    let before = scene.worker.peak_memory();
    let each = "os.write(2, piece[:4096] + b'\\n'); sys.stdout.buffer.write(piece)";
    let run = format!("piece = b'x' * (1 << 20)\nfor _ in range(1 << 10): {each}");
    let mut caller = scene.post(&run).await;
    let mut bytes = 0;
    while let Some(piece) = caller.bytes().await {
        bytes += piece.unwrap().len();
    }
    assert_eq!(bytes, 1 << 30);
    let grown = scene.worker.peak_memory().saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB");
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.worker.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_is_stopped_gets_no_run_and_serves_again_when_it_goes_on() {
    let scene = Scene::new(&[], ONE_RUN).await;
    scene.worker.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", scene.worker.child.id());
    until("a stopped worker", || std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(()))
        .await;
    let mut caller = Caller::post(&scene.broker, &scene.pool, REPLY, "mark('ran'); say('x')").await;
    assert!([503, 504].contains(&caller.status()), "{:?}", caller.response);
    assert_ne!(caller.header("pilotlight-outcome"), "replied");
    caller.rest().await.unwrap();
    scene.worker.signal(Signal::CONT);
    assert!(scene.is_served().await);
}

/// With `--keep`: the payload names what to do.
const KEPT: &str = r#"
import json
mark("begun")
for line in sys.stdin:
    run = json.loads(line)
    mark("runs", line.strip())
    exec(run["payload"])
"#;

fn answer(text: &str) -> String {
    format!("say(json.dumps({text}) + '\\n')")
}

#[tokio::test]
async fn with_keep_one_program_serves_many_runs_as_lines() {
    let scene = Scene::new(&["--keep"], KEPT).await;
    let end = answer("{'data': 'two', 'end': True}");
    for number in 1..=3 {
        let gate = format!("two-{number}");
        let mut caller = scene.post(&format!("{}; gate('{gate}'); {end}", answer("{'data': 'one'}"))).await;
        assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
        scene.folder.open(&gate);
        assert_eq!(caller.rest().await.unwrap(), "two");
        let line: serde_json::Value = serde_json::from_str(&scene.folder.marks("runs")[number - 1]).unwrap();
        assert_eq!(
            (&line["reply"], &line["contentType"]),
            (&true.into(), &"application/octet-stream".into())
        );
        assert_eq!(line["run"], caller.header("pilotlight-run"));
    }
    let mut caller = scene.post(&answer("{'error': 'no such model'}")).await;
    assert_eq!((caller.status(), caller.rest().await.unwrap().as_str()), (502, "no such model"));
    let bytes = "{'data': '3q2+7w==', 'encoding': 'base64', 'end': True}";
    let mut caller = scene.post(&answer(bytes)).await;
    assert_eq!(caller.bytes().await.unwrap().unwrap().as_ref(), [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(scene.folder.marks("begun").len(), 1);
}

#[tokio::test]
async fn with_keep_a_program_that_breaks_the_rules_is_started_again() {
    let scene = Scene::new(&["--keep"], KEPT).await;
    for (number, run) in ["say('s3cret\\n')", "sys.exit(3)", "say('[]\\n')"].iter().enumerate() {
        let mut caller = scene.post(run).await;
        assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"));
        let text = caller.rest().await.unwrap();
        assert!(text.starts_with("the program ") && !text.contains("s3cret"), "{text}");
        scene.folder.wait_for_marks("begun", number + 2).await;
    }
    let mut caller = scene.post(&answer("{'data': 'served', 'end': True}")).await;
    assert_eq!(caller.rest().await.unwrap(), "served");
}

#[tokio::test]
async fn with_keep_a_caller_that_leaves_does_not_end_the_program() {
    let scene = Scene::new(&["--keep"], KEPT).await;
    let run = format!("{}; gate('end'); {}", answer("{'data': 'one'}"), answer("{'end': True}"));
    let mut caller = scene.post(&run).await;
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    drop(caller);
    scene.broker.wait_for_metric("pilotlight_replies_open", 0).await;
    scene.folder.open("end");
    let mut caller = scene.post(&answer("{'data': 'served', 'end': True}")).await;
    assert_eq!(caller.rest().await.unwrap(), "served");
    assert_eq!(scene.folder.marks("begun").len(), 1);
}

#[tokio::test]
async fn with_keep_a_late_line_is_not_taken_for_the_next_callers_reply() {
    let scene = Scene::new(&["--keep"], KEPT).await;
    let answer = |name: &str| answer(&format!("{{'data': 'for {name}', 'end': True}}"));
    let served = async |name: &str| {
        let mut caller = scene.post(&answer(name)).await;
        assert_eq!(caller.rest().await.unwrap(), format!("for {name}"));
    };
    // At once, as a line and as an empty one.
    for (number, late) in [answer("nobody"), "say('\\n')".to_owned()].iter().enumerate() {
        let mut caller = scene.post(&format!("{}; {late}", answer("alice"))).await;
        assert_eq!(caller.rest().await.unwrap(), "for alice");
        served("bob").await;
        scene.folder.wait_for_marks("begun", number + 2).await;
    }
    // While the program waits.
    let mut caller = scene.post(&format!("{}; gate('late'); {}", answer("alice"), answer("nobody"))).await;
    assert_eq!(caller.rest().await.unwrap(), "for alice");
    scene.broker.wait_for_waiters(1).await;
    scene.folder.open("late");
    scene.folder.wait_for_marks("begun", 4).await;
    served("bob").await;
    assert_eq!(scene.folder.marks("begun").len(), 4);
}

#[tokio::test]
async fn with_keep_a_late_line_that_is_there_when_a_run_comes_loses_neither_run() {
    let scene = Scene::new(&["--keep"], KEPT).await;
    let answer = |name: &str| answer(&format!("{{'data': 'for {name}', 'end': True}}"));
    let late = format!("{}; gate('late'); {}; mark('late')", answer("alice"), answer("nobody"));
    let mut caller = scene.post(&late).await;
    assert_eq!(caller.rest().await.unwrap(), "for alice");
    scene.broker.wait_for_waiters(1).await;
    // Stopped, so that the run and the line are both there when it looks.
    scene.worker.signal(Signal::STOP);
    scene.folder.open("late");
    until("the late line", || {
        (std::fs::read_to_string(scene.folder.path("late")).unwrap() == "\n").then_some(())
    })
    .await;
    let bob = answer("bob");
    let goes_on = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        scene.worker.signal(Signal::CONT);
    };
    let (mut caller, ()) = tokio::join!(scene.post(&bob), goes_on);
    assert_eq!(caller.rest().await.unwrap(), "for bob");
    assert_eq!(scene.folder.marks("begun").len(), 2);
}

#[tokio::test]
async fn with_keep_a_program_that_speaks_unasked_or_closes_its_output_never_polls() {
    for (program, reason) in [
        ("say('loading model\\n')", "with --keep is for replies alone, before a run"),
        ("say('.')", "with --keep is for replies alone, before a run"),
        ("os.close(1)", "the program closed its standard output before a run"),
    ] {
        let (broker, folder, pool) = (Broker::proving("received", &[]), Folder::new(), Pool::small("d1"));
        let worker = Worker::start(broker.public, &pool, &folder, &["--keep"], &format!("{program}{KEPT}"));
        worker.wait_for_log(reason).await;
        folder.wait_for_marks("begun", 2).await;
        let caller = Caller::post(&broker, &pool, REPLY, "").await;
        assert_eq!(caller.header("pilotlight-outcome"), "miss");
        assert_eq!(broker.waiters("").await, 0);
    }
}
