//! Owns the rules of the structure: which module may import which, how long a file may be, and how it begins.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/imports.rs"]
mod imports;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Sources;

/// The layers of `src`, from the lowest. A module may import from lower layers, and from the named modules of its own layer.
const LAYERS: [(&str, usize, &[&str]); 23] = [
    ("model", 0, &[]),
    ("broker", 0, &["model"]),
    ("address", 0, &[]),
    ("collector", 0, &[]),
    ("nats_url", 0, &["address"]),
    ("allocator", 0, &[]),
    ("json", 0, &[]),
    ("lambda", 0, &[]),
    ("logging", 0, &[]),
    ("metrics", 1, &[]),
    ("auth", 1, &["metrics"]),
    ("config", 1, &["metrics"]),
    ("journal", 1, &["metrics"]),
    ("exchange", 1, &["metrics", "journal"]),
    ("transport", 2, &[]),
    ("reply", 3, &[]),
    ("dispatch", 3, &["reply"]),
    ("cluster", 4, &[]),
    ("http", 5, &[]),
    ("ops", 6, &[]),
    ("server", 7, &[]),
    ("commands", 8, &[]),
    ("main", 9, &[]),
];

/// A crate whose imports are checked.
struct Crate {
    folder: &'static str,
    library: &'static str,
    /// Modules that still contain circles of imports. The test fails if another module has one, or if one of these has none.
    with_circles: &'static [&'static str],
    /// How many imports from a module by files inside it there may be.
    most_upward: usize,
}

const CRATES: [Crate; 3] = [
    Crate { folder: "src", library: "pilotlight", with_circles: &[], most_upward: 0 },
    Crate { folder: "bench/src", library: "pilotlight_bench", with_circles: &[], most_upward: 0 },
    Crate {
        folder: "tests/reliability/src",
        library: "pilotlight_reliability",
        with_circles: &[],
        most_upward: 0,
    },
];

/// What the core must not use: clocks, tasks, sockets, locks, serialization, logs.
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

/// The top-level module of a file.
fn module(path: &Path) -> String {
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
    let layers: BTreeMap<&str, (usize, &[&str])> =
        LAYERS.iter().map(|(module, layer, beside)| (*module, (*layer, *beside))).collect();
    for path in rust_files("src") {
        let from = module(&path);
        let Some((layer, beside)) = layers.get(from.as_str()) else {
            assert!(from == "lib", "{from} has no layer: {}", path.display());
            continue;
        };
        let text = code(&fs::read_to_string(&path).unwrap());
        for target in text.split("crate::").skip(1) {
            let to: String = target.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let Some((below, _)) = layers.get(to.as_str()) else { panic!("{}: crate::{to}", path.display()) };
            let allowed = to == from || below < layer || beside.contains(&to.as_str());
            assert!(allowed, "{} (layer {layer}) imports {to} (layer {below})", path.display());
        }
        assert!(!text.contains("pub use crate::"), "{}: a re-export of another module", path.display());
    }
}

#[test]
fn no_modules_import_each_other() {
    for Crate { folder, library, with_circles, .. } in &CRATES {
        let circles = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), library).circles();
        let found: Vec<&str> = circles.iter().map(|circle| circle.parent.as_str()).collect();
        let new: Vec<_> =
            circles.iter().filter(|circle| !with_circles.contains(&circle.parent.as_str())).collect();
        assert!(new.is_empty(), "{folder} has new circles of imports: {new:#?}");
        let gone: Vec<_> = with_circles.iter().filter(|module| !found.contains(module)).collect();
        assert!(gone.is_empty(), "{folder} has no circles in {gone:?} any more: take them off the list");
    }
}

/// A file that imports from a module around it depends on that module's other files, too. What it needs belongs in a file
/// of its own, which both import.
#[test]
fn files_import_little_from_the_modules_around_them() {
    for Crate { folder, library, most_upward, .. } in &CRATES {
        let upward = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), library).upward();
        let count = upward.len();
        assert!(
            count <= *most_upward,
            "{folder} has {count} upward imports, at most {most_upward}: {upward:#?}"
        );
    }
}

