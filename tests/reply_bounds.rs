//! Owns the tests of what a reply may cost: a slow caller, callers and workers that vanish at any moment, proxies in between.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::proxy::{NGINX, start};
use support::replies::{Caller, END, HandedOver, chunk, handed_over, open, target, waiting, whole};
use support::{Broker, PATIENCE, Pool};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn broker() -> Broker {
    Broker::proving("received", &[])
}

fn pool() -> Pool {
    Pool::small("d1")
}

/// Bytes in the kernel that a socket has to send, and that nobody has read from it.
fn queues(socket: &TcpStream) -> (usize, usize) {
    let name = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("IPv4") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let names = [socket.local_addr(), socket.peer_addr()].map(|address| name(address.unwrap()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let line = table.lines().map(fields).find(|fields| fields[1..3] == names).expect("the socket");
    let (to_send, to_read) = line[4].split_once(':').unwrap();
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    (number(to_send), number(to_read))
}

#[tokio::test]
async fn what_a_caller_does_not_read_waits_with_its_worker() {
    let broker = broker();
    let mut poll = waiting(&broker, &pool()).await;
    let mut caller = Caller::post(broker.public, &pool(), "?reply=30s", "").await;
    let target = target(&poll.answer().await);
    let mut worker = open(broker.public, &target, "").await;
    let piece = chunk(&"x".repeat(10_000));
    let mut written = 0;
    // Until nothing moves for a while.
    let mut write = async |bytes: &[u8]| {
        let some = worker.stream.write(bytes);
        tokio::time::timeout(Duration::from_millis(500), some).await.map(Result::unwrap)
    };
    let mut rest: &[u8] = piece.as_bytes();
    while let Ok(sent) = write(rest).await {
        written += sent;
        rest = if sent == rest.len() { piece.as_bytes() } else { &rest[sent..] };
    }
    let (worker_holds, _) = queues(&worker.stream);
    let (_, caller_holds) = queues(&caller.client.stream);
    let broker_holds = written - worker_holds - caller_holds;
    // The heads and lengths of chunks are in one of the numbers only.
    assert!(broker_holds <= 64 * 1024, "{broker_holds} of {written}");
    // Others are served meanwhile.
    let HandedOver { caller: mut other, target: other_target } = handed_over(&broker).await;
    assert_eq!(broker.client().await.ask(whole(&other_target, "", "quick")).await.status, 200);
    assert_eq!(other.reply().await.outcome(), (200, "replied", "quick"));
    // A caller that reads in the end gets every byte.
    let ending = async {
        worker.send(rest).await;
        worker.send(END).await;
    };
    let reply = tokio::join!(ending, caller.reply()).1;
    assert!(reply.is_whole && reply.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(reply.body.len() % 10_000, 0);
    assert_eq!(worker.answer().await.status, 200);
}

#[tokio::test]
async fn a_caller_that_reads_a_byte_at_a_time_slows_its_own_worker_only() {
    let broker = broker();
    let HandedOver { mut caller, target } = handed_over(&broker).await;
    let mut worker = broker.client().await;
    let body = "y".repeat(300_000);
    let request = whole(&target, "", &body);
    let writing = async {
        worker.send(request).await;
        worker.answer().await.status
    };
    let reading = async {
        let begun = Instant::now();
        let mut byte = [0];
        while begun.elapsed() < Duration::from_millis(500) {
            tokio::io::AsyncReadExt::read_exact(&mut caller.client.stream, &mut byte).await.unwrap();
            let HandedOver { caller: mut other, target } = handed_over(&broker).await;
            let asked = Instant::now();
            assert_eq!(broker.client().await.ask(whole(&target, "", "quick")).await.status, 200);
            assert_eq!(other.reply().await.outcome(), (200, "replied", "quick"));
            assert!(asked.elapsed() < PATIENCE / 4);
        }
        caller.client.rest_within(Duration::from_secs(2)).await;
    };
    assert_eq!(tokio::join!(writing, reading).0, 200);
}

#[tokio::test]
async fn a_worker_that_dies_at_any_moment_never_ends_a_reply_well() {
    let broker = broker();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..1000 {
        let HandedOver { mut caller, target } = handed_over(&broker).await;
        let is_chunked = random.bool();
        let mut worker = if is_chunked {
            open(broker.public, &target, "").await
        } else {
            let mut worker = broker.client().await;
            worker.send(format!("POST {target} HTTP/1.1\r\nhost: b\r\ncontent-length: 9\r\n\r\n")).await;
            worker
        };
        let sent = random.usize(..3);
        for _ in 0..sent {
            worker.send(if is_chunked { chunk("abc") } else { "abc".to_owned() }).await;
            if random.bool() {
                tokio::task::yield_now().await;
            }
        }
        if is_chunked && random.bool() {
            // A part of the end is no end.
            worker.send(&END[..random.usize(..END.len())]).await;
        }
        if random.bool() {
            worker.stream.set_zero_linger().unwrap();
        }
        drop(worker);
        let reply = caller.reply().await;
        if reply.head.status == 502 {
            assert_eq!(reply.problem().1, "reply_broken");
        } else {
            assert!(!reply.is_whole, "round {round}: {reply:?}");
            assert!("abcabc".as_bytes().starts_with(&reply.body), "round {round}");
        }
    }
    broker.wait_for_metric("pilotlight_replies_total{outcome=\"reply_broken\"}", 1000).await;
    broker.wait_for_metric("pilotlight_replies_open", 0).await;
}

#[tokio::test]
async fn behind_nginx_a_reply_comes_whole_and_piece_by_piece_where_it_does_not_buffer_requests() {
    let broker = Broker::proving("received", &["--behind-proxy", "127.0.0.0/8"]);
    for (headers, is_buffered) in
        [("", true), ("proxy_request_buffering off; proxy_set_header Connection '';", false)]
    {
        let configuration = NGINX.replace("{headers}", headers);
        let Some(proxy) = start(&broker, &configuration, "nginx -c {folder}/configuration -p {folder}")
        else {
            return;
        };
        let mut poll = waiting(&broker, &pool()).await;
        let mut caller = Caller::post(proxy.address, &pool(), "?reply=30s", "").await;
        let target = target(&poll.answer().await);
        let mut worker = open(proxy.address, &target, "").await;
        worker.send(chunk("data: 1\n\n")).await;
        let came_early = tokio::time::timeout(Duration::from_millis(500), caller.client.next_bytes()).await;
        assert_eq!(came_early.is_err(), is_buffered, "{headers}");
        worker.send(END).await;
        assert_eq!(worker.answer().await.status, 200);
        let reply = caller.reply().await;
        assert_eq!(reply.outcome(), (200, "replied", "data: 1\n\n"));
    }
}
