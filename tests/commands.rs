//! Owns the tests of commands that only print: what `check` reports and leaves untouched, help, the manual page.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this file is tests only")]

use std::io::{BufRead, Read};
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

/// Starts a broker with this value of `RUST_LOG`, and returns when it serves.
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

/// Sends SIGTERM; returns whether the exit code was 0, and the log.
fn ended(broker: Child) -> (bool, String) {
    kill_process(Pid::from_child(&broker), Signal::TERM).unwrap();
    let Output { status, stderr, .. } = broker.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_creates_no_history_file_and_says_why_one_cannot_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.sqlite");
    let (code, said, _) = check(&[&FREE[..], &["--history", history.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("OK: the broker can start with these settings.\n"), "{said}");
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

/// Settings are checked before a restart or a reload, while the running broker still has the addresses.
#[test]
fn check_accepts_an_address_in_use_but_not_one_address_for_two_listeners() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = broker.local_addr().unwrap().to_string();
    let port = broker.local_addr().unwrap().port();
    let (code, said, wrong) = check(&["--listen", &taken, "--ops-listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(0), "{wrong}");
    assert!(said.contains(&format!("in use:\n  --listen {taken}\n")), "{said}");

    for ops in [taken.clone(), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        let (code, _, wrong) = check(&["--listen", &taken, "--insecure-no-auth", "--ops-listen", &ops]);
        assert_eq!(code, Some(2), "{ops}");
        assert!(wrong.contains("are the same address"), "{wrong}");
    }
    let (code, said, wrong) = check(&["--listen", &format!("127.0.0.2:{port}"), "--ops-listen", &taken]);
    assert_eq!(code, Some(0), "{said}{wrong}");
}

fn check_with(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("check").args(FREE).args(arguments).envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_wrong_variable_is_named() {
    let (code, _, said) = check_with(&[("PILOTLIGHT_DISPATCH_LISTEN", "localhost")], &[]);
    assert_eq!(code, Some(2));
    assert!(said.contains("PILOTLIGHT_DISPATCH_LISTEN") && said.contains("127.0.0.1:7070"), "{said}");

    let said = String::from_utf8(pilotlight(&["--dispatch-listen="]).stderr).unwrap();
    assert!(!said.contains("PILOTLIGHT_"), "{said}");
}

/// The value of a setting and its source, as `check` prints them.
fn line<'a>(said: &'a str, setting: &str) -> Vec<&'a str> {
    let line = said.lines().find(|line| line.split(' ').next() == Some(setting));
    line.unwrap_or_else(|| panic!("no {setting}: {said}")).split_whitespace().skip(1).collect()
}

#[test]
fn an_empty_variable_counts_as_not_set_and_white_space_around_a_value_is_ignored() {
    let empty = [
        ("PILOTLIGHT_DISPATCH_LISTEN", ""),
        ("PILOTLIGHT_ALLOW_POLL", " "),
        ("PILOTLIGHT_MAX_WAITERS", ""),
        ("PILOTLIGHT_REQUIRE_TOKEN", ""),
        ("PILOTLIGHT_TLS_CERT", ""),
        ("PILOTLIGHT_CONFIG", ""),
        ("PILOTLIGHT_PROOF", "\n"),
    ];
    let (code, said, wrong) = check_with(&empty, &[]);
    assert_eq!(code, Some(0), "{wrong}");
    assert_eq!(line(&said, "proof"), ["received", "default"]);
    assert_eq!(line(&said, "require-token"), ["false", "default"]);
    let around = [
        ("PILOTLIGHT_PROOF", "acked\n"),
        ("PILOTLIGHT_MAX_POOLS", " 7 "),
        ("PILOTLIGHT_ALLOW_POLL", "::1, 10.0.0.0/8\n"),
    ];
    let (code, said, wrong) = check_with(&around, &["--max-pools", "8"]);
    assert_eq!(code, Some(0), "{wrong}");
    assert_eq!(line(&said, "proof"), ["acked", "environment"]);
    assert_eq!(line(&said, "max-pools"), ["8", "flag"]);
    let (code, _, wrong) = check_with(&[], &["--allow-poll", ""]);
    assert_eq!(code, Some(2), "an empty list would admit everyone: {wrong}");
}

#[test]
fn a_switch_takes_the_usual_words_and_a_flag_can_turn_it_off() {
    for (word, is_on) in
        [("1", "true"), ("YES", "true"), ("on", "true"), ("0", "false"), ("no", "false"), ("Off", "false")]
    {
        let (code, said, wrong) = check_with(&[("PILOTLIGHT_INSECURE_NO_AUTH", word)], &[]);
        assert_eq!(code, Some(0), "{wrong}");
        assert_eq!(line(&said, "insecure-no-auth"), [is_on, "environment"]);
        let (_, said, _) = check_with(&[], &[&format!("--insecure-no-auth={word}")]);
        assert_eq!(line(&said, "insecure-no-auth"), [is_on, "flag"]);
    }
    let (_, said, _) = check_with(&[("PILOTLIGHT_INSECURE_NO_AUTH", "1")], &["--insecure-no-auth=no"]);
    assert_eq!(line(&said, "insecure-no-auth"), ["false", "flag"]);
    let (code, _, wrong) = check_with(&[("PILOTLIGHT_INSECURE_NO_AUTH", "maybe")], &[]);
    assert!(
        code == Some(2) && wrong.contains("PILOTLIGHT_INSECURE_NO_AUTH") && wrong.contains("yes, no"),
        "{wrong}"
    );
}

#[test]
fn a_misspelt_variable_is_reported_and_those_of_kubernetes_are_not() {
    let secret = "hunter2hunter2";
    let misspelt = [
        ("PILOTLIGHT_LISTN", secret),
        ("PILOTLGHT_OPS_LISTEN", secret),
        ("pilotlight_proof", secret),
        ("PILOTLIGHT_PORT", "7070"),
    ];
    let of_services = [
        ("PILOTLIGHT_SERVICE_HOST", "10.0.0.1"),
        ("PILOTLIGHT_SERVICE_PORT", "7070"),
        ("PILOTLIGHT_SERVICE_PORT_POLL", "7070"),
        ("PILOTLIGHT_OPS_PORT", "tcp://10.0.0.1:7071"),
        ("PILOTLIGHT_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("PILOTLIGHT_PORT_7070_TCP_ADDR", "10.0.0.1"),
    ];
    let (code, said, wrong) = check_with(&[&misspelt[..], &of_services[1..]].concat(), &[]);
    assert_eq!(code, Some(0), "{wrong}");
    for expected in [
        "PILOTLIGHT_LISTN is not a setting; did you mean PILOTLIGHT_LISTEN?",
        "PILOTLGHT_OPS_LISTEN is not a setting; did you mean PILOTLIGHT_OPS_LISTEN?",
        "pilotlight_proof is not a setting; did you mean PILOTLIGHT_PROOF?",
        "PILOTLIGHT_PORT is not a setting; `pilotlight config env`",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("SERVICE") && !said.contains("_TCP") && !said.contains(secret), "{said}");
    assert!(check_with(&of_services, &[]).1.ends_with("OK: the broker can start with these settings.\n"));

    let mut broker = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    broker.args(FREE).args(["--drain-window", "0s", "--log-format", "json"]).env("PILOTLIGHT_LISTN", secret);
    let mut broker = broker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // With a JSON log the greeting is a log line, too: the last one before the broker serves.
    let mut log = std::io::BufReader::new(broker.stderr.take().unwrap());
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &serde_json::Value| line["fields"]["wait"].is_string()) {
        let mut text = String::new();
        log.read_line(&mut text).unwrap();
        lines.push(serde_json::from_str(&text).unwrap());
    }
    let (is_well, _) = ended(broker);
    assert!(is_well);
    let of = |message: &str| {
        let is_it = |line: &&serde_json::Value| {
            line["fields"]["message"].as_str().is_some_and(|said| said.contains(message))
        };
        lines.iter().find(is_it).unwrap_or_else(|| panic!("no {message}: {lines:?}"))["fields"].clone()
    };
    of("PILOTLIGHT_LISTN is not a setting");
    let serving = of("serving");
    assert!(serving["listen"].as_str().unwrap().starts_with("127.0.0.1:"), "{serving}");
    assert!(serving["max_waiters"].is_u64() && serving["dispatch_listen"].is_null(), "{serving}");
    assert!(of("waits for controllers")["look"].as_str().unwrap().starts_with("curl 'http://127.0.0.1:"));
}

#[test]
fn too_few_descriptors_are_refused_with_the_limit_to_raise() {
    for (files, is_enough) in [(20, false), (60, false), (128, true)] {
        for command in ["check", "serve"] {
            let script = format!("ulimit -n {files}; exec timeout -s TERM 3 \"$@\"");
            let mut sh = Command::new("sh");
            sh.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_pilotlight"), command, "--threads", "4"]);
            let Output { status, stderr, .. } =
                sh.args(FREE).args(["--log-format", "text"]).output().unwrap();
            let said = String::from_utf8(stderr).unwrap();
            // `timeout` ends a broker that serves, with exit code 124.
            let is_well = status.success() || status.code() == Some(124);
            assert_eq!(is_well, is_enough, "{files}, {command}: {said}");
            let is_explained =
                said.contains("needs 64") && said.contains("LimitNOFILE=") && said.contains("ulimit -n");
            assert_eq!(is_explained, !is_enough, "{files}, {command}: {said}");
        }
    }
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
fn the_manual_page_has_every_setting_and_command_and_refers_to_no_other_page() {
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
    assert!(!page.contains("pilotlight-"), "the page refers to another page");
}

/// `RUST_LOG` is added to the default filter.
#[test]
fn a_typing_error_in_rust_log_silences_nothing() {
    for (asked, is_logged) in [("debgu", true), ("hyper=debug", true), ("", true), ("error", false)] {
        let (is_well, said) = ended(running(&["--log-format", "text"], asked));
        assert!(is_well, "{asked}: {said}");
        assert_eq!(said.contains("INFO"), is_logged, "{asked}: {said}");
    }
}
