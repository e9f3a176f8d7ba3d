//! Owns the end-to-end tests of how a reply's body is read: any cut, any framing that is clear, and what follows it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::client::Client;
use support::replies::{
    END, HandedOver, chunk, dispatch, handed_over, is_silent, open, target as target_of, whole,
};
use support::{Broker, Pool, post};

fn broker() -> Broker {
    Broker::proving("received", &[])
}

fn poll() -> String {
    format!("GET {} HTTP/1.1\r\nhost: b\r\npilotlight-controller: w1\r\n\r\n", Pool::small("d1").path())
}

fn head(target: &str, fields: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: b\r\n{fields}\r\n")
}

async fn send_in_parts(client: &mut Client, bytes: &str, size: usize) {
    for part in bytes.as_bytes().chunks(size) {
        client.send(part).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reply_is_the_same_however_it_is_cut() {
    let broker = broker();
    let chunks = "5;a=b\r\nhello\r\n00A \r\n, 01234567\r\n0\r\na: b\r\n\r\n";
    for size in [1, 2, 3, 7, 40, 1000] {
        for (fields, sent) in
            [("transfer-encoding: chunked\r\n", chunks), ("content-length: 15\r\n", "hello, 01234567")]
        {
            let HandedOver { mut caller, target } = handed_over(&broker).await;
            let mut worker = broker.client().await;
            send_in_parts(&mut worker, &(head(&target, fields) + sent), size).await;
            let answer = worker.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (200, None), "{size} {fields}");
            assert_eq!(
                caller.reply().await.outcome(),
                (200, "replied", "hello, 01234567"),
                "{size} {fields}"
            );
        }
    }
}

#[tokio::test]
async fn what_follows_a_reply_is_the_next_request() {
    let broker = broker();
    let HandedOver { mut caller, mut target } = handed_over(&broker).await;
    let mut worker = broker.client().await;
    for is_chunked in [true, false, true] {
        let reply = if is_chunked {
            head(&target, "transfer-encoding: chunked\r\n") + &chunk("done") + END
        } else {
            whole(&target, "", "done")
        };
        worker.send(reply + &poll()).await;
        assert_eq!(worker.answer().await.status, 200);
        assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
        broker.wait_for_waiters(1).await;
        caller.client.send(dispatch(&Pool::small("d1"), "?reply=30s", "")).await;
        let run = worker.answer().await;
        target = target_of(&run);
        // The run's connection is the receipt's.
        worker = broker.client().await;
    }
    // Several replies at once: the first is taken, and the others are late.
    let late = whole(&target, "", "late");
    worker.send(whole(&target, "", "done") + &late + &late + &poll()).await;
    assert_eq!(worker.answer().await.status, 200);
    for _ in 0..2 {
        assert_eq!(worker.answer().await.problem(), "reply-gone");
    }
    broker.wait_for_waiters(1).await;
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "done"));
}

#[tokio::test]
async fn fields_that_say_nothing_of_the_body_change_nothing() {
    let broker = broker();
    let chunked = "transfer-encoding: Chunked\r\n";
    for fields in [
        "te: trailers\r\ntrailer: pilotlight-outcome\r\n",
        "upgrade: h2c\r\nhttp2-settings: x\r\nconnection: upgrade\r\n",
        "expect: 200-ok\r\n",
        "user-agent: a worker\r\ncookie: a=b\r\n",
    ] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let mut worker = broker.client().await;
        let trailers = "0\r\npilotlight-outcome: none\r\npilotlight-status: 500\r\n\r\n";
        worker.send(head(&target, &format!("{fields}{chunked}")) + &chunk("abc") + trailers).await;
        assert_eq!(worker.answer().await.status, 200, "{fields}");
        let reply = caller.reply().await;
        assert_eq!((reply.outcome(), reply.is_whole), ((200, "replied", "abc"), true), "{fields}");
    }
}

#[tokio::test]
async fn heads_that_only_hyper_reads_are_heads_of_replies_as_well() {
    let broker = broker();
    for reply in [
        |target: &str| whole(target, "", "abc").replace("HTTP/1.1", "HTTP/1.0"),
        |target: &str| whole(target, "content-length: 3\r\n", "abc"),
        |target: &str| whole(&format!("http://other{target}"), "", "abc"),
        |target: &str| {
            let target = format!("http://other{target}");
            head(&target, "transfer-encoding: chunked\r\n") + &chunk("abc") + "0\r\nx: y\r\n\r\n"
        },
    ] {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let mut worker = broker.client().await;
        assert_eq!(worker.ask(reply(&target)).await.status, 200, "{}", reply(&target));
        assert_eq!(caller.reply().await.outcome(), (200, "replied", "abc"), "{}", reply(&target));
    }
}

