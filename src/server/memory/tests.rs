//! Owns the stories of memory, told with trees of files as kernels and containers show them.

use std::path::Path;

use super::Memory;
use super::group::Group;

const MIB: u64 = 1 << 20;
const V2: &str = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
/// What version 1 writes where there is no limit.
const NONE: &str = "9223372036854771712";

/// What the machine has.
const MACHINE: u64 = 1000 * MIB;

/// A machine on which the process has 10 MiB in memory.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(own: &str, mounts: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.file("proc/self/cgroup", own);
        tree.file("proc/self/mountinfo", mounts);
        let pages = 10 * MIB / rustix::param::page_size() as u64;
        tree.file("proc/self/statm", &format!("99999 {pages} 300 400 0 500 0\n"));
        tree
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A group of version 2: its files `memory.max` and `memory.high`, its charge in MiB, of which 20 are pages of files.
    fn v2(&self, group: &str, max: &str, high: &str, charged: u64, members: &str) {
        let folder = format!("sys/fs/cgroup{group}");
        self.file(&format!("{folder}/memory.max"), max);
        self.file(&format!("{folder}/memory.high"), high);
        self.file(&format!("{folder}/memory.current"), &format!("{}\n", charged * MIB));
        let stat = format!(
            "anon 1\nfile 9\ninactive_file {}\nactive_file {}\nslab_reclaimable 7777777\n",
            15 * MIB,
            5 * MIB
        );
        self.file(&format!("{folder}/memory.stat"), &stat);
        self.file(&format!("{folder}/cgroup.procs"), members);
    }

    fn v1(&self, group: &str, limit: &str, hierarchical: &str, charged: u64) {
        let folder = format!("sys/fs/cgroup/memory{group}");
        self.file(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"));
        self.file(&format!("{folder}/memory.usage_in_bytes"), &format!("{}\n", charged * MIB));
        let stat = format!(
            "inactive_file 1\nactive_file 1\nhierarchical_memory_limit {hierarchical}\ntotal_inactive_file {}\ntotal_active_file {}\n",
            15 * MIB,
            5 * MIB
        );
        self.file(&format!("{folder}/memory.stat"), &stat);
        self.file(&format!("{folder}/cgroup.procs"), "1\n2\n");
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn limit(&self) -> Option<u64> {
        Group::find(self.root()).and_then(|group| group.limit).map(|bytes| bytes / MIB)
    }

    /// MiB that are left, with this limit asked for.
    fn left(&self, asked_for: Option<u64>) -> Option<u64> {
        Memory::below(self.root(), asked_for.map(|mib| mib * MIB), Some(MACHINE))
            .left()
            .map(|bytes| bytes.div_ceil(MIB))
    }
}

fn bytes(mib: u64) -> String {
    format!("{}\n", mib * MIB)
}

fn me() -> String {
    format!("{}\n", std::process::id())
}

#[test]
fn the_least_limit_on_the_path_counts() {
    for (at, service, slice, least) in [
        ("max\n".to_owned(), bytes(300), bytes(200), Some(200)),
        (bytes(100), bytes(300), bytes(200), Some(100)),
        ("max\n".to_owned(), "max\n".to_owned(), "max\n".to_owned(), None),
    ] {
        let tree = Tree::new("0::/a.slice/b.service/at\n", V2);
        tree.v2("/a.slice", &slice, "max\n", 500, "");
        tree.v2("/a.slice/b.service", &service, "max\n", 400, "");
        tree.v2("/a.slice/b.service/at", &at, "max\n", 50, "1\n2\n");
        tree.v2("/other.service", &bytes(1), "max\n", 50, "3\n");
        assert_eq!(tree.limit(), least);
    }
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(300), &bytes(250), 50, "1\n");
    assert_eq!(tree.limit(), Some(250), "above memory.high a group is slowed down");
}

#[test]
fn what_the_group_is_charged_counts_less_what_the_kernel_can_drop() {
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(100), "max\n", 70, "1\n2\n");
    assert_eq!(tree.left(None), Some(80 - (70 - 20)));
    // What the process itself has in memory is 10 MiB: others are charged to the group as well.
    assert_eq!(tree.left(Some(30)), Some(20));
    assert_eq!(tree.left(Some(90)), Some(90 - 50), "more than the usual share, as it was asked for");
    assert_eq!(tree.left(Some(100)), Some(80 - 50), "no group ever has all of its limit");
    tree.v2("/a.service", &bytes(100), "max\n", 70, &me());
    assert_eq!(tree.left(Some(60)), Some(60 - 50), "it is charged for this process alone");
    tree.v2("/a.service", &bytes(100), "max\n", 105, &me());
    assert_eq!(tree.left(None), Some(0));
}

