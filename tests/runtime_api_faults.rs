//! Owns the end-to-end tests of functions in trouble: brokers and programs that are killed, workers that end, several events
//! at a time, and what callers of AWS's Invoke API ask for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::function::{FunctionScene, RUNTIME, SERVE, event};
use support::invoke::Call;
use support::replies::Reply;
use support::scripted_broker::ScriptedBroker;
use support::worker::{Caller, Folder, Worker, until};
use support::{Broker, PATIENCE, Pool};

fn kill(process: &str) {
    let process = rustix::process::Pid::from_raw(process.parse().unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(process, Signal::KILL);
}

/// Another broker at the address of one that has ended.
fn restarted(broker: &Broker) -> Broker {
    let (listen, ops) = (broker.public.to_string(), broker.ops.to_string());
    Broker::listening(&["--listen", &listen, "--ops-listen", &ops], "received", &[])
}

#[tokio::test]
async fn a_program_outlives_brokers_that_are_killed_or_drain() {
    let mut scene = FunctionScene::new(&[]).await;
    for (number, signal) in [Signal::KILL, Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let gate = format!("end{number}");
        let code = format!("mark('open'); gate('{gate}'); runtime.respond(1); mark('finished')");
        let run = event(&code);
        let caller = Caller::try_post(&scene.broker, &scene.pool, "reply=20s&wait=5s", &run);
        let broken = async {
            scene.folder.wait_for_marks("open", number + 1).await;
            scene.broker.signal(signal);
            if signal == Signal::KILL {
                scene.worker.wait_for_log("no reply is possible").await;
            }
            scene.folder.open(&gate);
        };
        let (caller, ()) = tokio::join!(caller, broken);
        // A drain lets the reply end, a killed broker breaks its caller's connection.
        assert_eq!(caller.is_ok(), signal == Signal::TERM);
        scene.folder.wait_for_marks("finished", number + 1).await;
        scene.broker.ended().await;
        scene.broker = restarted(&scene.broker);
        assert_eq!(scene.value("runtime.respond('again')").await, "again");
    }
    assert_eq!(scene.programs().len(), 1);
    assert_eq!(scene.folder.marks("open").len(), 3);
}

#[tokio::test]
async fn a_worker_that_is_asked_to_end_finishes_its_event_and_takes_no_other() {
    let mut scene = FunctionScene::with(
        &[],
        &[],
        &format!("signal.signal(signal.SIGTERM, lambda *_: (mark('asked'), sys.exit()))\n{SERVE}"),
    )
    .await;
    let ends = async {
        scene.folder.wait_for_marks("open", 1).await;
        scene.worker.signal(Signal::TERM);
        scene.worker.wait_for_log("no run is taken any more").await;
        scene.folder.open("end");
    };
    let code = "mark('open'); gate('end'); runtime.respond('finished')";
    assert_eq!(tokio::join!(scene.value(code), ends).0, "finished");
    assert_eq!(scene.worker.ended().await.code(), Some(0));
    assert_eq!(scene.folder.marks("asked").len(), 1);
    assert_eq!(scene.broker.waiters("").await, 0);
}

#[tokio::test]
async fn several_events_are_open_at_once_and_answered_in_any_order() {
    let threads =
        format!("{}\nfor _ in range(4): threading.Thread(target=serve).start()", "mark('ids', os.getpid())");
    let scene =
        FunctionScene::with(&["--timeout", "2s"], &[("AWS_LAMBDA_MAX_CONCURRENCY", "4")], &threads).await;
    scene.broker.wait_for_waiters(4).await;
    let code = |number: u32| {
        format!("mark('open'); gate('end{number}'); mark('order', {number}); runtime.respond({number})")
    };
    let ends = async {
        scene.folder.wait_for_marks("open", 4).await;
        for (ended, number) in [4, 2, 3, 1].into_iter().enumerate() {
            scene.folder.open(&format!("end{number}"));
            scene.folder.wait_for_marks("order", ended + 1).await;
        }
    };
    let [one, two, three, four] = [code(1), code(2), code(3), code(4)];
    let served =
        tokio::join!(scene.value(&one), scene.value(&two), scene.value(&three), scene.value(&four), ends);
    assert_eq!([served.0, served.1, served.2, served.3], [json!(1), json!(2), json!(3), json!(4)]);

    // One that takes too long does not take the others with it.
    let late = event("time.sleep(60)");
    let other = "time.sleep(1.5); runtime.respond('finished')";
    let (error, finished) = tokio::join!(scene.error(&late), async {
        scene.broker.wait_for_waiters(3).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.value(other).await
    });
    assert_eq!((error.0.as_str(), finished), ("Sandbox.Timedout", json!("finished")));
    assert_eq!(scene.value("runtime.respond('again')").await, "again");
    assert_eq!(scene.programs().len(), 2);
}

#[tokio::test]
async fn node_gets_one_event_at_a_time() {
    let scene = FunctionScene::with(
        &[],
        &[("AWS_LAMBDA_MAX_CONCURRENCY", "4"), ("AWS_EXECUTION_ENV", "AWS_Lambda_nodejs22.x")],
        SERVE,
    )
    .await;
    assert_eq!(scene.value("runtime.respond('AWS_LAMBDA_MAX_CONCURRENCY' in os.environ)").await, false);
    scene.worker.wait_for_log("AWS_LAMBDA_MAX_CONCURRENCY is taken out").await;
    scene.broker.wait_for_waiters(1).await;
}

/// Whether an event was answered: it may have been one of a program that was killed, or one that nobody waited for.
#[tokio::test]
async fn no_run_is_lost_silently_while_idle_programs_are_killed() {
    let scene = FunctionScene::new(&["--slots", "2"]).await;
    let (mut served, mut crashed) = (0, 0);
    for number in 0..60 {
        let kills = async {
            tokio::time::sleep(Duration::from_micros(number * 50)).await;
            if number % 2 == 0 {
                kill(scene.programs().last().unwrap());
            }
        };
        let code = format!("mark('runs', {number}); runtime.respond({number})");
        let (mut caller, ()) = tokio::join!(scene.post(&code), kills);
        let text = caller.rest().await.unwrap();
        match caller.status() {
            200 => {
                assert_eq!(text, number.to_string());
                served += 1;
            }
            502 => {
                assert!(text.contains("Runtime.ExitError"), "{text}");
                crashed += 1;
            }
            status => panic!("{status} {text}"),
        }
    }
    let mut runs = scene.folder.marks("runs");
    let count = runs.len();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), count, "a run ran twice");
    assert!(served >= 30 && runs.len() >= served && served + crashed == 60, "{served} {crashed}");
}

