//! Owns `pilotlight check`: prints each setting with its source, and whether the broker could start with them here.

use std::fmt::Write;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Command;

use super::{capacity, process};
use crate::cluster::NatsReport;
use crate::collector::Collector;
use crate::config::{ParsedSettings, SettingSource, Settings, misspelt_variables, values};
use crate::nats_url::NatsUrl;
use crate::server::{Preflight, preflight, raise_open_files};

pub(super) fn check(
    command: &Command,
    settings: &Settings,
    parsed: &ParsedSettings,
) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    // Writing into a String cannot fail.
    for (flag, value) in values(command, parsed) {
        let source = match parsed.source(flag) {
            SettingSource::Default => "default",
            SettingSource::File => "file",
            SettingSource::Environment => "environment",
            SettingSource::Flag => "flag",
        };
        // URLs may contain passwords.
        let value = match flag {
            "otlp" if value != "-" => Collector::redact(&value),
            "nats" if value != "-" => value.split(',').map(NatsUrl::redact).collect::<Vec<_>>().join(","),
            _ => value,
        };
        let _ = writeln!(text, "{flag:<24} {value:<24} {source}");
    }
    let open_files = raise_open_files();
    text.push_str(&capacity::report(open_files, settings.limits.of_broker(open_files).waiters));
    let listeners = settings.process.check_open_files(open_files).and_then(|()| settings.validate());
    let listeners = listeners.map_err(anyhow::Error::from);
    match listeners.and_then(|listeners| preflight(settings, &listeners)) {
        Ok(Preflight { certificate_ends, ops_certificate_ends, taken, nats }) => {
            for (name, ends) in [
                ("the public certificate", certificate_ends),
                ("the operators' certificate", ops_certificate_ends),
            ] {
                if let Some(ends) = ends {
                    let _ = writeln!(text, "{name} expires at {}", humantime::format_rfc3339_seconds(ends));
                }
            }
            text.push_str("\ntoken, certificate and history files: OK\n");
            let mut warnings = misspelt_variables(command);
            if let Some(nats) = nats {
                text.push_str(&nats_report(&nats, settings.limits.largest_run()));
                warnings.extend(nats_warning(&nats));
            }
            text.push_str(&address_report(&taken));
            if !warnings.is_empty() {
                let _ = writeln!(text, "\nwarnings:\n  {}", warnings.join("\n  "));
            }
            Ok(process::print(&text))
        }
        Err(error) => {
            process::print(&text);
            Err(error)
        }
    }
}

fn nats_report(nats: &NatsReport, body_limit: ByteSize) -> String {
    let NatsReport { servers, version, max_payload, subjects, .. } = nats;
    let max_payload = ByteSize::b(*max_payload as u64);
    let larger = if max_payload < body_limit {
        "\nlarger runs reach the controllers of this broker only; see NATS' max_payload"
    } else {
        ""
    };
    format!(
        "NATS {servers}: version {version}, messages up to {max_payload}{larger}\nNATS subjects {subjects}: OK\n"
    )
}

fn nats_warning(nats: &NatsReport) -> Option<String> {
    let NatsReport { subjects, excess, .. } = nats;
    let excess = (!excess.is_empty()).then(|| excess.join(" and "))?;
    Some(format!("the credentials for NATS may subscribe to {excess}; a broker needs {subjects} only"))
}

/// Addresses in use are fine during a check before a restart or a reload: the running broker has them.
fn address_report(in_use: &[String]) -> String {
    if in_use.is_empty() {
        return "addresses: free\n\nOK: the broker can start with these settings.\n".to_owned();
    }
    let in_use = in_use.join("\n  ");
    format!(
        "addresses in use:\n  {in_use}\n\n\
         OK, provided that the process on these addresses is the pilotlight you are\nreplacing or reloading.\n"
    )
}
