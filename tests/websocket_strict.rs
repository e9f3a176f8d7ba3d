//! Owns the end-to-end tests of WebSockets that misbehave: each loses its own connection, and nobody else loses anything.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::client::Client;
use support::cluster::{dispatch, native_poll, native_post, outcome};
use support::session_bytes::{BINARY, CLOSE, PING, PONG, TEXT, masked_frame, take_frame};
use support::websocket::{Message, WebSocket, handshake, named};
use support::{Broker, PATIENCE, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONTINUATION: u8 = 0x80;
/// Without it, a frame is a fragment that others follow.
const LAST: u8 = 0x80;
const READY: &str = r#"{"type":"ready","slots":1}"#;

/// The broker of a test, and those who wait in the same pool and do nothing wrong.
struct Scene {
    broker: Broker,
    pool: Pool,
    poll: Client,
    socket: WebSocket,
}

/// The waiters of a scene.
const OTHERS: u64 = 2;

impl Scene {
    async fn new() -> Self {
        let broker = Broker::proving("received", &[]);
        let pool = Pool::small("d1");
        let poll = native_poll(&broker, &pool, "a good poll").await;
        let socket = WebSocket::held(&broker, &pool, "a good socket", 1).await;
        Self { broker, pool, poll, socket }
    }

    /// A controller with one slot, who is about to misbehave.
    async fn offender(&self) -> WebSocket {
        WebSocket::held(&self.broker, &self.pool, "an offender", 1).await
    }

    /// The slots of offenders have left their pool, and the others still wait: each takes one run at its first offer.
    async fn is_unharmed(&mut self) {
        self.broker.wait_for_waiters(OTHERS).await;
        let run = |name| dispatch(&self.broker, &self.pool, "", name, b"payload");
        let (first, second, taken, response) =
            tokio::join!(run("job-1"), run("job-2"), self.socket.take(), self.poll.answer());
        for answer in [first.json(), second.json()] {
            assert_eq!(outcome(&answer), (true, "received", 1), "{answer}");
        }
        assert_eq!((&taken.payload[..], &response.body[..]), (&b"payload"[..], &b"payload"[..]));
    }
}

/// Frames that end a connection, and the code that they end it with.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let text = |text: &[u8]| masked_frame(TEXT, text);
    let part = |opcode: u8, text: &[u8]| masked_frame(opcode & !LAST, text);
    let close = |code: u16, reason: &[u8]| masked_frame(CLOSE, &[&code.to_be_bytes(), reason].concat());
    let head = |first: u8, length: &[u8]| [&[first], length, &[0; 4]].concat();
    vec![
        ("an unmasked message", [&[TEXT, 26], READY.as_bytes()].concat(), 1002),
        ("an unmasked ping", vec![PING, 0], 1002),
        ("a reserved bit", masked_frame(TEXT | 0x10, READY.as_bytes()), 1002),
        ("a compressed message", masked_frame(TEXT | 0x40, READY.as_bytes()), 1002),
        ("a reserved opcode", masked_frame(LAST | 3, b""), 1002),
        ("a reserved control frame", masked_frame(LAST | 15, b""), 1002),
        ("a request", b"GET /v1/pools/d1/20260821.3/0.5/0.5 HTTP/1.1\r\nhost: b\r\n\r\n".to_vec(), 1002),
        ("a fragment of a ping", part(PING, b"ping"), 1002),
        ("a long ping", masked_frame(PING, &[0; 126]), 1002),
        ("a long pong", masked_frame(PONG, &[0; 126]), 1002),
        ("a continuation of nothing", masked_frame(CONTINUATION, READY.as_bytes()), 1002),
        ("a message within another", [part(TEXT, b"{"), text(READY.as_bytes())].concat(), 1002),
        ("a length in more bytes than it needs", head(TEXT, &[0xfe, 0, 5]), 1002),
        ("a length in eight bytes that fits in two", head(TEXT, &[0xff, 0, 0, 0, 0, 0, 0, 1, 0]), 1002),
        ("half of a close code", masked_frame(CLOSE, b"\x03"), 1002),
        ("a close code that is not for the wire", close(1006, b""), 1002),
        ("text that is not UTF-8", text(b"{\"type\":\"\xff\"}"), 1007),
        ("a surrogate", text(b"{\"type\":\"\xed\xa0\x80\"}"), 1007),
        ("a fragment that cannot become UTF-8", part(TEXT, b"{\"\xf4\x90"), 1007),
        ("a reason that is not UTF-8", close(1000, b"\xff"), 1007),
        ("a message of 4097 bytes", head(TEXT, &[0xfe, 0x10, 0x01]), 1009),
        ("fragments of 4097 bytes", [part(TEXT, &[b' '; 4096]), head(CONTINUATION, &[0x81])].concat(), 1009),
        ("a message of 2^63 bytes", head(TEXT, &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1009),
        ("a binary message", masked_frame(BINARY, READY.as_bytes()), 1003),
        ("an endless binary message", head(BINARY & !LAST, &[0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0]), 1003),
    ]
}

#[tokio::test]
async fn a_violation_ends_its_own_connection_with_its_code() {
    let mut scene = Scene::new().await;
    for (what, bytes, code) in violations() {
        let mut offender = scene.offender().await;
        offender.client.send(&bytes).await;
        let (told, reason) = offender.close().await.unwrap_or_default();
        assert_eq!(told, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
        scene.broker.wait_for_waiters(OTHERS).await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_violation_that_comes_byte_by_byte_ends_like_one_at_once() {
    let mut scene = Scene::new().await;
    for (what, bytes, code) in violations() {
        let mut offender = scene.offender().await;
        for byte in &bytes {
            // The broker may have refused the bytes before.
            if offender.client.stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        assert_eq!(offender.close_code().await, code, "{what}");
        scene.broker.wait_for_waiters(OTHERS).await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn what_follows_a_violation_or_a_close_is_ignored() {
    let mut scene = Scene::new().await;
    let ready = masked_frame(TEXT, READY.as_bytes());
    for (end, code) in [(masked_frame(CLOSE, b""), 1000), (masked_frame(BINARY, b"x"), 1003)] {
        let mut offender = scene.offender().await;
        offender.client.send([end, ready.repeat(100)].concat()).await;
        assert_eq!(offender.close_code().await, code);
        scene.broker.wait_for_waiters(OTHERS).await;
    }
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte_and_messages_at_once_behind_it() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let mut slow = broker.client().await;
    for byte in handshake(&pool.path(), &named("slow")).bytes() {
        slow.send([byte]).await;
    }
    let mut slow = WebSocket::open(slow, "").await.unwrap();
    slow.ready(1).await;
    broker.wait_for_waiters(1).await;
    // Cut within the head, at its end, and within the frame behind it.
    let mut sockets = Vec::new();
    for after_head in [-100, -1, 0, 1, 2, 7, 32] {
        let head = handshake(&pool.path(), &named(&format!("cut after {after_head}")));
        let bytes = [head.as_bytes(), &masked_frame(TEXT, READY.as_bytes())].concat();
        let (first, second) = bytes.split_at(head.len().checked_add_signed(after_head).unwrap());
        let mut client = broker.client().await;
        client.send(first).await;
        client.send(second).await;
        sockets.push(WebSocket::open(client, "").await.unwrap());
        broker.wait_for_waiters(1 + sockets.len() as u64).await;
    }
}

#[tokio::test]
async fn an_extension_is_offered_in_vain() {
    let broker = Broker::start(&[]);
    let pool = Pool::small("d1");
    let fields = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let mut client = broker.client().await;
    client.send(handshake(&pool.path(), fields)).await;
    let answer = client.bare_answer().await;
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None));
    // Frames are read as without one.
    client.send(masked_frame(TEXT, READY.as_bytes())).await;
    broker.wait_for_waiters(1).await;
}

#[tokio::test]
async fn a_violation_behind_the_handshake_ends_an_opened_connection() {
    let mut scene = Scene::new().await;
    let request = handshake(&scene.pool.path(), &named("an offender"));
    for (what, bytes, code) in violations() {
        let mut client = scene.broker.client().await;
        client.send([request.as_bytes(), &bytes].concat()).await;
        let mut offender = WebSocket::open(client, "").await.unwrap();
        assert_eq!(offender.close_code().await, code, "{what}");
    }
    scene.is_unharmed().await;
}

/// A message in fragments of one byte, with empty ones and pongs in between.
fn in_fragments(message: &[u8]) -> Vec<u8> {
    let mut bytes = masked_frame(TEXT & !LAST, b"");
    for byte in message {
        bytes.extend(masked_frame(CONTINUATION & !LAST, &[*byte]));
        bytes.extend(masked_frame(CONTINUATION & !LAST, b""));
        bytes.extend(masked_frame(PONG, b"unasked"));
    }
    bytes.extend(masked_frame(CONTINUATION, b""));
    bytes
}

#[tokio::test]
async fn the_longest_message_may_come_in_fragments_of_one_byte_and_no_longer_one() {
    let mut scene = Scene::new().await;
    let longest = format!("{READY:4096}");
    let mut socket = scene.offender().await;
    socket.client.send(in_fragments(longest.as_bytes())).await;
    scene.broker.wait_for_waiters(OTHERS + 2).await;
    socket.client.send(in_fragments(format!("{longest} ").as_bytes())).await;
    assert_eq!(socket.close_code().await, 1009);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_message_that_never_ends_costs_nobody_else_anything() {
    let mut scene = Scene::new().await;
    let mut endless = scene.offender().await;
    endless.send_frame(TEXT & !LAST, b"{").await;
    let empty = masked_frame(CONTINUATION & !LAST, b"").repeat(10_000);
    for _ in 0..10 {
        endless.client.send(&empty).await;
    }
    // It is still read, and its slot still waits.
    endless.send_frame(PING, b"there").await;
    assert_eq!(endless.message().await, Message::Pong(b"there".to_vec()));
    assert_eq!(scene.broker.waiters("").await, OTHERS + 1);
    drop(endless);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_while_others_are_served() {
    const PINGS: u32 = 20_000;
    let mut scene = Scene::new().await;
    let flooding = scene.offender().await;
    let pings: Vec<u8> = (0..PINGS).flat_map(|number| masked_frame(PING, &number.to_be_bytes())).collect();
    let (mut read, mut write) = flooding.client.stream.into_split();
    let flood = async { write.write_all(&pings).await.unwrap() };
    let answers = async {
        let mut received = Vec::new();
        let mut last = None;
        while last != Some(PINGS - 1) {
            assert!(read.read_buf(&mut received).await.unwrap() > 0);
            while let Some((first, payload)) = take_frame(&mut received) {
                let number = u32::from_be_bytes(payload[..].try_into().unwrap());
                assert!(first == PONG && last < Some(number), "{number} after {last:?}");
                last = Some(number);
            }
        }
    };
    let both = async { tokio::join!(flood, answers) };
    tokio::time::timeout(PATIENCE, both).await.expect("an answer to the last ping");
    drop((read, write));
    scene.is_unharmed().await;
}

/// A controller whose kernel takes hardly any bytes that it does not read.
async fn narrow(scene: &Scene, slots: u64) -> WebSocket {
    let client = Client::connect_narrow(scene.broker.public, 16 * 1024).await;
    let request = handshake(&scene.pool.path(), &named("an offender"));
    let mut socket = WebSocket::open(client, &request).await.unwrap();
    socket.ready(slots).await;
    scene.broker.wait_for_waiters(OTHERS + slots).await;
    socket
}

/// Of more pings than it can answer, the broker answers the latest (RFC 6455, 5.5.3).
#[tokio::test]
async fn a_client_that_pings_and_does_not_read_gets_the_latest_pong_later() {
    const PINGS: u32 = 100_000;
    let mut scene = Scene::new().await;
    let mut deaf = narrow(&scene, 1).await;
    let ping = |number: u32| masked_frame(PING, &[&number.to_be_bytes()[..], &[0; 100]].concat());
    deaf.client.send((0..PINGS).flat_map(ping).collect::<Vec<u8>>()).await;
    // Its slot is not offered while a pong waits to be written.
    scene.broker.wait_for_waiters(OTHERS).await;
    let (mut count, mut last) = (0, 0);
    while last != PINGS - 1 {
        let next = tokio::time::timeout(PATIENCE, deaf.message()).await;
        let Ok(Message::Pong(payload)) = next else { panic!("{next:?} after {last}") };
        (count, last) = (count + 1, u32::from_be_bytes(*payload.first_chunk().unwrap()));
    }
    assert!(count < PINGS, "more than it had room for");
    scene.broker.wait_for_waiters(OTHERS + 1).await;
    drop(deaf);
    scene.is_unharmed().await;
}

#[tokio::test]
async fn a_reader_that_never_reads_costs_its_own_runs_only() {
    let mut scene = Scene::new().await;
    let mut deaf = narrow(&scene, 3).await;
    let mut supervisor = scene.broker.client().await;
    supervisor.send(native_post(&scene.pool, "", "large", &vec![b'x'; 4 << 20])).await;
    // The other slots of the same connection are not offered behind an unfinished run.
    scene.is_unharmed().await;
    let answer = supervisor.answer().await.json();
    assert!(matches!(outcome(&answer), (false, _, 1)), "{answer}");
    // What it had received before the reset is no whole run.
    assert_eq!(deaf.close().await, None);
}
