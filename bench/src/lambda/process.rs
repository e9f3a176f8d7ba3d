//! Owns processes that are measured together with their descendants.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use pilotlight_bench::server::on_first_core;
use rustix::process::{Pid, Signal, kill_process_group};

/// A process on the first core, in a process group of its own, which is killed when this value is dropped.
pub(super) struct ProcessTree(Child);

impl ProcessTree {
    /// What it writes is dropped, but for stderr if that is wanted.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let program = command.get_program().display().to_string();
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let child = on_first_core(|| command.spawn())?;
        Ok(Self(child.with_context(|| format!("{program} does not start"))?))
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// The processes that it has started, and those that they have.
    pub(super) fn descendants(&self) -> anyhow::Result<Vec<u32>> {
        Ok(descendants_of(self.id(), &parents()?))
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        // Errors mean that they have exited already.
        if let Some(group) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Every process's parent.
fn parents() -> anyhow::Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The parent is the second field after the name, which may contain spaces and parentheses.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        parents.insert(process, parent.context("no parent in stat")?);
    }
    Ok(parents)
}

fn descendants_of(process: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut found = Vec::new();
    let mut unseen = vec![process];
    while let Some(parent) = unseen.pop() {
        let children = parents.iter().filter(|(_, of)| **of == parent).map(|(child, _)| *child);
        let before = found.len();
        found.extend(children);
        unseen.extend_from_slice(&found[before..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_children_and_their_children() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 2), (5, 4), (6, 1), (7, 6)]);
        let mut found = descendants_of(2, &parents);
        found.sort_unstable();
        assert_eq!(found, [3, 4, 5]);
        assert!(descendants_of(5, &parents).is_empty());
    }

    #[test]
    fn a_process_is_found_below_this_one() {
        let mut shell = Command::new("sh");
        let tree = ProcessTree::start(shell.args(["-c", "sleep 60 & wait"])).unwrap();
        let parents = std::iter::repeat_with(|| parents().unwrap());
        let child = parents.take(1000).find_map(|parents| descendants_of(tree.id(), &parents).pop());
        let child = child.expect("the shell's child");
        assert!(descendants_of(std::process::id(), &super::parents().unwrap()).contains(&child));
        drop(tree);
        let is_running = || super::parents().unwrap().get(&child).is_some_and(|_| is_alive(child));
        assert!((0..1000).any(|_| !is_running()), "it outlives the value");
    }

    /// Otherwise it has ended, though its parent may not know.
    fn is_alive(process: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }
}
