//! Owns `pilotlight check`: would this configuration serve here, and where does each value come from?

use std::fmt::Write;
use std::process::ExitCode;

use clap::Command;

use super::machine;
use crate::config::{Parsed, Settings, Source, innermost, values};
use crate::server::{Inherited, Server, raise_open_files};

pub(super) fn check(command: &Command, settings: &Settings, parsed: &Parsed) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    // Writing into a String cannot fail.
    for (flag, value) in values(command, innermost(&parsed.matches)) {
        let source = match parsed.source(flag) {
            Source::Default => "default",
            Source::File => "file",
            Source::Environment => "environment",
            Source::Flag => "flag",
        };
        let _ = writeln!(text, "{flag:<24} {value:<24} {source}");
    }
    let open_files = raise_open_files();
    text.push_str(&machine::sum_up(open_files, settings.limits(open_files).waiters));
    let bound = settings
        .check()
        .map_err(anyhow::Error::from)
        .and_then(|()| Server::bind(settings, open_files, Inherited::default()));
    match bound {
        Ok(server) => {
            if let Some(ends) = server.certificate_ends() {
                let _ = writeln!(text, "the certificate ends {}", humantime::format_rfc3339_seconds(ends));
            }
            text.push_str("\naddresses: free\nfiles of tokens and certificates: fine\n\nall is well\n");
            Ok(super::print(&text))
        }
        Err(error) => {
            super::print(&text);
            Err(error)
        }
    }
}