#[tokio::test]
async fn a_run_that_comes_as_its_program_dies_is_the_next_ones() {
    let (mut broker, folder, worker) = scripted().await;
    broker.run("r-0", &[], event("runtime.respond('first')")).await;
    broker.posted().await;
    let first = folder.marks("ids").remove(0);
    broker.wait_for_poll().await;
    // Stopped, so that the run is there, and the program is not, when it looks.
    worker.signal(Signal::STOP);
    kill(&first);
    until("the end of the program", || support::worker::has_ended(&first).then_some(())).await;
    broker.run("r-1", &[], event("runtime.respond('served')")).await;
    worker.signal(Signal::CONT);
    let post = broker.posted().await;
    assert_eq!((post.path.as_str(), post.body.as_slice()), ("/v1/runs/r-1/reply", &b"\"served\""[..]));
    assert_eq!(folder.marks("ids").len(), 2);
}

/// A worker of a broker that the test plays.
async fn scripted() -> (ScriptedBroker, Folder, Worker) {
    let broker = ScriptedBroker::start().await;
    let (folder, pool) = (Folder::new(), Pool::new("resize", "1", "0", "0"));
    let script = folder.script(&format!("{RUNTIME}{SERVE}"));
    let command = ["python3", script.to_str().unwrap()];
    let worker = Worker::running(broker.address, &pool, &folder, &["--runtime-api"], &command);
    (broker, folder, worker)
}

fn decoded(value: &hyper::header::HeaderValue) -> String {
    assert!(value.len() <= 6 << 10, "{}", value.len());
    String::from_utf8(BASE64_STANDARD.decode(value).unwrap()).unwrap()
}

#[tokio::test]
async fn the_fields_of_a_run_reach_the_function() {
    let (mut broker, _folder, _worker) = scripted().await;
    let context = BASE64_STANDARD.encode("{\n\"custom\": {\"name\": \"\u{e9}\"}}");
    let fields = [("x-amz-client-context", context.as_str()), ("x-amzn-trace-id", "Root=1-2-3;Sampled=1")];
    let code = "h = runtime.headers; runtime.respond([h['Lambda-Runtime-Client-Context'], h['Lambda-Runtime-Trace-Id'], runtime.id])";
    broker.run("0b1f2c3d-0000-4000-8000-1234567890ab", &fields, event(code)).await;
    let answer: Value = serde_json::from_slice(&broker.posted().await.body).unwrap();
    let expected = [
        r#"{ "custom": {"name": "\u00e9"}}"#,
        "Root=1-2-3;Sampled=1",
        "0b1f2c3d-0000-4000-8000-1234567890ab",
    ];
    assert_eq!(answer, json!(expected));
    let traceparent = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
    broker
        .run(
            "a%2Fb",
            &traceparent,
            event("runtime.respond([runtime.headers['Lambda-Runtime-Trace-Id'], len(runtime.id)])"),
        )
        .await;
    let answer: Value = serde_json::from_slice(&broker.posted().await.body).unwrap();
    assert_eq!(
        answer,
        json!(["Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1", 36])
    );
}

