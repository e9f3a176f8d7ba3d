//! Owns the requests of the load: what a stock controller and a stock supervisor send, and how a run is recognized.

/// A request of the health route.
pub fn health_request() -> Vec<u8> {
    b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_vec()
}

/// A stock controller's poll.
pub fn poll_request(pool: usize, controller: usize) -> Vec<u8> {
    poll_request_from("worker", pool, controller)
}

/// The same, from a controller on the machine with this name.
pub fn poll_request_from(worker: &str, pool: usize, controller: usize) -> Vec<u8> {
    format!(
        "GET /warm-start HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n\
         x-trigger-workload-controller-id: controller_{controller:08}-0000-4000-8000-000000000000\r\n\
         x-trigger-deployment-id: deployment_{pool:04}\r\nx-trigger-deployment-version: 20260821.3\r\n\
         x-trigger-machine-cpu: 0.5\r\nx-trigger-machine-memory: 0.5\r\nx-trigger-worker-instance-name: {worker}\r\n\
         accept: */*\r\naccept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\n\
         accept-encoding: gzip, deflate\r\n\r\n"
    )
    .into_bytes()
}

/// A poll in the native dialect, of a controller with the same name.
pub fn native_poll_request(pool: usize, controller: usize) -> Vec<u8> {
    native_get(&native_target(pool), controller, "")
}

/// The request that opens a WebSocket of the controller. Its key is that of RFC 6455's example, so the response has
/// [`WEBSOCKET_ACCEPT`].
pub fn websocket_request(pool: usize, controller: usize) -> Vec<u8> {
    websocket_request_to(&native_target(pool), controller)
}

/// The same for the pool at this path.
pub fn websocket_request_to(path: &str, controller: usize) -> Vec<u8> {
    let fields = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: pilotlight.v1\r\n";
    native_get(path, controller, fields)
}

/// What a server computes from the key of [`websocket_request`].
pub const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request that opens a stream of events of the controller, with so many slots.
pub fn event_stream_request(pool: usize, controller: usize, slots: usize) -> Vec<u8> {
    let target = format!("{}?slots={slots}", native_target(pool));
    native_get(&target, controller, "accept: text/event-stream\r\n")
}

fn native_get(target: &str, controller: usize, fields: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nhost: 127.0.0.1:7070\r\n{fields}\
         pilotlight-controller: controller_{controller:08}-0000-4000-8000-000000000000\r\n\r\n"
    )
    .into_bytes()
}

fn native_target(pool: usize) -> String {
    format!("/v1/pools/deployment_{pool:04}/20260821.3/0.5/0.5")
}

/// A stock supervisor's POST.
pub fn dispatch_request(pool: usize) -> Vec<u8> {
    post("/warm-start", "", &format!("{{\"dequeuedMessage\":{}}}", payload(pool, None)))
}

const SNAPSHOT: &str = "snapshot_";
const SNAPSHOT_DIGITS: usize = 12;

/// Gives a dispatch request a new snapshot number: a server that remembers runs would not deliver the same one twice.
/// Other requests stay as they are.
pub fn set_snapshot_number(request: &mut [u8], number: u64) {
    set_digits(request, SNAPSHOT, SNAPSHOT_DIGITS, number);
}

/// Gives a request of [`native_dispatch_request_of`] another run, whose number is known to `run_number`. The payload stays as it
/// is.
pub fn set_run_number(request: &mut [u8], number: u64) {
    set_digits(request, RUN, RUN_DIGITS, number);
}

/// Writes a number over the digits after the first occurrence of the prefix.
fn set_digits(request: &mut [u8], prefix: &str, digits: usize, number: u64) {
    let Some(at) = memchr::memmem::find(request, prefix.as_bytes()) else { return };
    let digits = &mut request[at + prefix.len()..][..digits];
    digits.iter_mut().rev().fold(number, |rest, digit| {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest / 10
    });
}

/// A number that no other request of any supervisor has.
pub fn request_number(supervisor: usize, round: usize) -> u64 {
    supervisor as u64 * ROUNDS + round as u64
}

/// The supervisor of a request with this number.
pub fn supervisor_of(number: u64) -> usize {
    usize::try_from(number / ROUNDS).unwrap_or(usize::MAX)
}

/// More than a supervisor posts.
const ROUNDS: u64 = 1_000_000_000;

/// A stock supervisor's POST of the run with this number.
pub fn dispatch_request_of(pool: usize, run: u64) -> Vec<u8> {
    post("/warm-start", "", &format!("{{\"dequeuedMessage\":{}}}", payload(pool, Some(run))))
}

/// The same run in the native dialect.
pub fn native_dispatch_request_of(pool: usize, run: u64) -> Vec<u8> {
    post(&native_target(pool), &format!("pilotlight-run: {}\r\n", run_name(run)), &payload(pool, Some(run)))
}

/// A POST to a pool that awaits the reply to its run, which is [`REPLY_RUN`].
pub(crate) fn reply_request(pool: usize) -> Vec<u8> {
    post(&format!("{}?reply=30s", native_target(pool)), "", REPLY_RUN)
}

/// The payload of [`reply_request`].
pub(crate) const REPLY_RUN: &str = "a run";

const RUN: &str = "run_";
const RUN_DIGITS: usize = 21;

/// The name of the run with this number.
pub(crate) fn run_name(run: u64) -> String {
    format!("{RUN}{run:0RUN_DIGITS$}")
}

/// The number of a run by its name.
pub(crate) fn run_number(name: &str) -> Option<u64> {
    name.strip_prefix(RUN)?.parse().ok()
}

/// The number of a run that [`dispatch_request_of`] named, and the pool that it was sent to.
pub fn run_and_pool(message: &[u8]) -> Option<(u64, usize)> {
    let number = |prefix: &str| {
        let at = memchr::memmem::find(message, prefix.as_bytes())? + prefix.len();
        let digits = message[at..].iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0')))
    };
    let pool = number("\"friendlyId\":\"deployment_")?;
    Some((number("\"friendlyId\":\"run_")?, usize::try_from(pool).ok()?))
}

fn payload(pool: usize, run: Option<u64>) -> String {
    let example = include_str!("../../tests/data/dequeued-message.json");
    let mut message: serde_json::Value = serde_json::from_str(example).unwrap_or_default();
    message["deployment"]["friendlyId"] = format!("deployment_{pool:04}").into();
    message["snapshot"]["friendlyId"] = format!("{SNAPSHOT}{:0SNAPSHOT_DIGITS$}", run.unwrap_or(0)).into();
    if let Some(run) = run {
        message["run"]["friendlyId"] = run_name(run).into();
    }
    message.to_string()
}

fn post(target: &str, field: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nhost: 127.0.0.1:7070\r\nconnection: keep-alive\r\n{field}\
         content-type: application/json\r\naccept: */*\r\nuser-agent: node\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
