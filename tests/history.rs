//! Owns the tests of the history's file: which paths it may have, what happens when it is moved, and slow queries.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::client::Client;
use support::{Broker, Pool};

/// Creates the files that the paths of the table refer to.
fn create_files(folder: &Path) {
    let at = |name: &str| folder.join(name);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("empty.db"), "").unwrap();
    fs::write(at("text.db"), "something else altogether, and long enough to be a page").unwrap();
    let foreign = rusqlite::Connection::open(at("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE things (id INTEGER); PRAGMA user_version = 7").unwrap();
    let namesake = rusqlite::Connection::open(at("namesake.db")).unwrap();
    namesake.execute_batch("CREATE TABLE dispatches (id INTEGER); PRAGMA user_version = 1").unwrap();
    let made = Command::new("mkfifo").arg(at("pipe.db")).status().unwrap();
    assert!(made.success());
    drop(UnixListener::bind(at("socket.db")).unwrap());
    symlink(at("empty.db"), at("link.db")).unwrap();
    symlink(at("nothing"), at("dangling.db")).unwrap();
    symlink(at("loop.db"), at("loop.db")).unwrap();
    symlink(at("folder"), at("linked")).unwrap();
    symlink("/dev/null", at("null.db")).unwrap();
    fs::create_dir(at("blocked.db-wal")).unwrap();
    fs::create_dir(at("lost")).unwrap();
}

fn names(folder: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    entries
        .filter(|name| !name.as_bytes().ends_with(b"-wal") && !name.as_bytes().ends_with(b"-shm"))
        .collect()
}

fn command(subcommand: &str, folder: &Path, history: &OsStr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command
        .arg(subcommand)
        .current_dir(folder)
        .args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--drain-window", "0s"])
        .args(["--log-format", "text", "--history"])
        .arg(history)
        .env("RUST_LOG", "error");
    command
}

