//! Owns the tests of settings: which source overrides which, and the texts of errors.

use std::ffi::OsString;
use std::io::Write;

use clap::{Args, Command, CommandFactory, Parser};

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn parse_with(file: Option<&str>, arguments: &[&str]) -> Result<(Settings, ParsedSettings), ConfigError> {
    let mut all: Vec<OsString> = vec!["pilotlight".into()];
    let mut kept = tempfile::NamedTempFile::new().unwrap();
    if let Some(text) = file {
        kept.write_all(text.as_bytes()).unwrap();
        all.extend(["--config".into(), kept.path().into()]);
    }
    all.extend(arguments.iter().map(OsString::from));
    let parsed = parse(&Cli::command(), all)?;
    let settings = parsed.settings().unwrap();
    settings.validate()?;
    Ok((settings, parsed))
}

fn refusal(file: Option<&str>, arguments: &[&str]) -> String {
    parse_with(file, arguments).expect_err("it should be refused").to_string()
}

#[test]
fn a_flag_overrides_the_file_which_overrides_the_default() {
    let file = "connection-timeout = \"20s\"\nmax-pools = 7\n";
    let (settings, parsed) = parse_with(Some(file), &["--connection-timeout", "30s"]).unwrap();
    assert_eq!(settings.waiting.connection_timeout.as_secs(), 30);
    assert_eq!(settings.limits.max_pools, 7);
    assert_eq!(settings.limits.max_waiters_per_pool, 10_000);
    assert_eq!(parsed.source("connection-timeout"), SettingSource::Flag);
    assert_eq!(parsed.source("max-pools"), SettingSource::File);
    assert_eq!(parsed.source("max-waiters-per-pool"), SettingSource::Default);
}

#[test]
fn a_file_may_say_true_and_false() {
    let open = "listen = \"0.0.0.0:0\"\ninsecure-no-auth = true\n";
    assert!(parse_with(Some(open), &[]).unwrap().0.access.insecure_no_auth);
    assert!(!parse_with(Some("insecure-no-auth = false\n"), &[]).unwrap().0.access.insecure_no_auth);
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let message = refusal(Some("conection-timeout = \"1s\"\n"), &[]);
    assert!(message.contains("did you mean `connection-timeout`?"), "{message}");
    let message = refusal(Some("PILOTLIGHT_LISTEN = \"127.0.0.1:0\"\n"), &[]);
    assert!(message.contains("did you mean `listen`?"), "{message}");
    for (file, hint) in [("bogus = 1\n", "config default"), ("[insecure]\nlisten = 1\n", "at the top level")]
    {
        let message = refusal(Some(file), &[]);
        assert!(message.contains(hint) && !message.contains("did you mean"), "{message}");
    }
}

