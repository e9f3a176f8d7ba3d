//! Owns the tests of memory in a real cgroup: the broker refuses requests before the kernel kills it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::client::Client;
use support::{Broker, Pool, post};
use tokio::io::AsyncWriteExt;

const LIMIT: u64 = 40 << 20;

/// A cgroup with a limit, below the one of this process, and in it one without. Both are removed when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` if no cgroup can be created or limited.
    fn make(name: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path =
            |mark: &str| own.lines().find_map(|line| line.split_once(mark)).map(|(_, path)| path.to_owned());
        let places = [
            (path(":memory:"), "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            (path("0::"), "/sys/fs/cgroup", "memory.max"),
        ];
        places.into_iter().find_map(|(path, mount, limit)| {
            let group = Self(Path::new(mount).join(path?.trim_start_matches('/')).join(name));
            fs::create_dir(&group.0).ok()?;
            // Without the controller the file does not exist, and cannot be created.
            fs::write(group.0.join(limit), LIMIT.to_string()).ok()?;
            fs::create_dir(group.0.join("inner")).ok().map(|()| group)
        })
    }

    /// A broker in the inner cgroup, which the outer one limits.
    fn broker(&self, arguments: &[&str]) -> Broker {
        let script = "echo $$ > \"$0\"/inner/cgroup.procs && exec \"$@\"";
        Broker::run(
            Command::new("sh")
                .args(["-c", script, self.0.to_str().unwrap(), env!("CARGO_BIN_EXE_pilotlight")])
                .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--threads", "1"])
                .args(arguments)
                .env("RUST_LOG", "error"),
        )
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = std::time::Instant::now() + support::PATIENCE;
        // The kernel needs a moment after the last process has ended.
        while (fs::remove_dir(self.0.join("inner")).is_err() || fs::remove_dir(&self.0).is_err())
            && fs::exists(&self.0).unwrap()
            && std::time::Instant::now() < until
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[tokio::test]
async fn polls_are_refused_before_the_kernels_memory_for_sockets_fills_the_cgroup() {
    const MOST: usize = 18_000;
    let name = format!("pilotlight-test-{}", std::process::id());
    let Some(group) =
        Group::make(&name).filter(|_| pilotlight::server::raise_open_files() > MOST as u64 + 512)
    else {
        eprintln!("skipped: no cgroup can be created here, or too few files be opened");
        return;
    };
    let mut broker = group.broker(&["--max-waiters-per-pool", "100000"]);
    let pool = Pool::small("d1");
    let refused = "pilotlight_polls_total{end=\"refused\"}";
    let mut crowd = Vec::new();
    while crowd.len() < MOST && broker.metric(refused).await == 0 {
        for _ in 0..200 {
            let mut client = broker.client().await;
            client.send(pool.poll(&format!("c{}", crowd.len()))).await;
            crowd.push(client);
        }
    }
    assert!(broker.child.try_wait().unwrap().is_none(), "the kernel killed it");
    let held = broker.waiters("").await;
    assert!((500..MOST as u64).contains(&held), "{held} are held in {LIMIT} bytes");
    let answer = Client::connect(broker.dispatch).await.ask(post("/warm-start", &pool.body("r"))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (429, "overloaded"));
    // Closed connections free memory.
    crowd.truncate(100);
    let room = async || broker.post(&Pool::small("d2").body("r")).await.0 == 200;
    broker.wait_until("runs are accepted again", room).await;
    drop((broker, crowd));
}

#[tokio::test]
async fn bodies_are_refused_before_they_fill_the_cgroup() {
    const MIB: usize = 1 << 20;
    let Some(group) = Group::make(&format!("pilotlight-test-bodies-{}", std::process::id())) else {
        eprintln!("skipped: no cgroup can be created here");
        return;
    };
    let mut broker = group.broker(&[]);
    let head = format!("POST /v1/pools/d/1/1/1 HTTP/1.1\r\nhost: b\r\ncontent-length: {MIB}\r\n\r\n");
    let all_but_one = [head.as_bytes(), &vec![b'x'; MIB - 1]].concat();
    let mut posts = Vec::new();
    for _ in 0..100 {
        let mut client = broker.client().await;
        // A write after the refusal may fail with a reset.
        let _ = client.stream.write_all(&all_but_one).await;
        posts.push(client);
    }
    let overloaded = "pilotlight_dispatches_total{outcome=\"miss\",reason=\"overloaded\"}";
    broker.wait_until("most are refused", async || broker.metric(overloaded).await >= 50).await;
    assert!(broker.child.try_wait().unwrap().is_none(), "the kernel killed it");
    let mut last = broker.client().await;
    last.send(post("/warm-start", &Pool::small("d1").body("r"))).await;
    assert_eq!(last.answer().await.status, 200, "a run of the usual size is accepted");
    drop(posts);
}
