//! Owns the cgroup that this process's memory is charged to, of version 1 or 2, with the lowest limit on its path.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Version 1 writes a limit above this if there is none.
const NO_LIMIT: u64 = 1 << 60;

/// The names of the files of one version.
struct Files {
    usage: &'static str,
    limits: &'static [&'static str],
    /// The field in `memory.stat` with the lowest limit on the path, which includes cgroups that are not mounted here.
    limit_in_stat: Option<&'static str>,
    /// The fields in `memory.stat` with the file pages, which the kernel drops before it kills a process. Reclaimable slab is
    /// not among them, because it contains the inodes of open sockets.
    droppable: [&'static str; 2],
}

const V1: Files = Files {
    usage: "memory.usage_in_bytes",
    limits: &["memory.limit_in_bytes"],
    limit_in_stat: Some("hierarchical_memory_limit"),
    droppable: ["total_inactive_file", "total_active_file"],
};
/// Above `memory.high` the kernel throttles the processes of the cgroup, which must not happen either.
const V2: Files = Files {
    usage: "memory.current",
    limits: &["memory.max", "memory.high"],
    limit_in_stat: None,
    droppable: ["inactive_file", "active_file"],
};

/// The cgroup that this process's memory is charged to.
pub(super) struct Cgroup {
    folder: PathBuf,
    files: &'static Files,
    /// The lowest limit on the path from this cgroup to the root, in bytes.
    pub(super) limit: Option<u64>,
    /// Whether no other process is in it.
    pub(super) is_exclusive: bool,
}

impl Cgroup {
    /// Finds it by the files of `proc` in this root. `None` if no cgroup controls memory.
    pub(super) fn find(root: &Path) -> Option<Self> {
        let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
        let lines = || own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
        let v2 = lines().find(|(controllers, _)| controllers.is_empty());
        // If both versions are mounted, version 1 controls memory if it lists the controller.
        let find = |files, path: Option<(&str, &str)>, is_mounted: fn(&str, &str) -> bool| {
            let mounts: Vec<_> = mounts.lines().filter_map(|line| Mount::parse(line, is_mounted)).collect();
            Self::find_in(root, files, path?.1, &mounts)
        };
        let has_memory =
            |kind: &str, options: &str| kind == "cgroup" && options.split(',').any(|o| o == "memory");
        find(&V1, v1, has_memory).or_else(|| find(&V2, v2, |kind, _| kind == "cgroup2"))
    }

    fn find_in(root: &Path, files: &'static Files, path: &str, mounts: &[Mount]) -> Option<Self> {
        // A mount that contains the path is better than one that does not. In a container, the mount's root is its cgroup.
        let folders = mounts.iter().filter_map(|mount| mount.folder(root, path));
        let roots = mounts.iter().map(|mount| (inside(root, &mount.point), inside(root, &mount.point)));
        let (top, folder) = folders.chain(roots).find(|(_, folder)| folder.is_dir())?;
        let levels: Vec<&Path> = folder.ancestors().take_while(|level| level.starts_with(&top)).collect();
        // The root cgroup has no usage, and the usage of a cgroup without the controller counts in its parent.
        let charged = levels.iter().find(|level| level.join(files.usage).exists())?;
        let limit = levels.iter().filter_map(|level| lowest_limit(level, files)).min();
        let members = fs::read_to_string(charged.join("cgroup.procs")).unwrap_or_default();
        let is_exclusive = members.trim() == std::process::id().to_string();
        Some(Self { folder: charged.to_path_buf(), files, limit, is_exclusive })
    }

    /// The bytes that the cgroup is charged, without those that the kernel can drop.
    pub(super) fn charged(&self) -> Option<u64> {
        let usage = read_number(&self.folder.join(self.files.usage))?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let droppable = self.files.droppable.iter().filter_map(|name| field(&stat, name)).sum();
        Some(usage.saturating_sub(droppable))
    }
}

/// A mounted hierarchy of cgroups.
struct Mount {
    /// The cgroup that the mount shows as its root.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Parses a line of `mountinfo`. `None` if its filesystem type and its options are not the sought ones.
    fn parse(line: &str, is_sought: fn(&str, &str) -> bool) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
        let mut paths = mount.split(' ').skip(3).map(|word| PathBuf::from(unescape(word)));
        is_sought(kind, options).then_some(())?;
        Some(Self { root: paths.next()?, point: paths.next()? })
    }

    /// The mount point, and the folder of a cgroup in it. `None` if the mount does not contain the cgroup.
    fn folder(&self, root: &Path, path: &str) -> Option<(PathBuf, PathBuf)> {
        let within = Path::new(path).strip_prefix(&self.root).ok()?;
        // A path outside the cgroup namespace is in no mount.
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

/// `mountinfo` writes white space and backslashes as a backslash with three octal digits.
fn unescape(word: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(word.to_owned(), |word, (code, character)| word.replace(code, character))
}

fn lowest_limit(level: &Path, files: &Files) -> Option<u64> {
    let in_files = files.limits.iter().filter_map(|name| read_number(&level.join(name)));
    let in_stat = files.limit_in_stat.and_then(|name| {
        let stat = fs::read_to_string(level.join("memory.stat")).ok()?;
        field(&stat, name)
    });
    in_files.chain(in_stat).filter(|&limit| limit < NO_LIMIT).min()
}

/// The number in a file; `None` for `max`.
fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
