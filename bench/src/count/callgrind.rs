//! Owns what is read from callgrind's output: a thread's instructions, and its calls of the allocator and of the clock.
//!
//! Callgrind names a function once, with a number that stands for it later. `fn=` begins the costs of a function; `cfn=` and
//! `calls=` are a function that it has called, and how often.

use std::collections::HashMap;

use anyhow::Context;

/// The entrances of mimalloc and of libc's allocator, without what `mi_malloc` has in front of its name in places.
const ALLOCATES: [&str; 7] =
    ["malloc", "zalloc", "calloc", "realloc", "rezalloc", "recalloc", "posix_memalign"];

/// What a thread has cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ThreadCounts {
    pub(super) instructions: f64,
    pub(super) allocations: f64,
    pub(super) clock_reads: f64,
}

impl ThreadCounts {
    /// Parses the file of one thread.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let instructions = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        let instructions = instructions.context("callgrind wrote no totals")?;
        let mut counts = Self { instructions, ..Self::default() };
        let mut names: HashMap<&str, &str> = HashMap::new();
        let (mut caller, mut callee) = ("", "");
        for line in text.lines() {
            if let Some(function) = line.strip_prefix("fn=") {
                caller = name(&mut names, function);
            } else if let Some(function) = line.strip_prefix("cfn=") {
                callee = name(&mut names, function);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let calls: f64 = calls.split(' ').next().unwrap_or_default().parse()?;
                // The allocator calls itself: only the outermost call is one allocation.
                if allocates(callee) && !is_of_allocator(caller) {
                    counts.allocations += calls;
                }
                if reads_clock(callee) && !reads_clock(caller) {
                    counts.clock_reads += calls;
                }
            }
        }
        Ok(counts)
    }
}

fn name<'a>(names: &mut HashMap<&'a str, &'a str>, function: &'a str) -> &'a str {
    let Some((number, name)) = function.split_once(' ') else {
        return names.get(function).copied().unwrap_or_default();
    };
    names.insert(number, name);
    name
}

fn is_of_allocator(name: &str) -> bool {
    name.starts_with("mi_") || name.starts_with("_mi_")
}

fn allocates(name: &str) -> bool {
    let of_mimalloc = name.strip_prefix("mi_");
    let entrance = of_mimalloc.map_or(name, |name| {
        let name = name.strip_prefix("theap_").unwrap_or(name);
        name.strip_prefix("heap_").unwrap_or(name)
    });
    ALLOCATES.into_iter().any(|allocates| match of_mimalloc {
        // As in `mi_malloc_aligned`.
        Some(_) => entrance.starts_with(allocates),
        None => entrance == allocates,
    })
}

/// `clock_gettime@@GLIBC_2.17`, and `__clock_gettime` inside libc.
fn reads_clock(name: &str) -> bool {
    name.trim_start_matches('_').starts_with("clock_gettime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outermost_calls_are_counted() {
        let text = "thread: 4\nfn=(1) broker::park\n10 5\ncfn=(2) mi_malloc_aligned\ncalls=3 40\n10 300\n\
             cfn=(3) clock_gettime@@GLIBC_2.17\ncalls=2 0\n11 8\n\nfn=(2)\n5 6\ncfn=(4) mi_theap_malloc_aligned\ncalls=3 0\n5 90\n\
             cfn=(5) mi_free\ncalls=9 0\n6 1\n\nfn=(6) other\ncfn=(2)\ncalls=1 40\n* 1\ncfn=(7) calloc\ncalls=1 1\n* 3\n\
             fn=(3)\ncfn=(8) __clock_gettime_2\ncalls=2 0\n1 1\ntotals: 1234\n";
        let ThreadCounts { instructions, allocations, clock_reads } = ThreadCounts::parse(text).unwrap();
        assert_eq!((instructions, allocations, clock_reads), (1234.0, 5.0, 2.0));
    }

    #[test]
    fn a_file_without_totals_is_an_error() {
        assert!(ThreadCounts::parse("thread: 1\n").is_err());
    }
}
