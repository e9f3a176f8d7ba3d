//! Owns functions as a worker's Runtime API serves them: a runtime in Python, whose events say what to do.

use std::time::Instant;

use serde_json::{Value, json};

use super::worker::{Caller, Folder, Worker};
use super::{Broker, PATIENCE, Pool};

/// A runtime of Python's standard library. An event is Python that it executes, with `runtime`, and with the answer that it has
/// got to each request in the marks `answers`.
pub const RUNTIME: &str = r#"
import http.client, json, threading
ROOT = "/2018-06-01/runtime/"
class Runtime:
    def __init__(self):
        self.connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    def ask(self, method, path, body=None, headers={}, **options):
        self.connection.request(method, path, body, headers, **options)
        answer = self.connection.getresponse()
        body = answer.read()
        mark("answers", f"{method} {answer.status} {answer.headers['content-type']}")
        return answer, body
    def next(self):
        answer, event = self.ask("GET", ROOT + "invocation/next")
        self.headers, self.id = answer.headers, answer.headers["Lambda-Runtime-Aws-Request-Id"]
        return json.loads(event)
    def post(self, what, body, headers={}, **options):
        return self.ask("POST", f"{ROOT}invocation/{self.id}/{what}", body, headers, **options)
    def respond(self, value, headers={}):
        return self.post("response", json.dumps(value), headers)
    def fail(self, kind, message):
        document = {"errorType": kind, "errorMessage": message, "stackTrace": []}
        return self.post("error", json.dumps(document), {"Lambda-Runtime-Function-Error-Type": kind})
    def break_off(self):
        "A response of which only a part is sent."
        connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        connection.putrequest("POST", f"{ROOT}invocation/{self.id}/response")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        connection.send(b"half")
        connection.close()
    def stream(self):
        "A response that is written piece by piece."
        connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        connection.putrequest("POST", f"{ROOT}invocation/{self.id}/response")
        connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.putheader("Trailer", "Lambda-Runtime-Function-Error-Type")
        connection.putheader("Content-Type", "text/event-stream")
        connection.endheaders()
        return connection
def piece(stream, data): stream.send(b"%x\r\n%s\r\n" % (len(data), data))
def end(stream, trailers=""):
    stream.send(b"0\r\n" + trailers.encode() + b"\r\n")
    answer = stream.getresponse()
    mark("answers", f"POST {answer.status} {answer.headers['content-type']}")
def serve():
    runtime = Runtime()
    while True:
        event = runtime.next()
        exec(event["do"])
"#;

/// What most functions do.
pub const SERVE: &str = "mark('ids', os.getpid())\nserve()";

/// A broker, and a worker with a function.
pub struct FunctionScene {
    pub broker: Broker,
    pub folder: Folder,
    pub pool: Pool,
    pub worker: Worker,
}

impl FunctionScene {
    /// A function that executes its events.
    pub async fn new(arguments: &[&str]) -> Self {
        Self::with(arguments, &[], SERVE).await
    }

    /// A function in Python, once it waits.
    pub async fn with(arguments: &[&str], environment: &[(&str, &str)], program: &str) -> Self {
        let scene = Self::starting(arguments, environment, program);
        scene.broker.wait_until("a function waits", async || scene.broker.waiters("").await > 0).await;
        scene
    }

    /// The same before it waits.
    pub fn starting(arguments: &[&str], environment: &[(&str, &str)], program: &str) -> Self {
        let (broker, folder) = (Broker::proving("received", &["--body-limit", "8MiB"]), Folder::new());
        let pool = Pool::new("resize", "$LATEST", "0", "0");
        let script = folder.script(&format!("{RUNTIME}{program}"));
        let arguments = [&["--runtime-api"], arguments].concat();
        let command = ["python3", script.to_str().unwrap()];
        let worker = Worker::running_with(broker.public, &pool, &folder, &arguments, &command, environment);
        Self { broker, folder, pool, worker }
    }

    /// Posts an event that does this, until a program takes it: the next one may still be starting.
    pub async fn post(&self, code: &str) -> Caller {
        self.post_bytes(&event(code)).await
    }

    pub async fn post_bytes(&self, payload: &str) -> Caller {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let caller = Caller::post(&self.broker, &self.pool, "reply=20s&wait=1s", payload).await;
            if caller.header("pilotlight-outcome") != "miss" {
                return caller;
            }
            assert!(Instant::now() < deadline, "no program within {PATIENCE:?}");
        }
    }

    /// What an event that does this is answered with.
    pub async fn value(&self, code: &str) -> Value {
        let mut caller = self.post(code).await;
        let text = caller.rest().await.unwrap();
        assert_eq!(caller.status(), 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The type and the message of the error with which an event that does this ends.
    pub async fn error(&self, payload: &str) -> (String, String) {
        let mut caller = self.post_bytes(payload).await;
        let text = caller.rest().await.unwrap();
        assert_eq!((caller.status(), caller.header("pilotlight-outcome")), (502, "worker_error"), "{text}");
        assert_eq!(caller.header("content-type"), "application/json");
        let document: Value = serde_json::from_str(&text).unwrap();
        let member = |name: &str| document[name].as_str().unwrap().to_owned();
        (member("errorType"), member("errorMessage"))
    }

    /// The process ids of the programs so far.
    pub fn programs(&self) -> Vec<String> {
        self.folder.marks("ids")
    }
}

/// An event that does this.
pub fn event(code: &str) -> String {
    json!({ "do": code }).to_string()
}