#[test]
fn a_wrong_value_is_refused_and_the_file_is_named() {
    for file in ["connection-timeout = \"soon\"\n", "max-pools = -1\n", "max-pools = [1]\n", "max-pools 1\n"]
    {
        let message = refusal(Some(file), &[]);
        assert!(message.contains("tmp"), "{file}: {message}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_an_example_of_a_right_one() {
    for (file, hint) in [
        ("proof = \"hop\"\n", "[possible values: written, acked, received]"),
        ("require-token = \"yes\"\n", "`require-token` must be true or false"),
        ("allow-dispatch = []\n", "leave it out"),
        ("listen = \"localhost\"\n", "such as 127.0.0.1:7070"),
    ] {
        let message = refusal(Some(file), &[]);
        assert!(message.contains(hint), "{file}: {message}");
    }
}

#[test]
fn the_proxy_protocol_needs_trusted_proxies() {
    assert!(refusal(None, &["--proxy-protocol"]).contains("--behind-proxy"));
    assert!(
        parse_with(None, &["--proxy-protocol", "--behind-proxy", "10.0.0.0/8"])
            .unwrap()
            .0
            .proxies
            .proxy_protocol
    );
}

#[test]
fn the_settings_of_a_cluster_must_fit_together() {
    let nats = ["--nats", "nats://one:4222,tls://two"];
    let (settings, _) = parse_with(None, &nats).unwrap();
    let servers: Vec<_> = settings.cluster.servers().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["nats://one:4222", "tls://two:4222"]);
    assert!(parse_with(None, &["--cluster", "a-B_9"]).is_ok());
    let longest = "x".repeat(64);
    assert!(parse_with(None, &["--cluster", &longest]).is_ok());
    let (file, too_long) = ("/run/secret", format!("{longest}x"));
    for name in ["", "a.b", "a b", "*", ">", "ä", &too_long] {
        let message = refusal(None, &["--cluster", name]);
        assert!(message.contains("--cluster must be 1 to 64 letters"), "{message}");
    }
    for (arguments, hint) in [
        (&["--nats-creds", file][..], "--nats-creds needs --nats"),
        (&["--nats-token-file", file], "--nats-token-file needs --nats"),
        (&["--nats-user", "u", "--nats-password-file", file], "--nats-user needs --nats"),
        (&["--nats-nkey-file", file], "--nats-nkey-file needs --nats"),
        (&["--nats-ca", file], "--nats-ca needs --nats"),
        (&["--nats", "nats://h", "--nats-user", "u"], "set both or neither"),
        (&["--nats", "nats://h", "--nats-password-file", file], "set both or neither"),
        (
            &["--nats", "nats://h", "--nats-creds", file, "--nats-nkey-file", file],
            "--nats-creds and --nats-nkey-file are",
        ),
        (
            &["--nats", "nats://t@h", "--nats-token-file", file],
            "a URL with credentials and --nats-token-file are",
        ),
        (&["--nats", "nats://t@h,nats://u@h"], "different credentials"),
        (&["--nats", "nats://h,"], "--nats is not a URL"),
        (&["--nats", "nats://user:secret@h:0"], "--nats is not a URL"),
        (&["--max-forwards", "0"], "--max-forwards must be at least 1"),
        (&["--advertise", "http://h:7070"], "--advertise needs --nats"),
        (&["--advertise-ca", file], "--advertise-ca needs --nats"),
        (&["--nats", "nats://h", "--advertise", "h:7070"], "--advertise is not an origin"),
        (&["--nats", "nats://h", "--advertise", "https://user:secret@h"], "--advertise has a user"),
        (&["--nats", "nats://h", "--advertise", "http://h/v1"], "--advertise has a path"),
        (
            &["--nats", "nats://h", "--advertise", "http://0.0.0.0:7070"],
            "--advertise is an address to listen on",
        ),
        (
            &["--nats", "nats://h", "--advertise", "http://[::]:7070"],
            "--advertise is an address to listen on",
        ),
        (&["--redirect-to", "https://user:secret@h"], "--redirect-to has a user"),
        (&["--redirect-to", "https://h/warm-start"], "--redirect-to has a path"),
    ] {
        let message = refusal(None, arguments);
        assert!(message.contains(hint) && !message.contains("secret@"), "{arguments:?}: {message}");
    }
    let one_user = "nats = [\"nats://u:p@one\", \"nats://u:p@two\"]\nnats-ca = \"/run/ca.pem\"\n";
    assert!(parse_with(Some(one_user), &[]).is_ok());
}

#[test]
fn a_public_address_without_authentication_is_refused_unless_allowed() {
    for flag in ["--listen", "--dispatch-listen", "--ops-listen"] {
        let message = refusal(None, &[flag, "0.0.0.0:0"]);
        assert!(message.contains(flag) && message.contains("--insecure-no-auth"), "{message}");
        assert!(parse_with(None, &[flag, "0.0.0.0:0", "--insecure-no-auth"]).is_ok());
    }
    assert!(parse_with(None, &["--listen", "[::1]:0"]).is_ok());
}

fn listening(setting: &str) -> Result<Listeners, String> {
    let parsed = parse(&Cli::command(), vec!["pilotlight".into(), format!("--listen={setting}").into()]);
    let mut settings = parsed.map_err(|error| error.to_string())?.settings().unwrap();
    settings.access.insecure_no_auth = true;
    settings.validate().map_err(|error| error.to_string())
}

#[test]
fn an_address_that_another_one_covers_is_bound_once() {
    for (setting, expected) in [
        ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1"),
        (" 127.0.0.1:1 ,\n[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ("127.0.0.1:1,0.0.0.0:1", "0.0.0.0:1"),
        ("127.0.0.1:1,[::]:1", "127.0.0.1:1 [::]:1"),
        ("[::1]:1,[::]:1", "[::]:1"),
        ("127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0 127.0.0.1:0"),
        ("localhost:1,127.0.0.1:1,[::1]:1", "127.0.0.1:1 [::1]:1"),
    ] {
        let all: Vec<_> = listening(setting).unwrap().public.iter().map(Endpoint::to_string).collect();
        assert_eq!(all.join(" "), expected, "{setting}");
    }
    let message = refusal(None, &["--listen", "127.0.0.1:1,[::1]:1", "--ops-listen", "[::1]:1"]);
    assert!(message.contains("--listen [::1]:1 and --ops-listen [::1]:1 are the same address"), "{message}");
}

#[test]
fn a_malformed_address_is_refused_with_an_example_of_a_right_one() {
    for (setting, hint) in [
        ("7070", "such as 127.0.0.1:7070"),
        ("127.0.0.1", "such as 127.0.0.1:7070"),
        ("localhost:http", "such as 127.0.0.1:7070"),
        ("localhost:+1", "such as 127.0.0.1:7070"),
        ("localhost:70000", "such as 127.0.0.1:7070"),
        ("a b:1", "such as 127.0.0.1:7070"),
        ("127.0.0.1:1,", "such as 127.0.0.1:7070"),
        ("::1:7070", "such as [::1]:7070"),
        ("http://127.0.0.1:7070", "is a URL"),
        ("tcp://10.0.0.1:7070", "is a URL"),
        ("192.0.2.1:7070x", "such as"),
        ("unix:@name", "abstract"),
        ("unix:name", "absolute path"),
        ("unix:/run/", "absolute path"),
        ("unix:/run/x.sock", "controllers must wait on TCP"),
    ] {
        let message = listening(setting).unwrap_err();
        assert!(message.contains(hint), "{setting}: {message}");
    }
    let long = listening(&format!("unix:/{}", "x".repeat(107))).unwrap_err();
    assert!(long.contains("at most 107 bytes"), "{long}");
}

#[test]
fn clients_of_a_unix_socket_count_as_loopback() {
    let unix = ["--dispatch-listen", "unix:///run/x.sock"];
    assert!(parse_with(None, &unix).is_ok(), "the permissions of its file guard it");
    let message = refusal(None, &[&unix[..], &["--allow-dispatch", "10.0.0.0/8"]].concat());
    assert!(message.contains("count as 127.0.0.1"), "{message}");
    assert!(parse_with(None, &[&unix[..], &["--allow-dispatch", "10.0.0.0/8, 127.0.0.1"]].concat()).is_ok());
}

#[test]
fn a_timeout_beyond_the_clients_own_is_refused() {
    assert!(refusal(None, &["--connection-timeout", "300s"]).contains("1s to 4m 59s"));
    assert!(refusal(None, &["--connection-timeout", "0s"]).contains("1s to"));
}

#[test]
fn the_default_file_is_accepted_both_commented_and_uncommented() {
    let text = default_toml(&Cli::command());
    assert!(parse_with(Some(&text), &[]).is_ok());
    let is_example = |line: &&str| line.contains(" = ") && !line.contains('…');
    let examples = text.lines().filter(is_example).filter_map(|line| line.strip_prefix("# "));
    let uncommented = examples.collect::<Vec<_>>().join("\n");
    assert!(uncommented.lines().count() > 10, "{uncommented}");
    parse_with(Some(&uncommented), &[]).unwrap();
}

#[test]
fn every_setting_has_the_variable_of_its_flag() {
    for arg in Settings::augment_args(Command::new("pilotlight")).get_arguments() {
        let flag = arg.get_long().unwrap().to_uppercase().replace('-', "_");
        assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("PILOTLIGHT_{flag}"));
        assert!(!arg.get_help().unwrap().to_string().is_empty());
    }
}

#[test]
fn a_value_that_would_serve_no_request_or_overflow_is_refused() {
    for arguments in [
        ["--dispatch-budget", "500000000000y"],
        ["--drain-window", "500000000000y"],
        ["--dispatch-budget", "0s"],
        ["--keepalive", "1us"],
        ["--max-waiters", "0"],
        ["--max-pools", "0"],
        ["--body-limit", "0"],
        ["--max-ops-connections", "0"],
        ["--memory-limit", "0"],
        ["--ops-tls-cert", "alone"],
        ["--ops-tls-key", "alone"],
        ["--threads", "0"],
    ] {
        assert!(refusal(None, &arguments).contains(arguments[0]), "{arguments:?}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_never_ignored() {
    for file in
        ["max-pools = false\n", "listen = true\n", "log-format = \"false\"\n", "insecure-no-auth = 3\n"]
    {
        refusal(Some(file), &[]);
    }
}

#[test]
fn a_list_is_one_setting() {
    let file = "behind-proxy = [\"10.0.0.0/8\", \"fd00::/8\"]\n";
    assert_eq!(parse_with(Some(file), &[]).unwrap().0.proxies.behind_proxy.len(), 2);
    assert_eq!(
        parse_with(None, &["--behind-proxy", "10.0.0.0/8, fd00::/8"]).unwrap().0.proxies.behind_proxy.len(),
        2
    );
}

#[test]
fn functions_are_listed_in_each_source_and_a_wrong_one_is_refused_with_its_form() {
    let functions = |file, arguments: &[&str]| {
        let table = parse_with(file, arguments).unwrap().0.functions.table().unwrap();
        ["a", "b"].map(|name| table.find(name, LATEST).map(|pool| pool.deployment.clone()))
    };
    let both = [Some("x".to_owned()), Some("y".to_owned())];
    assert_eq!(functions(None, &["--function", "a=x/1/0/0", "--function", "b=y/1/0/0"]), both);
    assert_eq!(functions(None, &["--function", "a=x/1/0/0,b=y/1/0/0"]), both);
    assert_eq!(functions(Some("function = [\"a=x/1/0/0\", \"b=y/1/0/0\"]\n"), &[]), both);
    assert_eq!(functions(None, &[]), [None, None]);
    let message = refusal(Some("function = \"a=x/1\"\n"), &[]);
    assert!(message.contains("tmp") && message.contains("NAME=DEPLOYMENT/VERSION/CPU/MEMORY"), "{message}");
    let message = refusal(None, &["--function", "a=x/1/0/0,a:$LATEST=y/1/0/0"]);
    assert_eq!(message, "--function has two pools for a");
}

#[test]
fn a_limit_of_runs_bounds_events_too() {
    for (arguments, run, event) in [
        (&[][..], 4 << 20, 6 << 20),
        (&["--body-limit", "1KiB"], 1 << 10, 1 << 10),
        (&["--body-limit", "64MiB"], 64 << 20, 6 << 20),
    ] {
        let limits = parse_with(None, arguments).unwrap().0.limits;
        assert_eq!((limits.largest_run().as_u64(), limits.largest_event().as_u64()), (run, event));
    }
}