#[tokio::test]
async fn the_logs_tail_is_a_field_of_the_reply_for_those_who_ask() {
    let (mut broker, _folder, worker) = scripted().await;
    let tail = [("x-amz-log-type", "Tail")];
    let print = "print(runtime.id); [print(n, 'x' * 100) for n in range(count)]; sys.stdout.flush()";
    broker.run("quiet", &[], event(&format!("count = 1; {print}; runtime.respond(1)"))).await;
    let post = broker.posted().await;
    assert!(!post.fields.contains_key("pilotlight-log-tail"));
    for (run, count, expected) in [("short", 1, 5 + 1 + 103), ("long", 200, 4096)] {
        broker.run(run, &tail, event(&format!("count = {count}; {print}; runtime.respond('ok')"))).await;
        let post = broker.posted().await;
        assert_eq!((post.path, post.body.as_slice()), (format!("/v1/runs/{run}/reply"), &b"\"ok\""[..]));
        let text = decoded(&post.fields["pilotlight-log-tail"]);
        assert!(text.ends_with(&format!("{} {}\n", count - 1, "x".repeat(100))), "{text}");
        assert!(!text.contains("quiet") && text.len() <= expected && text.len() + 200 > expected, "{text}");
    }
    for (run, code) in [("fails", "runtime.fail('E', 'x')"), ("ends", "os._exit(3)")] {
        broker.run(run, &tail, event(&format!("print('last words', flush=True); {code}"))).await;
        let post = broker.posted().await;
        assert_eq!(post.path, format!("/v1/runs/{run}/error"));
        assert_eq!(
            (&post.fields["content-type"], decoded(&post.fields["pilotlight-log-tail"]).as_str()),
            (&"application/json".parse().unwrap(), "last words\n")
        );
    }
    worker.wait_for_log("last words").await;
}

#[tokio::test]
async fn a_stream_that_fails_after_its_beginning_ends_with_trailers() {
    let (mut broker, _folder, _worker) = scripted().await;
    let begins =
        "print('begun', flush=True); stream = runtime.stream(); piece(stream, b'one'); time.sleep(0.1)";
    let trailers = "'Lambda-Runtime-Function-Error-Type: Late\\r\\n'";
    for (run, fails, kind, message) in [
        (
            "trailers",
            format!("end(stream, {trailers})"),
            "Late",
            "the runtime reported an error without a document",
        ),
        ("error", "runtime.fail('Other', 'x'); end(stream)".to_owned(), "Other", "x"),
        ("breaks", "stream.close()".to_owned(), "Runtime.TruncatedResponse", "the response was broken off"),
        ("ends", "os._exit(3)".to_owned(), "Runtime.ExitError", "exit status 3"),
    ] {
        broker.run(run, &[("x-amz-log-type", "Tail")], event(&format!("{begins}; {fails}"))).await;
        let post = broker.posted().await;
        assert_eq!((post.path, post.body.as_slice()), (format!("/v1/runs/{run}/reply"), &b"one"[..]));
        assert_eq!(post.fields["content-type"], "text/event-stream");
        assert_eq!(post.trailers["pilotlight-error-type"], kind);
        let document: Value =
            serde_json::from_str(&decoded(&post.trailers["pilotlight-error-body"])).unwrap();
        assert_eq!(document["errorType"], kind);
        assert!(document["errorMessage"].as_str().unwrap().ends_with(message), "{document}");
        assert_eq!(decoded(&post.trailers["pilotlight-log-tail"]), "begun\n");
    }
    broker.run("whole", &[], event(&format!("{begins}; end(stream)"))).await;
    assert!(broker.posted().await.trailers.is_empty());
}

/// Calls a function until a program has it: the next one may still be starting.
async fn called(scene: &FunctionScene, call: &Call) -> Reply {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let reply = call.send(scene.broker.dispatch).await.reply().await;
        if reply.head.status != 429 {
            return reply;
        }
        assert!(std::time::Instant::now() < deadline, "{reply:?}");
    }
}

