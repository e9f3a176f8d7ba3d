//! Owns the tests of the commands that ask a running broker: health, pools, dispatch, top.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use support::{Broker, PATIENCE, Pool};
use tempfile::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The exit code, and what was written to stdout and stderr.
fn end_of(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    end_of(command(arguments).output().unwrap())
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Runs `dispatch` with this payload at stdin.
fn dispatch(arguments: &[&str], payload: &str) -> (Option<i32>, String, String) {
    let mut child = dispatching(arguments);
    child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
    end_of(child.wait_with_output().unwrap())
}

fn dispatching(arguments: &[&str]) -> Child {
    let mut command = command(&[&["dispatch"], arguments].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Serves one POST: reads it, answers with what the caller writes to the stream, and closes. Returns the request.
fn serve_once(
    listener: TcpListener,
    answer: impl FnOnce(&mut dyn Write) + Send + 'static,
) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        let mut piece = [0; 1024];
        while !request.ends_with("payload") {
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "{request}");
            request.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
        answer(&mut stream);
        request
    })
}

fn broker_at(listener: &TcpListener) -> String {
    url(listener.local_addr().unwrap())
}

#[tokio::test]
async fn health_is_an_exit_code_and_a_word() {
    let broker = Broker::start(&[]);
    let ops = broker.ops.to_string();
    assert_eq!(run(&["health", &ops]), (Some(0), String::new(), format!("http://{ops} lives\n")));
    let by_setting = command(&["health"]).env("PILOTLIGHT_OPS_LISTEN", &ops).output().unwrap();
    assert_eq!(end_of(by_setting).0, Some(0));
    assert_eq!(run(&["health", "--ops-listen", &ops]).0, Some(0));

    let (code, _, said) = run(&["health", &url(broker.public)]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/livez has answered 404"), "{said}");

    // A broker that hangs is as good as none, and the check must not hang with it.
    broker.stop().await;
    let begun = Instant::now();
    let (code, _, said) = run(&["health", &ops]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("has not answered within 2s") && begun.elapsed() < Duration::from_secs(10),
        "{said}"
    );
    broker.signal(Signal::CONT);
    broker.signal(Signal::KILL);
    let mut broker = broker;
    broker.ended().await;
    let (code, _, said) = run(&["health", &ops]);
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn health_finds_the_operators_address_behind_a_unix_socket_and_behind_tls() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/ops.sock", folder.path().display());
    let broker = Broker::start(&["--ops-listen", &socket]);
    assert_eq!(run(&["health", "--ops-listen", &socket]).0, Some(0));
    assert_eq!(run(&["pools", &socket]), (Some(0), String::new(), String::new()));
    drop(broker);

    let (cert, key) = certificate(&folder);
    let tls = ["--ops-tls-cert", &cert, "--ops-tls-key", &key];
    let broker = Broker::start(&tls);
    let ops = broker.ops.to_string();
    // The certificate is for a name, and this is the address of the machine's own broker.
    assert_eq!(run(&[&["health", "--ops-listen", &ops], &tls[..]].concat()).0, Some(0));
    let named = format!("https://localhost:{}", broker.ops.port());
    let (code, _, said) = run(&["health", &named]);
    assert_eq!(code, Some(1), "an address that is named must have a trusted certificate");
    assert!(said.contains("UnknownIssuer"), "{said}");
    assert_eq!(run(&["health", &named, "--tls-ca", &cert]).0, Some(0));
    assert_eq!(run(&["pools", &named, "--tls-ca", &cert]).0, Some(0));
}

/// The files of a certificate for `localhost`, which is its own authority, and of its key.
fn certificate(folder: &TempDir) -> (String, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (file("cert.pem", cert.pem()), file("key.pem", signing_key.serialize_pem()))
}

#[tokio::test]
async fn pools_lists_one_pool_a_line_in_the_order_of_their_names() {
    let broker = Broker::start(&[]);
    let mut held = Vec::new();
    for (deployment, controller) in [("b", "1"), ("a", "2"), ("b", "3")] {
        held.push(broker.held_poll(&Pool::small(deployment), controller).await);
    }
    let ops = url(broker.ops);
    let (code, listed, said) = run(&["pools", &ops]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    let [a, b] = &lines[..] else { panic!("{listed}") };
    assert_eq!(a[..5], ["a", "20260821.3", "0.5", "0.5", "1"]);
    assert_eq!(b[..5], ["b", "20260821.3", "0.5", "0.5", "2"]);
    let [oldest, newest] = [b[5], b[6]].map(|seconds| seconds.parse::<f64>().unwrap());
    assert!(oldest >= newest && newest >= 0.0 && b.len() == 7, "{listed}");

    let (_, filtered, _) =
        run(&["pools", &ops, "--deployment", "b", "--version", "20260821.3", "--cpu", "0.50"]);
    assert_eq!(filtered.lines().count(), 1, "{filtered}");
    assert!(filtered.starts_with("b\t"), "{filtered}");
    assert_eq!(run(&["pools", &ops, "--memory", "2"]), (Some(0), String::new(), String::new()));
    let (_, json, _) = run(&["pools", &ops, "--json", "--deployment", "a"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["waiters"], &json["pools"][0]["deployment"]), (&1.into(), &"a".into()));

    let (code, _, said) = run(&["pools", &ops, "--all-brokers"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("400 Bad Request: "), "{said}");
}

#[tokio::test]
async fn an_address_that_is_not_for_operators_or_wants_a_token_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "# the new one\nan-operators-token\nan-operators-older-token\n").unwrap();
    let tokens = tokens.to_str().unwrap();
    let broker = Broker::start(&["--ops-token-file", tokens]);
    for command in ["pools", "top"] {
        let (code, _, said) = run(&[command, &url(broker.public)]);
        assert_eq!(code, Some(1));
        assert!(said.contains("has no /pools") && said.contains("--ops-listen"), "{said}");
        let (code, _, said) = run(&[command, &url(broker.ops)]);
        assert_eq!(code, Some(1));
        assert!(said.contains("--token-file"), "{said}");
    }
    assert_eq!(run(&["pools", &url(broker.ops), "--token-file", tokens]).0, Some(0));
    // The health of a container is no secret.
    assert_eq!(run(&["health", &url(broker.ops)]).0, Some(0));
}

#[tokio::test]
async fn a_dispatch_by_hand_hands_over_the_payload_and_says_who_has_it() {
    let broker = Broker::proving("received", &[]);
    let public = url(broker.public);
    let mut controller = broker.client().await;
    controller
        .send("GET /v1/pools/my-app/v1/0.5/1 HTTP/1.1\r\nhost: b\r\npilotlight-controller: worker-1\r\n\r\n")
        .await;
    broker.wait_for_waiters(1).await;
    let arguments = [&public, "my-app/v1/0.5/1", "--run", "run_by_hand", "--content-type", "text/plain"];
    let mut child = dispatching(&arguments);
    child.stdin.take().unwrap().write_all(b"payload").unwrap();
    let received = controller.answer().await;
    assert_eq!(received.body, b"payload");
    assert_eq!(received.header("content-type"), Some("text/plain"));
    drop(controller);
    let (code, written, said) = end_of(child.wait_with_output().unwrap());
    assert_eq!((code, written.as_str()), (Some(0), ""), "{said}");
    assert!(said.starts_with("delivered (after "), "{said}");
    let fields: Vec<_> = said.lines().skip(1).collect();
    let expected =
        ["run         run_by_hand", "controller  worker-1", "proof       received", "offers      1"];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn the_exit_code_says_whether_a_run_can_be_posted_again() {
    let broker = Broker::start(&[]);
    let public = url(broker.public);
    let (code, _, said) = dispatch(&[&public, "my-app/v1/0.5/1"], "payload");
    assert_eq!(code, Some(1));
    assert!(said.starts_with("miss (after ") && said.contains("reason      no_pool"), "{said}");
    let begun = Instant::now();
    dispatch(&[&public, "my-app/v1/0.5/1", "--wait", "150ms"], "payload");
    assert!(begun.elapsed() >= Duration::from_millis(150), "it has not waited");
    let (code, _, said) = dispatch(&[&public, "my-app/v1/much/1"], "payload");
    assert_eq!(code, Some(1));
    assert!(said.starts_with("refused (after ") && said.contains("not a decimal number"), "{said}");
    let (code, _, said) = run(&["dispatch", &public, "my-app/v1"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("DEPLOYMENT/VERSION/CPU/MEMORY"), "{said}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker_at(&listener);
    drop(listener);
    let (code, _, said) = dispatch(&[&address, "my-app/v1/0.5/1"], "");
    assert_eq!(code, Some(1), "nothing was sent: {said}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker_at(&listener);
    let served = serve_once(listener, |_| {});
    let (code, _, said) = dispatch(&[&address, "my-app/v1/0.5/1"], "payload");
    assert_eq!(code, Some(3), "the broker had it: {said}");
    assert!(said.ends_with("a controller may have the run\n"), "{said}");
    served.join().unwrap();
}

const REPLIED: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\npilotlight-outcome: replied\r\npilotlight-run: r\r\n\
    pilotlight-controller: worker-1\r\npilotlight-proof: replied\r\n\r\n5\r\nfirst\r\n";

#[test]
fn a_reply_is_written_as_it_comes_and_one_that_breaks_off_is_no_success() {
    for end in [&b"4\r\nlast\r\n0\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = broker_at(&listener);
        let (seen, goes_on) = std::sync::mpsc::sync_channel::<()>(1);
        let served = serve_once(listener, move |stream| {
            stream.write_all(REPLIED).unwrap();
            goes_on.recv_timeout(PATIENCE).expect("the first piece was not written to stdout at once");
            stream.write_all(end).unwrap();
        });
        let mut child = dispatching(&[&address, "my-app/v1/0.5/1", "--reply", "1m 30s", "--redeliver"]);
        child.stdin.take().unwrap().write_all(b"payload").unwrap();
        let mut first = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        assert_eq!(&first, b"first");
        seen.send(()).unwrap();
        let (code, rest, said) = end_of(child.wait_with_output().unwrap());
        let request = served.join().unwrap();
        assert!(
            request.starts_with("POST /v1/pools/my-app/v1/0.5/1?reply=1m30s&redeliver=true "),
            "{request}"
        );
        assert!(said.contains("\ncontroller  worker-1\nproof       replied"), "{said}");
        let expected = if end.is_empty() {
            (Some(3), "", "reply_broken (5 bytes ")
        } else {
            (Some(0), "last", "replied (9 bytes ")
        };
        assert_eq!((code, rest.as_str()), (expected.0, expected.1), "{said}");
        assert!(said.starts_with(expected.2), "{said}");
    }
}

/// Polls, gets a run, and closes the connection of the poll; returns the target of the run's reply.
async fn take_run(broker: &Broker) -> String {
    let mut controller = broker.client().await;
    let poll = "GET /v1/pools/my-app/v1/0.5/1 HTTP/1.1\r\nhost: b\r\npilotlight-controller: worker-1\r\n\r\n";
    controller.send(poll).await;
    let run = controller.answer().await;
    assert_eq!(run.body, b"payload");
    run.header("pilotlight-reply").unwrap().to_owned()
}

#[tokio::test]
async fn a_worker_answers_the_caller_through_a_real_broker() {
    let broker = Broker::proving("received", &[]);
    let public = url(broker.public);
    let arguments = [&public, "my-app/v1/0.5/1", "--wait", "5s", "--reply", "10s"];
    let asking = || {
        let mut child = dispatching(&arguments);
        child.stdin.take().unwrap().write_all(b"payload").unwrap();
        child
    };

    let mut child = asking();
    let target = take_run(&broker).await;
    let mut reply = broker.client().await;
    let head = format!("POST {target} HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n");
    reply.send(&format!("{head}5\r\nfirst\r\n")).await;
    let mut first = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first");
    assert_eq!(reply.ask("4\r\nlast\r\n0\r\n\r\n").await.status, 200);
    let (code, rest, said) = end_of(child.wait_with_output().unwrap());
    assert_eq!((code, rest.as_str()), (Some(0), "last"), "{said}");
    assert!(said.starts_with("replied (9 bytes in ") && said.contains("\ncontroller  worker-1\n"), "{said}");

    let child = asking();
    let target = take_run(&broker).await.replace("/reply?", "/error?");
    let error = format!("POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 6\r\n\r\nno job");
    assert_eq!(broker.client().await.ask(error).await.status, 200);
    let (code, written, said) = end_of(child.wait_with_output().unwrap());
    assert_eq!((code, written.as_str()), (Some(3), ""), "{said}");
    assert!(said.starts_with("worker_error (") && said.contains("\nerror       no job"), "{said}");

    // A caller who gives up takes the run back.
    let child = asking();
    let target = take_run(&broker).await;
    let mut reply = broker.client().await;
    reply.send(&format!("POST {target} HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    broker.wait_for_metric("pilotlight_replies_open", 1).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(reply.answer().await.status, 410);
    child.wait_with_output().unwrap();
}

#[test]
fn the_error_of_a_worker_is_told_and_is_no_reply() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker_at(&listener);
    let served = serve_once(listener, |stream| {
        let head =
            "HTTP/1.1 502 Bad Gateway\r\npilotlight-outcome: worker_error\r\ncontent-length: 9\r\n\r\n";
        stream.write_all(format!("{head}no \u{1b}[2Jjob").as_bytes()).unwrap();
    });
    let (code, written, said) = dispatch(&[&address, "my-app/v1/0.5/1", "--reply", "5s"], "payload");
    assert_eq!((code, written.as_str()), (Some(3), ""), "{said}");
    assert!(said.starts_with("worker_error (") && said.contains("error       no \\u{1b}[2Jjo"), "{said}");
    served.join().unwrap();
}

#[tokio::test]
async fn top_prints_a_line_each_time_where_there_is_no_terminal() {
    let broker = Broker::start(&[]);
    let _held = broker.held_poll(&Pool::small("d"), "1").await;
    let mut top = command(&["top", &url(broker.ops), "--interval", "1s", "--count", "3"]);
    let top = top.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for run in 0..4 {
        broker.post(&Pool::small("nobody").body(&format!("run_{run}"))).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (code, printed, said) = end_of(top.wait_with_output().unwrap());
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert!(lines[0].contains(" waiters=1 pools=1 ") && lines[0].contains(" waiters.poll=1 "), "{printed}");
    assert!(lines[0].contains(" dispatches=0.0/s hits=0.0/s misses=0.0/s "), "{printed}");
    assert!(lines[2].contains(" miss.no_pool="), "{printed}");
}

/// A command on a terminal of this size; the file is the terminal's other side.
fn on_terminal(arguments: &[&str], rows: u16, columns: u16) -> (Child, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let inside = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = command(arguments);
    let child = command.stdout(inside.try_clone().unwrap()).stderr(inside).spawn().unwrap();
    // The command's copies are the only ones now, so that its end is the end of the file.
    drop(command);
    (child, terminal.into())
}

/// Reads until this text has been seen, or to the end.
fn shown(terminal: &mut File, until: Option<&str>) -> String {
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while until.is_none_or(|until| !text.contains(until)) {
        // Linux reports the end of a terminal as an error.
        match terminal.read(&mut piece) {
            Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&piece[..read])),
            _ => break,
        }
    }
    text
}

#[tokio::test]
async fn top_fits_its_terminal_and_gives_it_back_when_it_is_interrupted() {
    let broker = Broker::start(&[]);
    let mut held = Vec::new();
    for number in 0..9 {
        held.push(broker.held_poll(&Pool::small(&format!("deployment-{number}")), "1").await);
    }
    let (mut top, mut terminal) = on_terminal(&["top", &url(broker.ops), "--interval", "100ms"], 12, 50);
    let mut text = shown(&mut terminal, Some("\u{1b}[J\u{1b}[H"));
    kill_process(Pid::from_child(&top), Signal::INT).unwrap();
    text += &shown(&mut terminal, None);
    assert_eq!(top.wait().unwrap().code(), Some(0));
    let frame = text.strip_prefix("\u{1b}[?1049h\u{1b}[?25l\u{1b}[H").expect(&text);
    assert!(text.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{text:?}");
    let frame = frame.split("\u{1b}[J").next().unwrap().replace("\u{1b}[K", "").replace('\r', "");
    let lines: Vec<_> = frame.lines().collect();
    assert!(lines.len() <= 12 && lines.iter().all(|line| line.chars().count() <= 50), "{frame}");
    assert!(
        frame.contains("DEPLOYMENT") && frame.contains("deployment-0") && frame.contains(" more"),
        "{frame}"
    );
}

#[tokio::test]
async fn top_waits_for_a_broker_that_has_ended() {
    let mut broker = Broker::start(&[]);
    let (mut top, mut terminal) = on_terminal(&["top", &url(broker.ops), "--interval", "100ms"], 24, 200);
    assert!(shown(&mut terminal, Some(" up ")).contains("0 pools"));
    broker.signal(Signal::KILL);
    broker.ended().await;
    let text = shown(&mut terminal, Some("cannot be reached"));
    assert!(text.contains("cannot be reached"), "{text}");
    kill_process(Pid::from_child(&top), Signal::TERM).unwrap();
    assert!(shown(&mut terminal, None).ends_with("\u{1b}[?1049l"));
    assert_eq!(top.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn pools_is_a_table_on_a_terminal() {
    let broker = Broker::start(&[]);
    let _held = broker.held_poll(&Pool::small("d"), "1").await;
    let (mut pools, mut terminal) = on_terminal(&["pools", &url(broker.ops)], 24, 80);
    let text = shown(&mut terminal, None);
    assert!(pools.wait().unwrap().success());
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("DEPLOYMENT  VERSION     CPU  MEMORY  WAITERS  OLDEST  NEWEST"));
    assert!(lines.next().unwrap().starts_with("d           20260821.3  0.5     0.5        1    "), "{text}");
}
