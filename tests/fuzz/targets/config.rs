//! Owns the fuzzing of settings: any TOML file is accepted or refused, and no error quotes a secret.

#![no_main]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Command};
use libfuzzer_sys::fuzz_target;
use pilotlight::auth::{AuthConfig, Authorizer};
use pilotlight::config::{self, ConfigError, ListenAddress, ListenerSettings, Listeners, Settings};

/// The content of the file of secrets that the settings may name; it is too short to be accepted.
const SECRET: &str = "hunter2-hunter2";
/// The path of that file, fixed so that the corpus can name it.
const SECRETS: &str = "/tmp/pilotlight-fuzz-secrets";

struct Bench {
    command: Command,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    std::fs::write(SECRETS, SECRET).expect("a file of secrets");
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(place).expect("a folder");
    Bench {
        command: Settings::augment_args(Command::new("pilotlight")),
        file: folder.path().join("settings.toml"),
        _folder: folder,
    }
});

fuzz_target!(|input: &[u8]| {
    // Values from the settings file itself may be quoted.
    if String::from_utf8_lossy(input).contains(SECRET) {
        return;
    }
    std::fs::write(&BENCH.file, input).expect("the settings are written");
    let shown = match read() {
        Ok(None) => return,
        Ok(Some((settings, listeners))) => {
            check_settings(&settings, &listeners);
            format!("{settings:?}")
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                !matches!(error, ConfigError::Flag(_)),
                "an error about a flag, but no flag was given: {message}"
            );
            let is_of_file = matches!(error, ConfigError::File { .. } | ConfigError::Unreadable { .. });
            assert!(
                !is_of_file || message.contains("settings.toml"),
                "the error does not name the file: {message}"
            );
            message
        }
    };
    assert!(!shown.contains(SECRET), "a secret is shown: {shown}");
});

/// The settings and the listeners; none if an address has to be resolved.
fn read() -> Result<Option<(Settings, Listeners)>, ConfigError> {
    let arguments = ["pilotlight".into(), "--config".into(), OsString::from(&BENCH.file)];
    let parsed = config::parse(&BENCH.command, arguments.to_vec())?;
    let settings = parsed.settings()?;
    let ListenerSettings { listen, dispatch_listen, ops_listen, .. } = &settings.listeners;
    let asks_others = |address: &ListenAddress| matches!(address, ListenAddress::Named(..));
    if [listen, dispatch_listen, ops_listen].into_iter().flatten().any(asks_others) {
        // The fuzzer resolves no names.
        return Ok(None);
    }
    let listeners = settings.validate()?;
    assert!(config::changes_needing_restart(&BENCH.command, &parsed, &parsed).is_empty());
    Ok(Some((settings, listeners)))
}

/// Accepted settings are sufficient to serve.
fn check_settings(settings: &Settings, listeners: &Listeners) {
    let Settings { access, tls, waiting, limits, process, .. } = settings;
    assert!(waiting.connection_timeout.as_secs_f64() >= 1.0 && waiting.connection_timeout.as_secs() < 300);
    assert!(process.thread_count() > 0 && limits.largest_run().as_u64() > 0);
    assert!(limits.public_connections(1024) > 0 && limits.of_broker(1024).waiters > 0);
    let is_open = listeners.public.iter().any(|endpoint| !endpoint.is_local());
    let is_guarded = access.require_token || !access.allow_poll.is_empty() || tls.tls_client_ca.is_some();
    assert!(
        !is_open || is_guarded || access.insecure_no_auth,
        "reachable from other machines without a restriction"
    );
    let plan = AuthConfig {
        token_secret_file: access.token_secret_file.clone(),
        dispatch_token_file: access.dispatch_token_file.clone(),
        ops_token_file: access.ops_token_file.clone(),
        ..AuthConfig::default()
    };
    // Only this file is read: another could be a device without an end.
    let names = [&plan.token_secret_file, &plan.dispatch_token_file, &plan.ops_token_file];
    if names.into_iter().flatten().all(|path| *path == *SECRETS)
        && let Err(error) = Authorizer::open(&plan)
    {
        let message = format!("{error:#}");
        assert!(!message.contains(SECRET) && message.contains(SECRETS), "{message}");
    }
}
