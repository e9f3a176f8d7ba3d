//! Owns `pilotlight check`: would this configuration serve here, and where does each value come from?

use std::fmt::Write;
use std::process::ExitCode;

use clap::Command;

use super::machine;
use crate::collector::Collector;
use crate::config::{Parsed, Settings, Source, innermost, misspelt, values};
use crate::server::{Rehearsal, raise_open_files, rehearse};

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
        // Its URL may have a password in it.
        let value = if flag == "otlp" && value != "-" { Collector::shown_of(&value) } else { value };
        let _ = writeln!(text, "{flag:<24} {value:<24} {source}");
    }
    let misspelt = misspelt(command);
    let open_files = raise_open_files();
    text.push_str(&machine::sum_up(open_files, settings.limits(open_files).waiters));
    let listeners = settings.check_open_files(open_files).and_then(|()| settings.check());
    let listeners = listeners.map_err(anyhow::Error::from);
    match listeners.and_then(|listeners| rehearse(settings, &listeners)) {
        Ok(Rehearsal { certificate_ends, ops_certificate_ends, taken }) => {
            for (whose, ends) in
                [("the certificate", certificate_ends), ("the operators' certificate", ops_certificate_ends)]
            {
                if let Some(ends) = ends {
                    let _ = writeln!(text, "{whose} ends {}", humantime::format_rfc3339_seconds(ends));
                }
            }
            text.push_str("\nfiles of tokens, certificates and history: fine\n");
            text.push_str(&addresses(&taken));
            if !misspelt.is_empty() {
                let _ =
                    writeln!(text, "but for variables that are no settings:\n  {}", misspelt.join("\n  "));
            }
            Ok(super::print(&text))
        }
        Err(error) => {
            super::print(&text);
            Err(error)
        }
    }
}

fn addresses(taken: &[String]) -> String {
    if taken.is_empty() {
        return "addresses: free\n\nall is well\n".to_owned();
    }
    let taken = taken.join("\n  ");
    format!(
        "addresses in use:\n  {taken}\n\nall is well, if it is a pilotlight that is to be restarted or reloaded which uses them\n"
    )
}
