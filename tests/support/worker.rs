//! Owns workers in processes of their own, the Python programs that they run, and callers who wait for a reply.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Broker, PATIENCE, Pool};

/// The beginning of each program. A run is Python that the program executes when it has read it.
const PROGRAM: &str = r#"
import os, signal, sys, time
folder = os.environ["FOLDER"]
def mark(name, text=""):
    with open(f"{folder}/{name}", "a") as file: file.write(f"{text}\n")
def gate(name):
    while not os.path.exists(f"{folder}/{name}"): time.sleep(0.002)
def say(text): print(text, end="", flush=True)
"#;

/// What most programs do: they read a run, and execute it.
pub const ONE_RUN: &str = "exec(sys.stdin.read())";

/// A folder in which a test and its programs see what the other has done.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with a program that does this.
    pub fn script(&self, program: &str) -> PathBuf {
        let script = self.path("program.py");
        fs::File::create(&script).unwrap().write_all(format!("{PROGRAM}{program}\n").as_bytes()).unwrap();
        script
    }

    /// Lets programs through a gate.
    pub fn open(&self, gate: &str) {
        fs::write(self.path(gate), "").unwrap();
    }

    /// What programs have marked so far, a line each.
    pub fn marks(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub async fn wait_for_marks(&self, name: &str, count: usize) -> Vec<String> {
        until(&format!("{count} times {name}"), || {
            Some(self.marks(name)).filter(|marks| marks.len() >= count)
        })
        .await
    }
}

/// Waits until something is there.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process has ended; nobody may have waited for it yet.
pub fn has_ended(process: &str) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// A worker, killed when dropped.
pub struct Worker {
    pub child: Child,
    log: fs::File,
}

impl Worker {
    /// Starts a worker whose programs do this. The arguments are the worker's own.
    pub fn start(
        broker: SocketAddr,
        pool: &Pool,
        folder: &Folder,
        arguments: &[&str],
        program: &str,
    ) -> Self {
        let script = folder.script(program);
        Self::running(broker, pool, folder, arguments, &["python3", script.to_str().unwrap()])
    }

    /// Starts a worker of this command.
    pub fn running(
        broker: SocketAddr,
        pool: &Pool,
        folder: &Folder,
        arguments: &[&str],
        command: &[&str],
    ) -> Self {
        Self::running_with(broker, pool, folder, arguments, command, &[])
    }

    /// The same with variables of its environment.
    pub fn running_with(
        broker: SocketAddr,
        pool: &Pool,
        folder: &Folder,
        arguments: &[&str],
        command: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let log = tempfile::tempfile().unwrap();
        let Pool { deployment, version, cpu, memory } = pool;
        let child = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
            .args(["worker", "--broker", &format!("http://{broker}")])
            .args(["--pool", &format!("{deployment}/{version}/{cpu}/{memory}")])
            .args(arguments)
            .arg("--")
            .args(command)
            .env("FOLDER", folder.0.path())
            .env("RUST_LOG", "debug,hyper=off")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        until("the end of the worker", || self.child.try_wait().unwrap()).await
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        let mut log = &self.log;
        log.seek(SeekFrom::Start(0)).unwrap();
        std::io::read_to_string(log).unwrap()
    }

    pub async fn wait_for_log(&self, text: &str) {
        until(&format!("{text} in the log"), || self.log().contains(text).then_some(())).await;
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status"));
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the worker's log:\n{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer to a caller, of which the body is read piece by piece. Dropping it leaves.
pub struct Caller {
    pub response: Response<Incoming>,
    _connection: SendRequest<Full<Bytes>>,
}

impl Caller {
    /// Posts a run to a pool, and waits for the head of the answer.
    pub async fn post(broker: &Broker, pool: &Pool, query: &str, run: &str) -> Self {
        Self::try_post(broker, pool, query, run).await.unwrap()
    }

    pub async fn try_post(broker: &Broker, pool: &Pool, query: &str, run: &str) -> hyper::Result<Self> {
        let stream = TcpStream::connect(broker.dispatch).await.unwrap();
        let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "ends with its sender")]
        tokio::spawn(async {
            let _ = driver.await;
        });
        let request = Request::post(format!("{}?{query}", pool.path())).header("host", "b");
        let request = request.body(Full::from(run.to_owned())).unwrap();
        let response = tokio::time::timeout(PATIENCE, connection.send_request(request)).await;
        Ok(Self { response: response.expect("an answer in time")?, _connection: connection })
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The next piece of the body. None at its end, an error if it is broken off.
    pub async fn bytes(&mut self) -> Option<hyper::Result<Bytes>> {
        let frame = tokio::time::timeout(PATIENCE, self.response.body_mut().frame()).await;
        Some(frame.expect("a piece in time")?.map(|frame| frame.into_data().unwrap()))
    }

    /// The same as text.
    pub async fn piece(&mut self) -> Option<hyper::Result<String>> {
        let piece = self.bytes().await?;
        Some(piece.map(|piece| String::from_utf8(piece.to_vec()).unwrap()))
    }

    /// The rest of the body; an error if it is broken off.
    pub async fn rest(&mut self) -> hyper::Result<String> {
        let mut all = String::new();
        while let Some(piece) = self.piece().await {
            all.push_str(&piece?);
        }
        Ok(all)
    }
}
