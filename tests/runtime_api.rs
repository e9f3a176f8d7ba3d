//! Owns the end-to-end tests of functions: what a runtime gets from the Runtime API, and what its callers get from it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use support::PATIENCE;
use support::function::{FunctionScene, SERVE, event};
use support::worker::{Caller, has_ended, until};

#[tokio::test]
async fn one_program_serves_many_events_and_is_told_what_aws_tells() {
    let scene = FunctionScene::new(&[]).await;
    let mut caller = scene.post("runtime.respond(dict(runtime.headers))").await;
    let fields: Value = serde_json::from_str(&caller.rest().await.unwrap()).unwrap();
    assert_eq!((caller.status(), caller.header("content-type")), (200, "application/json"));
    let field = |name: &str| {
        let mut found = fields.as_object().unwrap().iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str().unwrap().to_owned())
    };
    assert_eq!(field("lambda-runtime-aws-request-id").unwrap(), caller.header("pilotlight-run"));
    assert_eq!(field("lambda-runtime-invocation-id").unwrap(), caller.header("pilotlight-run"));
    assert_eq!(field("content-type").unwrap(), "application/json");
    let arn = field("lambda-runtime-invoked-function-arn").unwrap();
    assert!(arn.ends_with(":000000000000:function:resize:$LATEST"), "{arn}");
    assert_eq!(field("lambda-runtime-client-context"), None);
    let left = "int(runtime.headers['Lambda-Runtime-Deadline-Ms']) / 1000 - time.time()";
    let left = scene.value(&format!("runtime.respond({left})")).await.as_f64().unwrap();
    assert!((800.0..=901.0).contains(&left), "{left}");

    let variables =
        scene.value("runtime.respond({k: v for k, v in os.environ.items() if k.startswith('AWS_')})").await;
    for (name, expected) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "resize"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "3008"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/resize"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ] {
        assert_eq!(variables[name], expected, "{name}");
    }
    assert!(variables["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().unwrap().starts_with("[$LATEST]"));
    for number in 0..100 {
        assert_eq!(scene.value(&format!("runtime.respond({number})")).await, number);
    }
    assert_eq!(scene.programs().len(), 1);
    let answers = scene.folder.marks("answers");
    assert!(answers.iter().all(|answer| answer.ends_with(" application/json")), "{answers:?}");
}

#[tokio::test]
async fn what_is_set_stays_as_it_is() {
    let set =
        [("AWS_LAMBDA_FUNCTION_NAME", "other"), ("AWS_DEFAULT_REGION", "eu-west-1"), ("_HANDLER", "app.f")];
    let scene = FunctionScene::with(&["--timeout", "60s"], &set, SERVE).await;
    let names = "['AWS_LAMBDA_FUNCTION_NAME', 'AWS_REGION', '_HANDLER']";
    let variables = scene.value(&format!("runtime.respond([os.environ[n] for n in {names}])")).await;
    assert_eq!(variables, json!(["other", "eu-west-1", "app.f"]));
    let arn = scene.value("runtime.respond(runtime.headers['Lambda-Runtime-Invoked-Function-Arn'])").await;
    assert!(arn.as_str().unwrap().starts_with("arn:aws:lambda:eu-west-1:"), "{arn}");
}

#[tokio::test]
async fn nobody_is_matched_while_the_program_does_not_ask() {
    let scene = FunctionScene::starting(&[], &[], "mark('ids', os.getpid()); gate('ask'); serve()");
    scene.folder.wait_for_marks("ids", 1).await;
    assert!(is_missed(&scene).await);
    scene.folder.open("ask");
    scene.broker.wait_for_waiters(1).await;
    let mut caller = scene.post("mark('runs'); runtime.respond(1); gate('again')").await;
    assert_eq!(caller.rest().await.unwrap(), "1");
    // It has answered, and has not asked again.
    assert!(is_missed(&scene).await);
    scene.folder.open("again");
    assert_eq!(scene.value("runtime.respond(2)").await, 2);
    assert_eq!(scene.folder.marks("runs").len(), 1);
}

async fn is_missed(scene: &FunctionScene) -> bool {
    let caller = Caller::post(&scene.broker, &scene.pool, "reply=20s", &event("mark('runs')")).await;
    caller.header("pilotlight-outcome") == "miss"
}

#[tokio::test]
async fn a_call_of_next_that_is_closed_withdraws_the_poll() {
    let asks = "runtime = Runtime(); runtime.connection.request('GET', ROOT + 'invocation/next')";
    let program = format!("{asks}\ngate('close'); runtime.connection.close(); gate('ask'); serve()");
    let scene = FunctionScene::with(&[], &[], &program).await;
    scene.broker.wait_for_waiters(1).await;
    scene.folder.open("close");
    scene.broker.wait_for_waiters(0).await;
    assert!(is_missed(&scene).await);
    scene.folder.open("ask");
    assert_eq!(scene.value("runtime.respond('served')").await, "served");
    assert!(scene.folder.marks("runs").is_empty());
}

#[tokio::test]
async fn an_error_reaches_the_caller_as_the_runtime_wrote_it_and_the_program_goes_on() {
    let scene = FunctionScene::new(&[]).await;
    let mut caller = scene.post("runtime.fail('ValueError', 'no such size')").await;
    let document: Value = serde_json::from_str(&caller.rest().await.unwrap()).unwrap();
    assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"));
    assert_eq!(
        document,
        json!({"errorType": "ValueError", "errorMessage": "no such size", "stackTrace": []})
    );
    let error = scene.error(&event("runtime.post('error', b'no JSON')")).await;
    assert_eq!(error.0, "Runtime.Unknown");
    assert_eq!(scene.value("runtime.respond(1)").await, 1);
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn a_crash_is_told_at_once_and_the_next_program_serves() {
    let scene = FunctionScene::new(&[]).await;
    for (code, message) in [
        ("os._exit(7)", "Runtime exited with error: exit status 7"),
        ("os._exit(0)", "Runtime exited without providing a reason"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Runtime exited with error: signal 11"),
    ] {
        let begun = Instant::now();
        let (kind, text) = scene.error(&event(code)).await;
        assert_eq!(kind, "Runtime.ExitError");
        assert!(text.starts_with("RequestId: ") && text.ends_with(message), "{text}");
        // Not the reply's time, which is 20 s.
        assert!(begun.elapsed() < PATIENCE / 2);
        assert_eq!(scene.value("runtime.respond('again')").await, "again");
    }
    assert_eq!(scene.programs().len(), 4);
    scene.worker.wait_for_log("exit code 7 with an event open; it is started again").await;
}

#[tokio::test]
async fn an_event_that_takes_too_long_is_ended_with_its_program() {
    let scene = FunctionScene::new(&["--timeout", "1s"]).await;
    let (kind, text) = scene.error(&event("time.sleep(60)")).await;
    assert_eq!(kind, "Sandbox.Timedout");
    assert!(text.ends_with("Error: Task timed out after 1.00 seconds"), "{text}");
    assert_eq!(scene.value("runtime.respond('again')").await, "again");
    let programs = scene.programs();
    assert_eq!(programs.len(), 2);
    until("the end of the first program", || has_ended(&programs[0]).then_some(())).await;
}

#[tokio::test]
async fn a_response_of_six_mebibytes_passes_and_a_larger_one_is_an_error() {
    let scene = FunctionScene::new(&[]).await;
    let respond = |size: u32| format!("runtime.post('response', b'x' * {size})");
    let mut caller = scene.post(&respond((6 << 20) + 100)).await;
    assert_eq!((caller.status(), caller.rest().await.unwrap().len()), (200, (6 << 20) + 100));
    // A text of 6 MiB as an event.
    let payload =
        json!({"do": "runtime.respond(len(event['text']))", "text": "x".repeat(6 << 20)}).to_string();
    assert_eq!(scene.post_bytes(&payload).await.rest().await.unwrap(), (6 << 20).to_string());
    let chunked = "runtime.post('response', (b'x' * (1 << 20) for _ in range(20)), {}, encode_chunked=True)";
    for code in [respond((6 << 20) + 101), respond(20 << 20), chunked.to_owned()] {
        let (kind, text) = scene.error(&event(&code)).await;
        assert_eq!(kind, "Function.ResponseSizeTooLarge");
        assert!(text.contains("6291556 bytes"), "{text}");
    }
    assert_eq!(scene.value("runtime.respond(1)").await, 1);
    let answers = scene.folder.marks("answers");
    assert!(
        answers.iter().skip(1).all(
            |answer| ["GET 200 application/json", "POST 202 application/json"].contains(&answer.as_str())
        ),
        "{answers:?}"
    );
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn late_and_unknown_answers_are_accepted_and_change_nothing() {
    let scene = FunctionScene::new(&[]).await;
    let late = "runtime.respond('first'); runtime.respond('second'); runtime.fail('Late', 'x')";
    assert_eq!(scene.value(late).await, "first");
    let first = "globals().update(before=runtime.id); runtime.respond(1)";
    assert_eq!(scene.value(first).await, 1);
    let unknown = "now = runtime.id
for runtime.id in [before, 'unknown', 'x' * 5000]:
    runtime.respond('stolen'); runtime.post('response', b'x' * (20 << 20)); runtime.fail('Stolen', 'x')
runtime.id = now
runtime.respond('own')";
    assert_eq!(scene.value(unknown).await, "own");
    wait_for_accepted(&scene, 3 + 1 + 9 + 1).await;
}

/// Waits until so many posts of the program were answered, and all of them in the same way.
async fn wait_for_accepted(scene: &FunctionScene, count: usize) {
    let posts = || scene.folder.marks("answers").into_iter().filter(|answer| answer.starts_with("POST"));
    until("the answers to all posts", || (posts().count() == count).then_some(())).await;
    assert!(posts().all(|answer| answer == "POST 202 application/json"));
}

#[tokio::test]
async fn an_answer_counts_on_any_connection_and_with_trailers() {
    let scene = FunctionScene::new(&[]).await;
    let other = "other = Runtime(); other.id = runtime.id; other.respond('other')";
    assert_eq!(scene.value(other).await, "other");
    let trailers = "connection = http.client.HTTPConnection(os.environ['AWS_LAMBDA_RUNTIME_API'])
connection.putrequest('POST', f'{ROOT}invocation/{runtime.id}/response')
connection.putheader('Transfer-Encoding', 'chunked')
connection.putheader('Trailer', 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body')
connection.endheaders()
piece(connection, b'[1,')
piece(connection, b'2]')
";
    assert_eq!(scene.value(&format!("{trailers}end(connection)")).await, json!([1, 2]));
    let body =
        "import base64; body = base64.b64encode(b'{\"errorType\":\"T\",\"errorMessage\":\"late\"}').decode()";
    let failed = "end(connection, f'Lambda-Runtime-Function-Error-Type: T\\r\\nLambda-Runtime-Function-Error-Body: {body}\\r\\n')";
    let error = scene.error(&event(&format!("{trailers}{body}\n{failed}"))).await;
    assert_eq!(error, ("T".to_owned(), "late".to_owned()));
}

#[tokio::test]
async fn a_response_that_breaks_off_can_be_sent_again() {
    let scene = FunctionScene::new(&[]).await;
    assert_eq!(scene.value("runtime.break_off(); runtime.respond('whole')").await, "whole");
}

#[tokio::test]
async fn a_payload_that_is_no_json_never_reaches_the_program_and_an_empty_one_is_an_object() {
    let program = "mark('ids', os.getpid())
runtime = Runtime()
while True: runtime.respond([runtime.next()])";
    let scene = FunctionScene::with(&[], &[], program).await;
    for payload in ["hello", "{\"a\":1} x", "\u{feff}{}", "   "] {
        assert_eq!(scene.error(payload).await.0, "Runtime.InvalidEventJson", "{payload}");
    }
    assert_eq!(scene.post_bytes("").await.rest().await.unwrap(), "[{}]");
    assert_eq!(scene.post_bytes(" 7").await.rest().await.unwrap(), "[7]");
    assert_eq!(scene.folder.marks("answers").iter().filter(|answer| answer.starts_with("GET")).count(), 2);
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn a_streamed_response_passes_as_it_comes() {
    let scene = FunctionScene::new(&[]).await;
    let code =
        "stream = runtime.stream(); piece(stream, b'one'); gate('two'); piece(stream, b'two'); end(stream)";
    let mut caller = scene.post(code).await;
    assert_eq!((caller.status(), caller.header("content-type")), (200, "text/event-stream"));
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    scene.folder.open("two");
    assert_eq!(caller.rest().await.unwrap(), "two");
    // Larger than a response that is not streamed.
    let large = "stream = runtime.stream()
for _ in range(20): piece(stream, b'x' * (1 << 20))
end(stream)";
    assert_eq!(scene.post(large).await.rest().await.unwrap().len(), 20 << 20);
    let failed = "end(runtime.stream(), 'Lambda-Runtime-Function-Error-Type: Early\\r\\n')";
    assert_eq!(scene.error(&event(failed)).await.0, "Early");
    let replaced = "stream = runtime.stream(); runtime.fail('Other', 'on another connection'); end(stream)";
    assert_eq!(scene.error(&event(replaced)).await.0, "Other");
    assert_eq!(scene.value("runtime.respond(1)").await, 1);
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_end_the_function() {
    let scene = FunctionScene::new(&[]).await;
    let waits = "mark('begun'); gate('end'); runtime.respond('dropped'); mark('finished')";
    tokio::select! {
        _ = scene.post(waits) => panic!("an answer"),
        _ = scene.folder.wait_for_marks("begun", 1) => {}
    }
    scene.broker.wait_for_metric("pilotlight_replies_open", 0).await;
    scene.folder.open("end");
    scene.folder.wait_for_marks("finished", 1).await;
    assert_eq!(scene.value("runtime.respond('next')").await, "next");
    // One that is streamed.
    let streams = "stream = runtime.stream(); piece(stream, b'one'); gate('more')
for _ in range(100): piece(stream, b'x' * 10000)
end(stream)
mark('finished')";
    let mut caller = scene.post(streams).await;
    assert_eq!(caller.piece().await.unwrap().unwrap(), "one");
    drop(caller);
    scene.broker.wait_for_metric("pilotlight_replies_open", 0).await;
    scene.folder.open("more");
    scene.folder.wait_for_marks("finished", 2).await;
    assert_eq!(scene.value("runtime.respond('next')").await, "next");
    wait_for_accepted(&scene, 4).await;
    assert_eq!(scene.programs().len(), 1);
}

#[tokio::test]
async fn an_init_error_is_logged_and_the_program_is_started_again() {
    let program = "mark('begun')
is_there = lambda name: os.path.exists(f'{folder}/{name}')
if is_there('installed'): serve()
body = json.dumps({'errorType': 'ImportError', 'errorMessage': 'no module\\nnamed pil'})
Runtime().ask('POST', ROOT + 'init/error', body)
if is_there('hangs'): time.sleep(60)
sys.exit(1)";
    let scene = FunctionScene::starting(&[], &[], program);
    scene.folder.wait_for_marks("begun", 3).await;
    scene.worker.wait_for_log("cannot begin, it is started again: ImportError: no module named pil").await;
    assert!(is_missed(&scene).await);
    // One that does not end by itself.
    scene.folder.open("hangs");
    let begun = scene.folder.marks("begun").len();
    scene.folder.wait_for_marks("begun", begun + 2).await;
    scene.folder.open("installed");
    assert_eq!(scene.value("runtime.respond('served')").await, "served");
    assert!(scene.folder.marks("answers")[0].starts_with("POST 202 application/json"));
    assert!(scene.folder.marks("runs").is_empty());
}

#[tokio::test]
async fn an_extension_can_register_and_waits_for_ever() {
    let scene = FunctionScene::new(&[]).await;
    let register = "answer, body = runtime.ask('POST', '/2020-01-01/extension/register', '{\"events\":[]}', {'Lambda-Extension-Name': 'x'})
waits = Runtime(); waits.connection.request('GET', '/2020-01-01/extension/event/next'); globals().update(waits=waits)
runtime.respond([answer.status, len(answer.headers['Lambda-Extension-Identifier']), json.loads(body)['functionName']])";
    assert_eq!(scene.value(register).await, json!([200, 36, "resize"]));
    let waits = "import select; runtime.respond(len(select.select([waits.connection.sock], [], [], 0.2)[0]))";
    assert_eq!(scene.value(waits).await, 0);
    let unknown = "runtime.respond(runtime.ask('GET', '/2018-06-01/runtime/restore/next')[0].status)";
    assert_eq!(scene.value(unknown).await, 404);
}

#[tokio::test]
async fn what_the_program_prints_is_logged_with_its_slot_and_request() {
    let scene = FunctionScene::new(&[]).await;
    let prints = "print('to output', flush=True); print('to error', file=sys.stderr); runtime.respond(1)";
    let mut caller = scene.post(prints).await;
    assert_eq!(caller.rest().await.unwrap(), "1");
    let run = caller.header("pilotlight-run");
    for text in ["to output", "to error"] {
        scene.worker.wait_for_log(text).await;
        let log = scene.worker.log();
        let line = log.lines().find(|line| line.contains(text)).unwrap();
        assert!(line.contains("\"slot\":1") && line.contains(run), "{line}");
    }
    // The rest of a line is not the next event's.
    scene.value("print('begun ', end='', flush=True); runtime.respond(1)").await;
    scene.value("print('other', flush=True); runtime.respond(1)").await;
    scene.worker.wait_for_log("other").await;
    assert!(!scene.worker.log().contains("begun other"));
}

#[tokio::test]
async fn each_slot_has_a_program_and_they_serve_at_the_same_time() {
    let scene = FunctionScene::new(&["--slots", "3"]).await;
    scene.broker.wait_for_waiters(3).await;
    let code = "mark('open'); gate('end'); runtime.respond(os.environ['PILOTLIGHT_SLOT'])";
    let end = async {
        scene.folder.wait_for_marks("open", 3).await;
        scene.folder.open("end");
    };
    let (one, two, three, ()) = tokio::join!(scene.value(code), scene.value(code), scene.value(code), end);
    let mut slots = [one, two, three].map(|slot| slot.as_str().unwrap().to_owned());
    slots.sort();
    assert_eq!(slots, ["1", "2", "3"]);
}

#[tokio::test]
async fn other_ways_to_run_a_program_conflict_and_say_so() {
    for argument in ["--keep", "--buffer", "--ready-after=1s", "--content-type=text/plain"] {
        let worker = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
            .args(["worker", "--broker", "127.0.0.1:1", "--pool", "f/$LATEST/0/0", "--runtime-api", argument])
            .args(["--", "true"])
            .output()
            .unwrap();
        assert_eq!(worker.status.code(), Some(2), "{argument}");
        assert!(String::from_utf8(worker.stderr).unwrap().contains("cannot be used with"), "{argument}");
    }
}
