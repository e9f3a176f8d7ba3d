//! Owns the list of settings that a reload applies; a change of any other needs a restart.

use clap::Command;

use super::parse::ParsedSettings;
use super::render::values;

const RELOADABLE: &[&str] = &[
    "public-livez",
    "behind-proxy",
    "proxy-protocol",
    "token-secret-file",
    "require-token",
    "dispatch-token-file",
    "ops-token-file",
    "allow-poll",
    "allow-dispatch",
    "tls-cert",
    "tls-key",
    "tls-client-ca",
    "ops-tls-cert",
    "ops-tls-key",
    "connection-timeout",
    "keepalive",
    "idle-timeout",
    "redirect-to",
    "proof",
    "proof-timeout",
    "dispatch-budget",
    "remember-runs",
    "message-check",
    "max-reply-wait",
    "reply-idle",
    "function",
    "body-limit",
    "max-posts",
    "max-post-rate",
];

/// The flags of the settings that differ and cannot change while the broker runs.
pub fn changes_needing_restart(
    command: &Command,
    before: &ParsedSettings,
    after: &ParsedSettings,
) -> Vec<String> {
    let all = values(command, before).zip(values(command, after));
    let changed = all.filter(|(before, after)| before != after);
    let flags = changed.map(|((flag, _), _)| flag).filter(|flag| !RELOADABLE.contains(flag));
    flags.map(str::to_owned).collect()
}
