//! Owns the tests of the memory budget, with copies of the files that kernels and containers show.

use std::path::Path;

use super::MemoryBudget;
use super::cgroup::Cgroup;

const MIB: u64 = 1 << 20;
const V2: &str = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
/// What version 1 writes if there is no limit.
const V1_UNLIMITED: &str = "9223372036854771712";

/// The machine's memory.
const MACHINE: u64 = 1000 * MIB;

/// The files of a machine on which the process has a resident set of 10 MiB.
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

    /// Writes a cgroup of version 2 with these limits and a usage in MiB, of which 20 are file pages.
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
        Cgroup::find(self.root()).and_then(|cgroup| cgroup.limit).map(|bytes| bytes / MIB)
    }

    /// The remaining MiB, with this `--memory-limit`.
    fn remaining(&self, configured: Option<u64>) -> Option<u64> {
        MemoryBudget::in_root(self.root(), configured.map(|mib| mib * MIB), Some(MACHINE))
            .remaining()
            .map(|bytes| bytes.div_ceil(MIB))
    }
}

#[test]
fn memory_is_ample_while_half_of_every_budget_and_a_gibibyte_is_left() {
    let tree = Tree::new("0::/broker\n", V2);
    tree.v2("/broker", "max\n", "max\n", 1020, "1\n2\n");
    // The cgroup is charged 1,000 MiB without file pages, and the process has 10 MiB.
    for (configured, limit, is_ample) in
        [(3000, 9000, true), (1000, 9000, false), (1100, 9000, true), (3000, 3200, true), (3000, 2400, false)]
    {
        tree.file("sys/fs/cgroup/broker/memory.max", &bytes(limit));
        let mut budget = MemoryBudget::in_root(tree.root(), Some(configured * MIB), Some(8 * MACHINE));
        assert!(!budget.is_ample(), "nothing is known before the first measurement");
        budget.remaining();
        assert_eq!(budget.is_ample(), is_ample, "{configured} {limit}");
    }
}

fn bytes(mib: u64) -> String {
    format!("{}\n", mib * MIB)
}

fn me() -> String {
    format!("{}\n", std::process::id())
}

#[test]
fn the_lowest_limit_on_the_path_counts() {
    for (at, service, slice, lowest) in [
        ("max\n".to_owned(), bytes(300), bytes(200), Some(200)),
        (bytes(100), bytes(300), bytes(200), Some(100)),
        ("max\n".to_owned(), "max\n".to_owned(), "max\n".to_owned(), None),
    ] {
        let tree = Tree::new("0::/a.slice/b.service/at\n", V2);
        tree.v2("/a.slice", &slice, "max\n", 500, "");
        tree.v2("/a.slice/b.service", &service, "max\n", 400, "");
        tree.v2("/a.slice/b.service/at", &at, "max\n", 50, "1\n2\n");
        tree.v2("/other.service", &bytes(1), "max\n", 50, "3\n");
        assert_eq!(tree.limit(), lowest);
    }
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(300), &bytes(250), 50, "1\n");
    assert_eq!(tree.limit(), Some(250), "above memory.high the kernel throttles");
}

#[test]
fn the_usage_of_the_cgroup_counts_without_file_pages() {
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(100), "max\n", 70, "1\n2\n");
    assert_eq!(tree.remaining(None), Some(80 - (70 - 20)));
    // The resident set is 10 MiB. Another process is in the cgroup, too.
    assert_eq!(tree.remaining(Some(30)), Some(20));
    assert_eq!(
        tree.remaining(Some(90)),
        Some(90 - 50),
        "more than the usable share, because it is configured"
    );
    assert_eq!(tree.remaining(Some(100)), Some(80 - 50), "the whole limit is never used");
    tree.v2("/a.service", &bytes(100), "max\n", 70, &me());
    assert_eq!(tree.remaining(Some(60)), Some(60 - 50), "only this process is charged");
    tree.v2("/a.service", &bytes(100), "max\n", 105, &me());
    assert_eq!(tree.remaining(None), Some(0));
}