#[tokio::test]
async fn a_framing_that_is_not_clear_is_refused_before_the_reply_is_open() {
    let broker = broker();
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    for (fields, status) in [
        ("content-length: 3\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked\r\ncontent-length: 3\r\n", 400),
        ("content-length: 3\r\ncontent-length: 4\r\n", 400),
        ("content-length: 3, 3\r\n", 400),
        ("content-length: +3\r\n", 400),
        ("content-length: 0x3\r\n", 400),
        ("content-length: 18446744073709551613\r\n", 413),
        ("content-length: 99999999999999999999\r\n", 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: gzip, chunked\r\n", 501),
        ("transfer-encoding: identity\r\n", 400),
        ("transfer-encoding: xchunked\r\n", 400),
        ("host: c\r\ncontent-length: 3\r\n", 400),
    ] {
        let mut worker = broker.client().await;
        worker.send(head(&target, fields) + "3\r\nabc\r\n0\r\n\r\n").await;
        let answers = String::from_utf8_lossy(worker.rest().await).into_owned();
        assert!(answers.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answers}");
        let is_status = |line: &&str| line.starts_with("HTTP/1.1 ");
        assert_eq!(answers.lines().filter(is_status).count(), 1, "{fields}: {answers}");
    }
    assert!(is_silent(&mut caller).await, "the reply is still awaited");
    assert_eq!(broker.client().await.ask(whole(&target, "", "mine")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "mine"));
}

#[tokio::test]
async fn a_body_that_is_for_nobody_is_read_if_it_is_short_and_there() {
    let broker = broker();
    let HandedOver { caller: _caller, target } = handed_over(&broker).await;
    let forged = target.replace("token=", "token=0");
    let next = "GET /connect HTTP/1.1\r\nhost: b\r\n\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    for (request, is_kept) in [
        (whole(&forged, "", ""), true),
        (whole(&forged, "", &"x".repeat(1024)), true),
        (whole(&forged, "", &"x".repeat(1025)), false),
        (head(&forged, chunked) + &chunk(&"x".repeat(1024)) + END, true),
        (head(&forged, chunked) + &chunk(&"x".repeat(1025)) + END, false),
        (head(&forged, chunked) + "x\r\n", false),
        (head(&forged, chunked) + &chunk("x"), false),
        (head(&forged, "content-length: 5\r\n") + "xxxx", false),
        (whole(&forged, "connection: close\r\n", "x"), false),
    ] {
        let mut worker = broker.client().await;
        let is_whole =
            request.ends_with(END) || !request.contains("\r\n\r\nxxxx") && !request.contains(chunked);
        worker.send(request.clone() + if is_kept || is_whole { next } else { "" }).await;
        let answer = worker.answer().await;
        assert_eq!((answer.status, &*answer.problem()), (403, "bad-reply-token"));
        assert_eq!(answer.header("connection").is_none(), is_kept, "{request}");
        if is_kept {
            assert_eq!(worker.answer().await.status, 200, "{request}");
        }
    }
    // What is refused for another reason, as well.
    for (fields, is_kept) in [("", true), ("expect: 100-continue\r\n", false)] {
        let mut worker = broker.client().await;
        let answer = worker.ask(whole(&target, &format!("origin: x\r\n{fields}"), "abc")).await;
        assert_eq!((answer.status, answer.header("connection").is_none()), (403, is_kept), "{answer:?}");
    }
}

#[tokio::test]
async fn an_open_reply_holds_no_connection_of_others() {
    let broker = broker();
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = open(broker.public, &target, "").await;
    let mut other = broker.client().await;
    assert_eq!(other.ask(post("/v1/pools/nobody/1/1/1", "x")).await.status, 200);
    worker.send(chunk("abc") + END).await;
    assert_eq!(worker.answer().await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "abc"));
    // It can be polled on.
    worker.send(poll()).await;
    broker.wait_for_waiters(1).await;
    caller.client.send(dispatch(&Pool::small("d1"), "?reply=30s", "")).await;
    let again = target_of(&worker.answer().await);
    assert_eq!(broker.client().await.ask(whole(&again, "", "again")).await.status, 200);
    assert_eq!(caller.reply().await.outcome(), (200, "replied", "again"));
}
