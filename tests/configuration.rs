//! Owns the tests of the guides: the tables of `docs/configuration.md` match the definitions of the settings, the bounds
//! that the binary enforces and the reasons of a miss; the README warns before a command that opens a port; the errors in
//! the troubleshooting guide are those of the source; and every source file that a guide names exists.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Arg, ArgAction, Args, Command};
use pilotlight::config::Settings;
use pilotlight::model::MissReason;

const PAGE: &str = "docs/configuration.md";
/// If this variable is set, the page is written instead of compared.
const WRITE: &str = "PILOTLIGHT_WRITE_DOCS";

/// On other systems the default of `--proof` differs, because they can prove no more than `written`.
#[cfg(target_os = "linux")]
#[test]
fn the_page_of_settings_and_miss_reasons_is_current() {
    let now = fs::read_to_string(PAGE).unwrap();
    let page = replace_block(&replace_block(&now, "settings", &settings()), "miss reasons", &miss_reasons());
    if std::env::var_os(WRITE).is_some() {
        fs::write(PAGE, page).unwrap();
        return;
    }
    let difference = now.lines().zip(page.lines()).find(|(now, page)| now != page);
    assert!(
        now == page,
        "{PAGE} is out of date. Write it anew with `{WRITE}=1 cargo test --test configuration`, and commit it.\n\
         First difference, the file against the definitions:\n{difference:#?}"
    );
}

#[test]
fn the_guides_warn_above_the_commands_that_open_ports() {
    let warning = "Anyone who can POST can run code in your controllers; anyone who can poll can take runs: restrict both";
    let readme = fs::read_to_string("README.md").unwrap();
    let warned = readme.lines().position(|line| line.contains(warning));
    let warned = warned.expect("the README has the warning on one line, word for word");
    let mut is_code = false;
    let mut commands = Vec::new();
    for (number, line) in readme.lines().enumerate() {
        is_code ^= line.starts_with("```");
        if is_code && line.starts_with("pilotlight ") {
            commands.push(number);
        }
    }
    assert!(commands.len() > 1, "the README shows how to start the broker: {commands:?}");
    assert!(commands[0] > warned, "the README opens a port above the warning");
    let deploy = fs::read_to_string("deploy/README.md").unwrap();
    assert!(
        deploy.lines().take(4).any(|line| line.contains(warning)),
        "deploy/README.md begins with the warning"
    );
}

#[test]
fn the_errors_of_a_start_that_troubleshooting_quotes_are_those_of_the_source() {
    let mut paths = Vec::new();
    collect_files(Path::new("src"), "rs", &mut paths);
    let lines = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    // A backslash continues a string literal on the next line.
    let source = lines.split("\\\n").map(str::trim_start).collect::<String>();
    let guide = fs::read_to_string("docs/troubleshooting.md").unwrap();
    let (_, section) = guide.split_once("\n## It refuses to start\n").unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let quoted = rows
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| line.split(" | ").next().unwrap().split('`').skip(1).step_by(2));
    let mut count = 0;
    for part in quoted.flat_map(fixed_parts).filter(|part| part.len() > 4) {
        count += 1;
        assert!(source.contains(&part), "no text of the source has {part:?}");
    }
    assert!(count > 15, "only {count} texts found");
}

#[test]
fn every_source_file_that_the_guides_name_is_there() {
    let mut guides = vec![PathBuf::from("README.md"), PathBuf::from("CONTRIBUTING.md")];
    collect_files(Path::new("docs"), "md", &mut guides);
    // Its code map names files relative to the folder of the row.
    guides.retain(|guide| !guide.ends_with("ARCHITECTURE.md"));
    let mut missing = Vec::new();
    let mut count = 0;
    for guide in guides {
        let text = fs::read_to_string(&guide).unwrap();
        let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        // The names of tests have their file in front; `tests/faults.rs` checks those.
        for span in spans.filter(|span| Path::new(span).extension().is_some_and(|kind| kind == "rs")) {
            count += 1;
            if !["", "src", "tests"].iter().any(|folder| Path::new(folder).join(span).exists()) {
                missing.push(format!("{}: {span}", guide.display()));
            }
        }
    }
    assert!(count > 20 && missing.is_empty(), "{count} files named, {missing:#?}");
}

/// The constant parts of an error's text: what is between flags, numbers and dots, which are inserted at run time.
fn fixed_parts(text: &str) -> Vec<String> {
    let is_filled_in =
        |word: &&str| *word == "…" || word.starts_with("--") || word.contains(|c: char| c.is_ascii_digit());
    let words: Vec<&str> = text.split_whitespace().collect();
    words.split(is_filled_in).map(|part| part.join(" ")).collect()
}

/// Replaces the text between the two markers of this name. The rest of the page is written by hand.
fn replace_block(page: &str, name: &str, content: &str) -> String {
    let begin = format!("<!-- begin {name}: generated by tests/configuration.rs -->\n");
    let end = format!("<!-- end {name} -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{PAGE} has no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{PAGE} has no line {end}"));
    format!("{before}{begin}\n{content}\n{end}{after}")
}