#[test]
fn a_limit_that_is_changed_counts() {
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(100), "max\n", 70, "1\n2\n");
    let mut memory = Memory::below(tree.root(), None, Some(MACHINE));
    tree.v2("/a.service", &bytes(60), "max\n", 70, "1\n2\n");
    assert_eq!(memory.left(), Some(30 * MIB), "not looked up yet");
    memory.looked_up -= super::LOOK_UP_PACE;
    assert_eq!(memory.left(), Some(0));
}

#[test]
fn version_1_is_read_too() {
    let own = "12:pids:/p\n9:cpu,memory:/docker/abc\n1:name=systemd:/x\n0::/system.slice\n";
    let tree = Tree::new(own, V1);
    tree.v1("/docker/abc", NONE, &(250 * MIB).to_string(), 70);
    tree.v1("/docker", NONE, NONE, 90);
    assert_eq!(tree.limit(), Some(250), "a limit above what is mounted here");
    assert_eq!(tree.left(None), Some(200 - 50));
    tree.v1("/docker", &(100 * MIB).to_string(), NONE, 90);
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn where_both_versions_are_mounted_memory_belongs_to_the_one_that_names_it() {
    let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("4:memory:/a\n0::/b\n", &format!("{unified}{V1}"));
    tree.v1("/a", &(100 * MIB).to_string(), NONE, 70);
    tree.file("sys/fs/cgroup/unified/b/cgroup.procs", "1\n");
    assert_eq!(tree.limit(), Some(100));
    // Version 1 without its mount.
    let tree = Tree::new("4:memory:/a\n0::/b\n", V2);
    tree.v2("/b", &bytes(100), "max\n", 70, "1\n");
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn a_container_sees_its_group_at_the_mounts_root() {
    // Without a namespace of groups: the path is the host's, and the mount shows the container's part of it.
    let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let tree = Tree::new("9:memory:/docker/abc\n", mounts);
    tree.v1("", &(100 * MIB).to_string(), NONE, 70);
    assert_eq!(tree.limit(), Some(100));
    // With one, and what lies outside of it.
    for own in ["0::/\n", "0::/../other\n", "0::/gone (deleted)\n"] {
        let tree = Tree::new(own, V2);
        tree.v2("", &bytes(100), "max\n", 70, "1\n");
        assert_eq!(tree.limit(), Some(100), "{own}");
    }
    // A mount whose root is not on the path, and a folder with a blank in its name.
    let mounts = "35 31 0:32 /else /sys/fs/cgroup\\040two rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("0::/a\n", mounts);
    tree.file("sys/fs/cgroup two/memory.max", &bytes(100));
    tree.file("sys/fs/cgroup two/memory.current", &bytes(1));
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn a_group_without_the_controller_counts_in_the_one_above() {
    let tree = Tree::new("0::/a.slice/user\n", V2);
    tree.v2("/a.slice", &bytes(100), "max\n", 70, "");
    tree.file("sys/fs/cgroup/a.slice/user/cgroup.procs", &me());
    assert_eq!((tree.limit(), tree.left(None)), (Some(100), Some(30)));
}

#[test]
fn without_a_limited_group_the_machine_and_what_is_in_memory_count() {
    let trees = [Tree::new("", ""), Tree::new("0::/\n", V2), Tree::new("nonsense\n::\n", "nonsense - - \n")];
    for tree in trees {
        assert_eq!(tree.limit(), None);
        assert_eq!(tree.left(None), Some(800 - 10));
        assert_eq!(tree.left(Some(30)), Some(30 - 10));
    }
    let tree = Tree::new("0::/shell.scope\n", V2);
    tree.v2("/shell.scope", "max\n", "max\n", 600, &format!("1\n{}", me()));
    assert_eq!(tree.left(Some(30)), Some(20), "others' memory is not the broker's");
    tree.v2("/shell.scope", "max\n", "max\n", 25, &me());
    assert_eq!(tree.left(Some(30)), Some(25), "its own is, with the kernel's for its sockets");
}

#[test]
fn the_machines_own_memory_is_known() {
    assert!(super::machine().is_some_and(|bytes| bytes > 64 * MIB));
}
