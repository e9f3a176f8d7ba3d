//! Owns the floor plan: which floor may import which, how large a file may grow, and how each begins.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A room may use the rooms below it, and those beside it that are named here.
const FLOORS: [(&str, usize, &[&str]); 16] = [
    ("model", 0, &[]),
    ("broker", 0, &["model"]),
    ("address", 0, &[]),
    ("collector", 0, &[]),
    ("allocator", 0, &[]),
    ("logging", 0, &[]),
    ("metrics", 1, &[]),
    ("auth", 1, &["metrics"]),
    ("config", 1, &["metrics"]),
    ("journal", 1, &["metrics"]),
    ("exchange", 1, &["metrics", "journal"]),
    ("transport", 2, &[]),
    ("http", 3, &[]),
    ("server", 4, &[]),
    ("commands", 5, &[]),
    ("main", 6, &[]),
];

/// What the core must not know: clocks, tasks, sockets, locks, serialization, logs.
const NOT_IN_THE_CORE: [&str; 8] =
    ["Instant", "SystemTime", "tokio", "parking_lot", "std::sync", "serde", "tracing", "std::io"];

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() && !path.ends_with("node_modules") => folders.push(path),
                Some(extension) if extension == "rs" => found.push(path),
                _ => {}
            }
        }
    }
    assert!(!found.is_empty(), "no Rust in {folder}");
    found.sort();
    found
}

/// The room of a file: the first folder below `src`, or the file itself.
fn room(path: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(source).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Code without comments.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_point_down_only() {
    let floors: BTreeMap<&str, (usize, &[&str])> =
        FLOORS.iter().map(|(room, floor, beside)| (*room, (*floor, *beside))).collect();
    for path in rust_files("src") {
        let from = room(&path);
        let Some((floor, beside)) = floors.get(from.as_str()) else {
            assert!(from == "lib", "{from} has no floor: {}", path.display());
            continue;
        };
        let text = code(&fs::read_to_string(&path).unwrap());
        for target in text.split("crate::").skip(1) {
            let to: String = target.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let Some((below, _)) = floors.get(to.as_str()) else { panic!("{}: crate::{to}", path.display()) };
            let allowed = to == from || below < floor || beside.contains(&to.as_str());
            assert!(allowed, "{} (floor {floor}) imports {to} (floor {below})", path.display());
        }
        assert!(
            !text.contains("pub use crate::"),
            "{}: floors do not pass each other's things on",
            path.display()
        );
    }
}

#[test]
fn the_core_is_pure() {
    for path in rust_files("src/broker") {
        let text = code(&fs::read_to_string(&path).unwrap());
        for word in NOT_IN_THE_CORE {
            assert!(!text.contains(word), "{} knows {word}", path.display());
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_own() {
    for (folder, most) in [("src", 400), ("bench", 400), ("tests", 700)] {
        for path in rust_files(folder) {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().count();
            assert!(lines <= most, "{} has {lines} lines", path.display());
            let first = text.lines().next().unwrap_or_default();
            let says = first.starts_with("//! Owns ") || path.ends_with("src/lib.rs");
            assert!(says, "{} begins with {first:?}", path.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_one_room_each() {
    let allowed = ["src/allocator.rs", "src/transport/socket.rs"];
    for path in rust_files("src") {
        let text = code(&fs::read_to_string(&path).unwrap());
        if text.contains("unsafe {") || text.contains("unsafe fn") {
            assert!(allowed.iter().any(|place| path.ends_with(place)), "{} is unsafe", path.display());
        }
    }
}

/// In a JSON log `?value` would be Rust's text for it: fields and what they show are for those who read logs by program.
#[test]
fn no_log_line_has_rusts_text_for_a_value() {
    for path in rust_files("src") {
        let text = code(&fs::read_to_string(&path).unwrap());
        for call in text.split("tracing::").skip(1).filter(|call| call.contains("!(")) {
            let call = call.split(");").next().unwrap_or_default();
            let mut debug = call.split('?').skip(1).zip(call.split('?'));
            let is_debug = |(after, before): (&str, &str)| {
                before.trim_end().ends_with(['(', ',', '='])
                    && after.starts_with(|c: char| c.is_ascii_lowercase())
            };
            let has_debug = debug.any(is_debug) || call.contains(":?}");
            assert!(!has_debug, "{}: tracing::{call}", path.display());
        }
    }
}
