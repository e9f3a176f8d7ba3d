//! Owns the control group that this process is charged to: found in either version of the kernel's interface, with the least
//! limit on its path.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A limit above this is how version 1 writes that there is none.
const NO_LIMIT: u64 = 1 << 60;

/// The names of one version's files.
struct Files {
    charged: &'static str,
    limits: &'static [&'static str],
    /// The least limit on the path, groups included that are not mounted here, in the file of statistics.
    limit_in_stat: Option<&'static str>,
    /// What the kernel drops before it kills, in the file of statistics: pages of files. What it calls reclaimable of its own
    /// memory does not count as such, because inodes of open sockets are among it.
    droppable: [&'static str; 2],
}

const V1: Files = Files {
    charged: "memory.usage_in_bytes",
    limits: &["memory.limit_in_bytes"],
    limit_in_stat: Some("hierarchical_memory_limit"),
    droppable: ["total_inactive_file", "total_active_file"],
};
/// Above `memory.high` the kernel slows the group down instead of killing it, which serves nobody either.
const V2: Files = Files {
    charged: "memory.current",
    limits: &["memory.max", "memory.high"],
    limit_in_stat: None,
    droppable: ["inactive_file", "active_file"],
};

/// The control group that this process is charged to.
pub(super) struct Group {
    folder: PathBuf,
    files: &'static Files,
    /// The least limit on the path from this group up, in bytes.
    pub(super) limit: Option<u64>,
    /// Whether no other process is in it.
    pub(super) is_own: bool,
}

impl Group {
    /// Finds it by what stands in `proc` below this root. None where memory is not controlled.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
        let lines = || own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
        let v2 = lines().find(|(controllers, _)| controllers.is_empty());
        // Where both are mounted, memory belongs to the one that names it.
        let found = |files, path: Option<(&str, &str)>, is_mounted: fn(&str, &str) -> bool| {
            let mounts: Vec<_> = mounts.lines().filter_map(|line| Mount::read(line, is_mounted)).collect();
            Self::among(root, files, path?.1, &mounts)
        };
        let has_memory =
            |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|o| o == "memory");
        found(&V1, v1, has_memory).or_else(|| found(&V2, v2, |kind, _| kind == "cgroup2"))
    }

    fn among(root: &Path, files: &'static Files, path: &str, mounts: &[Mount]) -> Option<Self> {
        // One that shows the whole path before one that shows a part of it, or none.
        let places = mounts.iter().filter_map(|mount| mount.folder(root, path));
        let roots = mounts.iter().map(|mount| (inside(root, &mount.point), inside(root, &mount.point)));
        let (top, folder) = places.chain(roots).find(|(_, folder)| folder.is_dir())?;
        let levels: Vec<&Path> = folder.ancestors().take_while(|level| level.starts_with(&top)).collect();
        // The root of all groups is charged nothing, and a group without the controller counts in the one above.
        let charged = levels.iter().find(|level| level.join(files.charged).exists())?;
        let limit = levels.iter().filter_map(|level| least_limit(level, files)).min();
        let members = fs::read_to_string(charged.join("cgroup.procs")).unwrap_or_default();
        let is_own = members.trim() == std::process::id().to_string();
        Some(Self { folder: charged.to_path_buf(), files, limit, is_own })
    }

    /// Bytes that the group is charged, less what the kernel can drop.
    pub(super) fn charged(&self) -> Option<u64> {
        let charged = number(&self.folder.join(self.files.charged))?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let droppable = self.files.droppable.iter().filter_map(|name| statistic(&stat, name)).sum();
        Some(charged.saturating_sub(droppable))
    }
}

/// Where a hierarchy of groups is mounted, and which part of it.
struct Mount {
    part: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Reads a line of `mountinfo`, if it is what is looked for by its kind and options.
    fn read(line: &str, is_it: fn(&str, &str) -> bool) -> Option<Self> {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let (kind, options) = (what.next()?, what.nth(1)?);
        let mut place = place.split(' ').skip(3).map(|word| PathBuf::from(unescaped(word)));
        is_it(kind, options).then_some(())?;
        Some(Self { part: place.next()?, point: place.next()? })
    }

    /// Where it shows this path, with the mount's own folder.
    fn folder(&self, root: &Path, path: &str) -> Option<(PathBuf, PathBuf)> {
        let within = Path::new(path).strip_prefix(&self.part).ok()?;
        // A path that leads out of the namespace is shown nowhere.
        if within.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let top = inside(root, &self.point);
        Some((top.clone(), top.join(within)))
    }
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// `mountinfo` writes blanks and the like as three octal digits behind a backslash.
fn unescaped(word: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(word.to_owned(), |word, (code, meant)| word.replace(code, meant))
}

fn least_limit(level: &Path, files: &Files) -> Option<u64> {
    let of_files = files.limits.iter().filter_map(|name| number(&level.join(name)));
    let in_stat = files.limit_in_stat.and_then(|name| {
        let stat = fs::read_to_string(level.join("memory.stat")).ok()?;
        statistic(&stat, name)
    });
    of_files.chain(in_stat).filter(|&limit| limit < NO_LIMIT).min()
}

/// The number in a file; none for `max`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn statistic(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
