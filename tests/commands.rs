//! Owns the commands that serve nobody: what `check` finds and leaves alone, what stands in help and the manual page.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this file is tests only")]

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const FREE: [&str; 4] = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];

fn pilotlight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(arguments).output().unwrap()
}

fn check(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = pilotlight(&[&["check"], arguments].concat());
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A broker that serves, with this in `RUST_LOG`.
fn running(arguments: &[&str], log: &str) -> Child {
    let mut broker = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .args(FREE)
        .args(["--drain-window", "0s"])
        .args(arguments)
        .envs([("RUST_LOG", log), ("PILOTLIGHT_LOG_FORMAT", "text")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    broker.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    broker
}

/// Ends a broker politely: whether it ended well, and what it has logged.
fn ended(broker: Child) -> (bool, String) {
    kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
    let Output { status, stderr, .. } = broker.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_makes_no_history_and_says_what_keeps_one_from_being_made() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.sqlite");
    let (code, said, _) = check(&[&FREE[..], &["--history", history.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("all is well\n"), "{said}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);

    let broker = running(&["--history", history.to_str().unwrap()], "error");
    assert!(ended(broker).0);
    let (code, said, wrong) = check(&[&FREE[..], &["--history", history.to_str().unwrap()]].concat());
    assert_eq!((code, wrong.as_str()), (Some(0), ""), "{said}");
    let beside: Vec<_> = folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(beside, ["history.sqlite"]);

    let nowhere = folder.path().join("missing/history.sqlite");
    let (code, _, wrong) = check(&[&FREE[..], &["--history", nowhere.to_str().unwrap()]].concat());
    assert_eq!(code, Some(1));
    assert!(wrong.contains("missing is not there"), "{wrong}");

    std::fs::write(&history, "something else altogether, and long enough to be a page").unwrap();
    let (code, _, wrong) = check(&[&FREE[..], &["--history", history.to_str().unwrap()]].concat());
    assert_eq!(code, Some(1));
    assert!(wrong.contains("cannot be used"), "{wrong}");
}

/// Settings are checked before a restart or a reload, while the broker that they are for has its addresses.
#[test]
fn check_takes_an_address_in_use_for_a_brokers_but_not_two_of_its_own() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = broker.local_addr().unwrap().to_string();
    let port = broker.local_addr().unwrap().port();
    let (code, said, wrong) = check(&["--listen", &taken, "--ops-listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(0), "{wrong}");
    assert!(said.contains(&format!("in use:\n  --listen {taken}\n")), "{said}");

    for ops in [taken.clone(), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        let (code, _, wrong) = check(&["--listen", &taken, "--insecure-no-auth", "--ops-listen", &ops]);
        assert_eq!(code, Some(2), "{ops}");
        assert!(wrong.contains("are one address"), "{wrong}");
    }
    let (code, said, wrong) = check(&["--listen", &format!("127.0.0.2:{port}"), "--ops-listen", &taken]);
    assert_eq!(code, Some(0), "{said}{wrong}");
}

#[test]
fn a_wrong_variable_is_named() {
    let refused = Command::new(env!("CARGO_BIN_EXE_pilotlight"))
        .arg("check")
        .env("PILOTLIGHT_DISPATCH_LISTEN", "")
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("PILOTLIGHT_DISPATCH_LISTEN") && said.contains("127.0.0.1:7070"), "{said}");

    let said = String::from_utf8(pilotlight(&["--dispatch-listen="]).stderr).unwrap();
    assert!(!said.contains("environment"), "{said}");
}

#[test]
fn help_and_check_fit_80_columns() {
    let commands: [&[&str]; 8] =
        [&[], &["serve"], &["demo"], &["check"], &["man"], &["completions"], &["config"], &["config", "env"]];
    for command in commands {
        for help in ["-h", "--help"] {
            let said = String::from_utf8(pilotlight(&[command, &[help]].concat()).stdout).unwrap();
            let wide: Vec<_> = said.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(said.contains("Usage:") && wide.is_empty(), "{command:?} {help}: {wide:?}");
        }
    }
    let (_, said, _) = check(&FREE);
    let wide: Vec<_> = said.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
}

#[test]
fn the_manual_page_has_every_setting_and_command_and_names_no_other_page() {
    let page = String::from_utf8(pilotlight(&["man"]).stdout).unwrap().replace('\\', "");
    let settings = String::from_utf8(pilotlight(&["config", "env"]).stdout).unwrap();
    let variables = settings
        .lines()
        .filter_map(|line| line.split(['=', ' ']).find(|word| word.starts_with("PILOTLIGHT_")));
    let mut counted = 0;
    for variable in variables {
        let flag = variable.trim_start_matches("PILOTLIGHT_").to_lowercase().replace('_', "-");
        assert!(page.contains(&format!("fB--{flag}fR")), "--{flag}");
        counted += 1;
    }
    assert!(counted > 30, "{settings}");
    for section in [".SS serve", ".SS demo", ".SS check", ".SS config default", "--rate"] {
        assert!(page.contains(section), "{section}");
    }
    assert!(!page.contains("pilotlight-"), "another page is named");
}

/// What stands in `RUST_LOG` comes on top of the default.
#[test]
fn a_typing_error_in_rust_log_silences_nothing() {
    for (asked, is_heard) in [("debgu", true), ("hyper=debug", true), ("", true), ("error", false)] {
        let (is_well, said) = ended(running(&["--log-format", "text"], asked));
        assert!(is_well, "{asked}: {said}");
        assert_eq!(said.contains("INFO"), is_heard, "{asked}: {said}");
    }
}