/// Starts a broker. The error is what it printed if it did not start.
fn serve(folder: &Path, history: &OsStr) -> Result<(), String> {
    let mut child =
        command("serve", folder, history).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let has_started = child.stdout.as_mut().unwrap().read(&mut [0]).unwrap() == 1;
    if has_started {
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    if has_started { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Paths of a history, each with a part of the error that refuses it. Without an error, the path is usable.
const PATHS: [(&[u8], &str); 37] = [
    (b"new.db", ""),
    (b"./new.db", ""),
    (b"folder/new.db", ""),
    (b"folder/../new.db", ""),
    (b"linked/new.db", ""),
    (b"empty.db", ""),
    (b"link.db", ""),
    (b"./:memory:", ""),
    (b"folder/file:new.db", ""),
    (b"new.db?mode=memory", ""),
    (b"a b#c%20d?.db", ""),
    (b"caf\xe9.db", ""),
    (b"-", ""),
    (b":memory:", "leave it out"),
    (b"file:new.db", "leave it out"),
    (b"file::memory:?cache=shared", "leave it out"),
    (b"file:new.db?mode=memory", "leave it out"),
    (b"folder", "it is a folder"),
    (b"folder/", "names a folder"),
    (b"linked", "it is a folder"),
    (b".", "names a folder"),
    (b"folder/..", "names a folder"),
    (b"empty.db/", "names a folder"),
    (b"empty.db/.", "names a folder"),
    (b"new.db/", "names a folder"),
    (b"missing/new.db", "is not there, or not writable"),
    (b"empty.db/new.db", "cannot be used"),
    (b"pipe.db", "a device, a pipe or a socket"),
    (b"socket.db", "a device, a pipe or a socket"),
    (b"null.db", "a device, a pipe or a socket"),
    (b"/dev/null", "a device, a pipe or a socket"),
    (b"dangling.db", "leads to no file"),
    (b"loop.db", "leads to no file"),
    (b"blocked.db", "is in the way"),
    (b"text.db", "not a database"),
    (b"foreign.db", "not a history of this version"),
    (b"namesake.db", "not a history of this version"),
];

#[test]
fn check_and_serve_agree_on_every_path_and_check_creates_nothing() {
    let long = "x".repeat(250);
    let deep = format!("{}x", "folder/../".repeat(60));
    let mut paths: Vec<(OsString, &str)> =
        PATHS.iter().map(|(path, error)| (OsStr::from_bytes(path).to_owned(), *error)).collect();
    paths.push((long.into(), "too long"));
    paths.push((deep.into(), ""));
    if cfg!(target_os = "linux") {
        for path in ["/proc/x", "/proc/version", "/sys/x"] {
            paths.push((path.into(), "cannot be used"));
        }
    }
    for (path, expected) in paths {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        create_files(&folder);
        let before = (names(&folder), names(&folder.join("folder")));
        let checked = command("check", &folder, &path).output().unwrap();
        let error = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!((names(&folder), names(&folder.join("folder"))), before, "check created a file: {path:?}");
        let served = serve(&folder, &path);
        let refused = if checked.status.success() { None } else { Some(error) };
        match (refused, served) {
            (None, Ok(())) => {
                assert_eq!(expected, "", "{path:?} is accepted");
                let created = folder.join(&path);
                assert!(created.metadata().unwrap().len() > 0, "{path:?} does not name the history's file");
                let count = rusqlite::Connection::open_with_flags(
                    created.canonicalize().unwrap(),
                    rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
                )
                .unwrap()
                .query_row("SELECT count(*) FROM dispatches", [], |row| row.get::<_, i64>(0));
                assert_eq!(count.unwrap(), 0, "{path:?}");
            }
            (Some(checked), Err(served)) => {
                assert!(!expected.is_empty(), "{path:?} is refused: {checked}");
                for error in [&checked, &served] {
                    assert!(error.contains("--history") && error.contains(expected), "{path:?}: {error}");
                }
            }
            (checked, served) => panic!("{path:?}: check printed {checked:?}, serve {served:?}"),
        }
    }
}

#[tokio::test]
async fn a_history_that_was_moved_or_deleted_goes_on_at_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let broker = Broker::start(&["--history", file.to_str().unwrap()]);
    let pool = Pool::small("d1");
    let post = async |run: &str| {
        broker.post(&pool.body(run)).await;
        let found = async || broker.operate("GET", &format!("/runs/{run}")).await.0 == 200;
        broker.wait_until(&format!("{run} is found"), found).await;
    };
    post("run_1").await;
    fs::rename(&file, folder.path().join("moved.db")).unwrap();
    post("run_2").await;
    assert_eq!(broker.operate("GET", "/runs/run_1").await.0, 404, "run_1 is in the file that was moved");
    assert_eq!(broker.metric("pilotlight_history_reopened_total").await, 1);
    fs::remove_file(&file).unwrap();
    // It is also noticed while no run is posted.
    broker.wait_for_metric("pilotlight_history_reopened_total", 2).await;
    let rows: Value = serde_json::from_str(&broker.operate("GET", "/runs").await.1).unwrap();
    assert_eq!(rows["runs"].as_array().unwrap().len(), 0, "{rows}");
    post("run_3").await;
    assert_eq!(broker.metric("pilotlight_history_dropped_total").await, 0);
    let moved = rusqlite::Connection::open(folder.path().join("moved.db")).unwrap();
    let run: String = moved.query_row("SELECT run FROM dispatches", [], |row| row.get(0)).unwrap();
    assert_eq!(run, "run_1");
}

#[tokio::test]
async fn queries_that_find_nothing_delay_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    let broker = Broker::start(&["--history", file.to_str().unwrap()]);
    let pool = Pool::small("d1");
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
             INSERT INTO dispatches (at, run, deployment, version, cpu, memory, outcome, offers, seconds)
             SELECT i, 'old_' || i, 'd', 'v', 1, 1, 'miss', 0, 0 FROM n",
        )
        .unwrap();
    broker.post(&pool.body("run_1")).await;
    let mut scans = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(broker.ops).await;
        client.send("GET /runs?deployment=nobody HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        scans.push(client);
    }
    let found = async || broker.operate("GET", "/runs/run_1").await.0 == 200;
    broker.wait_until("the run is found", found).await;
    for mut scan in scans {
        let answer = scan.answer().await;
        // On a busy machine a query may take longer than it is allowed to.
        assert!(answer.status == 200 || answer.problem() == "history-too-slow", "{answer:?}");
    }
}