/// One table for each heading of `pilotlight --help`, in its order.
fn settings() -> String {
    let command = Settings::augment_args(Command::new("pilotlight"));
    let settings: Vec<&Arg> = command.get_arguments().filter(|arg| arg.get_env().is_some()).collect();
    assert!(settings.len() > 30, "only {} settings found", settings.len());
    let mut headings: Vec<&str> = Vec::new();
    for heading in settings.iter().filter_map(|arg| arg.get_help_heading()) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let tables = headings.iter().map(|heading| {
        let rows: String = settings
            .iter()
            .filter(|arg| arg.get_help_heading() == Some(heading))
            .map(|arg| row(arg))
            .collect();
        format!(
            "### {heading}\n\n| flag, variable, key | default | meaning | bounds |\n|---|---|---|---|\n{rows}"
        )
    });
    let page: Vec<String> = tables.collect();
    let page = page.join("\n");
    for setting in settings {
        let flag = format!("`--{}", setting.get_long().unwrap());
        assert!(page.contains(&flag), "{flag} has no help heading, so no table shows it");
    }
    page
}

fn row(arg: &Arg) -> String {
    let flag = arg.get_long().unwrap();
    let value = arg.get_value_names().and_then(|names| names.first()).filter(|_| !is_switch(arg));
    let shown = value.map_or_else(|| format!("--{flag}"), |value| format!("--{flag} {value}"));
    let key = if flag == "config" { "no key".to_owned() } else { format!("`{flag}`") };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (mut meaning, stated) = without_default(&help);
    for value in arg.get_possible_values() {
        if let Some(help) = value.get_help() {
            // Writing into a String cannot fail.
            let _ = write!(meaning, "<br>`{}`: {help}", value.get_name());
        }
    }
    let default = arg.get_default_values().first().map(|value| format!("`{}`", value.to_string_lossy()));
    let default = match default {
        Some(default) => default,
        None if is_switch(arg) => "off".to_owned(),
        None => stated.unwrap_or_else(|| "not set".to_owned()),
    };
    let variable = arg.get_env().unwrap().to_string_lossy();
    let cells = [format!("`{shown}`<br>`{variable}`<br>{key}"), default, meaning, bounds(arg)];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The meaning on one line, and the default that it states in brackets because it depends on the machine.
fn without_default(help: &str) -> (String, Option<String>) {
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace(['<', '>'], "");
    let Some((before, rest)) = help.split_once(" [default: ") else {
        return (help, None);
    };
    let (default, after) = rest.split_once(']').unwrap();
    (format!("{before}{after}"), Some(default.to_owned()))
}

/// The binary's error for a value that is out of bounds.
fn bounds(arg: &Arg) -> String {
    let kind = arg.get_value_names().and_then(|names| names.first()).map(clap::builder::Str::as_str);
    let values: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let flag = arg.get_long().unwrap();
    match kind {
        _ if is_switch(arg) => String::new(),
        _ if !values.is_empty() => values.join(", "),
        Some("DUR") => {
            let refusal = refusal(flag, "100000days").unwrap_or_else(|| panic!("--{flag} has no bound"));
            let (_, bounds) = refusal
                .trim()
                .split_once(" is out of range; it must be ")
                .unwrap_or_else(|| panic!("no bounds in the refusal of --{flag}: {refusal}"));
            let (least, most) = bounds.split_once(" to ").unwrap();
            format!("{} to {}", in_one_unit(least), in_one_unit(most))
        }
        Some("N") => refusal(flag, "0").map(|_| "at least 1".to_owned()).unwrap_or_default(),
        Some("SIZE") => refusal(flag, "0").map_or_else(String::new, |refusal| {
            let least = refusal.split_once("at least ").map(|(_, least)| least.trim().to_owned());
            match least {
                Some(least) if least.parse::<u64>().is_ok() => format!("at least {least} B"),
                Some(least) => format!("at least {least}"),
                None => "above 0".to_owned(),
            }
        }),
        _ => String::new(),
    }
}

/// A duration in the largest unit of which it is a whole number: `3650d` for humantime's `9years 11months …`.
fn in_one_unit(duration: &str) -> String {
    let millis = humantime::parse_duration(duration).unwrap().as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit))
        .unwrap_or((1000, "s"));
    format!("{}{name}", millis / unit)
}

/// The text with which `pilotlight check` refuses a setting.
fn refusal(flag: &str, value: &str) -> Option<String> {
    let addresses = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let mut check = Process::new(env!("CARGO_BIN_EXE_pilotlight"));
    let said = check.args(addresses).args([&format!("--{flag}"), value, "check"]).output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    let line = text.lines().find(|line| line.contains(&format!("--{flag} ")));
    (said.status.code() == Some(2)).then(|| line.unwrap_or(&text).to_owned())
}

fn miss_reasons() -> String {
    let rows = MissReason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} |\n", reason.text(), reason.meaning().trim()));
    format!("| reason | meaning |\n|---|---|\n{}", rows.collect::<String>())
}

fn collect_files(folder: &Path, kind: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(&path, kind, into);
        } else if path.extension().is_some_and(|extension| extension == kind) {
            into.push(path);
        }
    }
}
