//! Owns the tests of supervision: if a part of the broker ends, the process ends; a part that hangs is reported.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]
#![allow(unsafe_code, reason = "only ptrace stops one thread of another process")]

mod support;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::Shutdown;
use support::{Broker, PATIENCE};

/// A broker with an inherited socket of this name, which this process keeps open, too.
fn command(socket: &TcpListener, name: &str) -> Command {
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_pilotlight")])
        .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--threads", "2"])
        .env("LISTEN_FDNAMES", name)
        .env("RUST_LOG", "error")
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

#[tokio::test]
async fn a_listener_that_dies_ends_the_broker() {
    for name in ["listen", "ops-listen"] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut broker = Broker::run(command(&socket, name).stderr(Stdio::piped()));
        broker.wait_until("it is ready", async || broker.operate("GET", "/readyz").await.0 == 200).await;
        rustix::net::shutdown(&socket, Shutdown::Both).unwrap();
        assert_eq!(broker.ended().await.code(), Some(1), "{name}");
        let mut said = String::new();
        broker.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let listener = if name == "listen" { "public" } else { "ops" };
        assert!(said.contains(&format!("from the {listener} listener")), "{said}");
    }
}

/// Stops one thread of a process until this is dropped.
struct Stopped {
    _go_on: mpsc::SyncSender<()>,
}

impl Stopped {
    /// `None` if the system does not allow it.
    fn thread(process: u32, name: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|entry| entry.unwrap().path());
        let is_it = |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let thread = tasks.into_iter().find(is_it).unwrap();
        let thread: i32 = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let ((go_on, told), (say, done)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
        // Only the thread that began to trace may continue, and the trace ends with it.
        std::thread::spawn(move || {
            // SAFETY: both requests take two numbers, and access no memory of this process.
            let stopped = unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, thread, null_mut::<()>(), null_mut::<()>()) == 0
                    && libc::ptrace(libc::PTRACE_INTERRUPT, thread, null_mut::<()>(), null_mut::<()>()) == 0
            };
            say.send(stopped).unwrap();
            // Returns an error when the sender is dropped.
            let _ = told.recv();
        });
        done.recv().unwrap().then_some(Self { _go_on: go_on })
    }
}

#[tokio::test]
async fn the_watchdog_is_notified_only_while_every_thread_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let hears = |word: &str, time: Duration| {
        let until = std::time::Instant::now() + time;
        let mut buffer = [0; 256];
        while let Some(left) =
            until.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero())
        {
            manager.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = manager.recv(&mut buffer) else { continue };
            if buffer[..length].starts_with(word.as_bytes()) {
                return true;
            }
        }
        false
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker =
        Broker::run(command(&socket, "listen").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000"));
    assert!(hears("READY=1", PATIENCE));
    for _ in 0..3 {
        assert!(hears("WATCHDOG=1", PATIENCE));
    }
    for thread in ["serve-1", "keeper"] {
        let Some(stopped) = Stopped::thread(broker.child.id(), thread) else {
            eprintln!("skipped: no thread can be stopped here");
            return;
        };
        // It may have sent a heartbeat just before.
        hears("WATCHDOG=1", Duration::from_secs(1));
        assert!(!hears("WATCHDOG=1", Duration::from_secs(2)), "{thread} hangs");
        let is_reported =
            async || broker.operate("GET", "/readyz").await == (503, "a thread hangs\n".to_owned());
        broker.wait_until("readiness shows it", is_reported).await;
        drop(stopped);
        assert!(hears("WATCHDOG=1", PATIENCE), "{thread} runs again");
        broker.wait_until("it is ready", async || broker.operate("GET", "/readyz").await.0 == 200).await;
    }
}

#[tokio::test]
async fn the_watchdog_of_another_process_is_not_notified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = command(&socket, "listen");
    let variables = [("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")];
    let broker = Broker::run(command.env("NOTIFY_SOCKET", &path).envs(variables));
    let mut buffer = [0; 256];
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = manager.recv(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"READY=1"));
    manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(manager.recv(&mut buffer).is_err());
    assert_eq!(broker.operate("GET", "/readyz").await.0, 200);
}

#[tokio::test]
async fn a_thread_that_hangs_does_not_delay_the_shutdown() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = command(&socket, "listen");
    let mut broker = Broker::run(command.args(["--drain-window", "0s"]));
    broker.wait_until("it is ready", async || broker.operate("GET", "/readyz").await.0 == 200).await;
    let Some(stopped) = Stopped::thread(broker.child.id(), "serve-1") else {
        eprintln!("skipped: no thread can be stopped here");
        return;
    };
    broker.signal(rustix::process::Signal::TERM);
    let pid = broker.child.id();
    // The process ends; the kernel lists it until nothing traces the thread.
    let over = async || fs::read_to_string(format!("/proc/{pid}/net/tcp")).is_err();
    broker.wait_until("it ends all the same", over).await;
    drop(stopped);
    assert!(broker.ended().await.success());
}

#[tokio::test]
async fn polls_expire_on_time_while_the_ops_thread_is_busy() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = Broker::run(&mut command(&socket, "listen"));
    let mut poll = broker.client().await;
    poll.send("GET /v1/pools/d/1/1/1?timeout=2s HTTP/1.1\r\nhost: b\r\n\r\n").await;
    broker.wait_for_waiters(1).await;
    // Stops the thread of the ops listeners, as if it were always busy.
    let Some(_stopped) = Stopped::thread(broker.child.id(), "pilotlight") else {
        eprintln!("skipped: no thread can be stopped here");
        return;
    };
    assert_eq!(poll.answer().await.status, 204);
}

/// The CPU time of a process's first thread, and of all its threads, in ticks.
fn ticks(process: u32) -> (u64, u64) {
    let of = |stat: String| {
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
    };
    let read = |path: String| fs::read_to_string(path).unwrap();
    (of(read(format!("/proc/{process}/task/{process}/stat"))), of(read(format!("/proc/{process}/stat"))))
}

#[tokio::test]
async fn large_lists_are_built_on_another_thread_than_health_probes() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let broker = Broker::run(&mut command(&socket, "listen"));
    let mut polls = Vec::new();
    for number in 0..300 {
        let mut poll = broker.client().await;
        poll.send(format!("GET /v1/pools/d{number}/1/1/1 HTTP/1.1\r\nhost: b\r\n\r\n")).await;
        polls.push(poll);
    }
    broker.wait_for_waiters(300).await;
    let before = ticks(broker.child.id());
    for _ in 0..100 {
        assert_eq!(broker.pools("").await["pools"].as_array().unwrap().len(), 300);
    }
    let after = ticks(broker.child.id());
    let (first, all) = (after.0 - before.0, after.1 - before.1);
    assert!(first * 2 < all, "{first} of {all} ticks were the first thread's");
}