#[tokio::test]
async fn a_caller_of_the_invoke_api_gets_what_a_function_of_aws_gives() {
    let scene = FunctionScene::new(&[]).await;
    let says = "print('said', flush=True)";
    for (code, error, expected) in [
        ("runtime.respond(runtime.headers['Lambda-Runtime-Client-Context'])", None, "\"{}\""),
        ("runtime.fail('ValueError', 'x')", Some("Unhandled"), "ValueError"),
        ("os._exit(1)", Some("Unhandled"), "Runtime.ExitError"),
    ] {
        let call = Call::of("resize").with("x-amz-log-type", "Tail").with("x-amz-client-context", "e30=");
        let reply = called(&scene, &call.event(&event(&format!("{says}; {code}")))).await;
        let (status, kind, text) = reply.result();
        assert_eq!((status, kind), (200, error), "{text}");
        assert!(text.contains(expected), "{text}");
        let tail = BASE64_STANDARD.decode(reply.head.header("x-amz-log-result").unwrap()).unwrap();
        assert_eq!(tail, b"said\n");
    }
    let streams = "stream = runtime.stream(); piece(stream, b'one'); time.sleep(0.1)";
    for (ends, expected) in [
        ("end(stream)", "{}"),
        ("end(stream, 'Lambda-Runtime-Function-Error-Type: Late\\r\\n')", "Late"),
        ("os._exit(1)", "Runtime.ExitError"),
    ] {
        let call = Call::streaming("resize").event(&event(&format!("{streams}; {ends}")));
        let events = called(&scene, &call).await.events();
        let [first, last] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((first.0.as_str(), first.1.as_str()), ("PayloadChunk", "one"));
        assert!(last.0 == "InvokeComplete" && last.1.contains(expected), "{last:?}");
    }
}

#[tokio::test]
async fn what_a_program_prints_after_its_answer_is_not_in_the_next_ones_tail() {
    let (mut broker, _folder, _worker) = scripted().await;
    let late = "runtime.respond(1); print('half of one', end='', flush=True); print('late', file=sys.stderr)";
    broker.run("one", &[], event(late)).await;
    broker.posted().await;
    let own = "print(' mine', flush=True); runtime.respond(2)";
    broker.run("two", &[("x-amz-log-type", "Tail")], event(own)).await;
    assert_eq!(decoded(&broker.posted().await.fields["pilotlight-log-tail"]), " mine\n");
}

#[tokio::test]
async fn a_program_that_goes_on_without_an_answer_is_not_waited_for() {
    let scene = FunctionScene::new(&[]).await;
    for code in ["pass", "runtime.break_off()"] {
        assert_eq!(scene.error(&event(code)).await.0, "Runtime.NoResponse");
    }
    // One whose answer is still on its way.
    let late = "other = Runtime(); other.id = runtime.id
threading.Timer(0.1, other.respond, ['late']).start()";
    assert_eq!(scene.value(late).await, "late");
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn a_caller_who_reads_slowly_does_not_keep_the_function() {
    let mut scene = FunctionScene::new(&[]).await;
    let mut slow = scene.post("runtime.post('response', b'x' * (6 << 20))").await;
    assert!(slow.bytes().await.unwrap().is_ok());
    for number in 0..3 {
        assert_eq!(scene.value(&format!("runtime.respond({number})")).await, number);
    }
    // A worker that ends sends it to its end.
    scene.worker.signal(Signal::TERM);
    scene.worker.wait_for_log("no run is taken any more").await;
    let mut rest = 0;
    while let Some(bytes) = slow.bytes().await {
        rest += bytes.unwrap().len();
    }
    assert!(rest > 5 << 20, "{rest}");
    assert_eq!(scene.worker.ended().await.code(), Some(0));
}

#[tokio::test]
async fn pages_in_a_browser_do_not_reach_the_api() {
    let scene = FunctionScene::new(&[]).await;
    let asks = "answers = []
for fields in [{'Origin': 'http://evil.example'}, {'Sec-Fetch-Site': 'cross-site'}, {'Host': 'evil.example:80'}, {'Host': 'localhost:1'}]:
    page = Runtime()
    page.connection.putrequest('GET', '/2018-06-01/runtime/none', skip_host='Host' in fields)
    for name, value in fields.items(): page.connection.putheader(name, value)
    page.connection.endheaders()
    answer = page.connection.getresponse()
    answers.append([answer.status, answer.headers['Content-Type']])
runtime.respond(answers)";
    let (refused, none) = (json!([403, "application/json"]), json!([404, "application/json"]));
    assert_eq!(scene.value(asks).await, json!([refused, refused, refused, none]));
}