#[test]
fn a_changed_limit_counts_after_the_next_lookup() {
    let tree = Tree::new("0::/a.service\n", V2);
    tree.v2("/a.service", &bytes(100), "max\n", 70, "1\n2\n");
    let mut memory = MemoryBudget::in_root(tree.root(), None, Some(MACHINE));
    tree.v2("/a.service", &bytes(60), "max\n", 70, "1\n2\n");
    assert_eq!(memory.remaining(), Some(30 * MIB), "not looked up yet");
    memory.looked_up -= super::LOOKUP_INTERVAL;
    assert_eq!(memory.remaining(), Some(0));
}

#[test]
fn version_1_is_supported() {
    let own = "12:pids:/p\n9:cpu,memory:/docker/abc\n1:name=systemd:/x\n0::/system.slice\n";
    let tree = Tree::new(own, V1);
    tree.v1("/docker/abc", V1_UNLIMITED, &(250 * MIB).to_string(), 70);
    tree.v1("/docker", V1_UNLIMITED, V1_UNLIMITED, 90);
    assert_eq!(tree.limit(), Some(250), "the limit of an ancestor that is not mounted here");
    assert_eq!(tree.remaining(None), Some(200 - 50));
    tree.v1("/docker", &(100 * MIB).to_string(), V1_UNLIMITED, 90);
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn with_both_versions_mounted_the_one_with_the_memory_controller_counts() {
    let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("4:memory:/a\n0::/b\n", &format!("{unified}{V1}"));
    tree.v1("/a", &(100 * MIB).to_string(), V1_UNLIMITED, 70);
    tree.file("sys/fs/cgroup/unified/b/cgroup.procs", "1\n");
    assert_eq!(tree.limit(), Some(100));
    // Version 1 is not mounted.
    let tree = Tree::new("4:memory:/a\n0::/b\n", V2);
    tree.v2("/b", &bytes(100), "max\n", 70, "1\n");
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn in_a_container_the_mounts_root_is_its_cgroup() {
    // Without a cgroup namespace: the path is the host's, and the mount's root is the container's cgroup.
    let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let tree = Tree::new("9:memory:/docker/abc\n", mounts);
    tree.v1("", &(100 * MIB).to_string(), V1_UNLIMITED, 70);
    assert_eq!(tree.limit(), Some(100));
    // With a namespace, and paths outside of it.
    for own in ["0::/\n", "0::/../other\n", "0::/gone (deleted)\n"] {
        let tree = Tree::new(own, V2);
        tree.v2("", &bytes(100), "max\n", 70, "1\n");
        assert_eq!(tree.limit(), Some(100), "{own}");
    }
    // A mount whose root is not on the path, with a space in the name of its folder.
    let mounts = "35 31 0:32 /else /sys/fs/cgroup\\040two rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("0::/a\n", mounts);
    tree.file("sys/fs/cgroup two/memory.max", &bytes(100));
    tree.file("sys/fs/cgroup two/memory.current", &bytes(1));
    assert_eq!(tree.limit(), Some(100));
}

#[test]
fn a_cgroup_without_the_controller_counts_in_its_parent() {
    let tree = Tree::new("0::/a.slice/user\n", V2);
    tree.v2("/a.slice", &bytes(100), "max\n", 70, "");
    tree.file("sys/fs/cgroup/a.slice/user/cgroup.procs", &me());
    assert_eq!((tree.limit(), tree.remaining(None)), (Some(100), Some(30)));
}

#[test]
fn without_a_limit_on_the_cgroup_the_machine_and_the_resident_set_count() {
    let trees = [Tree::new("", ""), Tree::new("0::/\n", V2), Tree::new("nonsense\n::\n", "nonsense - - \n")];
    for tree in trees {
        assert_eq!(tree.limit(), None);
        assert_eq!(tree.remaining(None), Some(800 - 10));
        assert_eq!(tree.remaining(Some(30)), Some(30 - 10));
    }
    let tree = Tree::new("0::/shell.scope\n", V2);
    tree.v2("/shell.scope", "max\n", "max\n", 600, &format!("1\n{}", me()));
    assert_eq!(tree.remaining(Some(30)), Some(20), "the memory of other processes does not count");
    tree.v2("/shell.scope", "max\n", "max\n", 25, &me());
    assert_eq!(tree.remaining(Some(30)), Some(25), "the usage of an exclusive cgroup counts");
}

#[test]
fn the_machines_memory_is_known() {
    assert!(super::machine_memory().is_some_and(|bytes| bytes > 64 * MIB));
}