/// Writes these files to a folder and reads them as a crate named `sample`.
fn sample(files: &[(&str, &str)]) -> Sources {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Sources::read(folder.path(), "sample")
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let b_uses_a = [
        "use crate::a::f;",
        "use crate::{a::{self as other, inner::*}};",
        "use super::a;",
        "fn g() { super::a::f() }",
        "fn g() { println!(\"{}\", crate::a::f()) }",
        "use crate::facade::f;",
        "use crate::facade as x; fn g() { x::inner::f() }",
        "mod inline { use super::super::a::f; }",
        "struct S { #[serde(with = crate::a::f)] field: u8 }",
    ];
    for b in b_uses_a {
        let sources = sample(&[
            ("lib.rs", "mod a; mod b; mod facade;"),
            ("a/mod.rs", "mod inner; pub use inner::f;"),
            ("a/inner.rs", "use crate::b::g; pub fn f() {}"),
            ("b.rs", b),
            ("facade.rs", "pub use crate::a::{f, inner};"),
        ]);
        let circles = sources.circles();
        assert!(circles.len() == 1 && circles[0].members[..2] == ["a", "b"], "{b}: {circles:?}");
        assert!(sources.upward().is_empty(), "{b}: {:?}", sources.upward());
    }
}

#[test]
fn what_is_no_import_makes_no_circle() {
    let not_imports = [
        "",
        "// use crate::a::f;",
        "/// [`crate::a::f`]\nfn g() {}",
        "const TEXT: &str = \"crate::a::f\";",
        "#[cfg(test)]\nmod tests { use crate::a::f; }",
        "#[cfg(test)]\nuse crate::{a::f, b};",
        "use other::a; fn g() { a::f() }",
    ];
    for b in not_imports {
        let sources = sample(&[
            ("lib.rs", "mod a; mod b;"),
            ("main.rs", "use sample::b; fn main() { sample::a::f() }"),
            ("a.rs", "use crate::b::g; pub fn f() {}"),
            ("b.rs", b),
        ]);
        assert_eq!(sources.circles(), [], "{b}");
    }
}

#[test]
fn an_upward_import_is_one_of_what_the_module_itself_defines() {
    let upward = |inner: &str| {
        sample(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod inner; mod other; pub use other::Moved; pub struct Own; use inner::f;"),
            ("a/inner.rs", inner),
            ("a/other.rs", "pub struct Moved;"),
        ])
        .upward()
    };
    assert_eq!(upward("use super::Own;"), ["lib::a::inner -> lib::a"]);
    assert_eq!(upward("use crate::a::Own;"), ["lib::a::inner -> lib::a"]);
    assert_eq!(upward("use super::{Moved, other};"), Vec::<String>::new());
}

#[test]
fn the_core_is_pure() {
    for path in rust_files("src/broker") {
        // A shared name is not a lock.
        let text = code(&fs::read_to_string(&path).unwrap());
        for word in NOT_IN_THE_CORE {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_own() {
    for (folder, most) in [("src", 400), ("bench", 400), ("tests/reliability", 400), ("tests", 700)] {
        for path in rust_files(folder) {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().count();
            assert!(lines <= most, "{} has {lines} lines", path.display());
            let first = text.lines().next().unwrap_or_default();
            let is_owner = first.starts_with("//! Owns ") || path.ends_with("src/lib.rs");
            assert!(is_owner, "{} begins with {first:?}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_two_files_only() {
    let allowed = ["src/allocator.rs", "src/transport/socket.rs"];
    for path in rust_files("src") {
        let text = code(&fs::read_to_string(&path).unwrap());
        if text.contains("unsafe {") || text.contains("unsafe fn") {
            assert!(allowed.iter().any(|place| path.ends_with(place)), "{} has unsafe code", path.display());
        }
    }
}

/// `?value` would put Rust's debug format into a JSON log, which programs read.
#[test]
fn no_log_line_has_a_field_in_debug_format() {
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
