//! Owns the question whether a process waits for its standard input, as far as `/proc` answers it.
//!
//! A process waits if one of its threads, or a thread of one of its descendants, sleeps in a system call that reads the pipe
//! or waits until it can be read. A thread that reads through `io_uring` is not seen.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libc::c_long;

/// More processes than these are not looked at.
const MAX_PROCESSES: usize = 64;
/// The longest set of descriptors that is looked at: what `select` can hold.
const MAX_SELECT: u64 = 1024;
/// The most descriptors in a `poll` that are looked at.
const MAX_POLL: u64 = 256;
/// The size of `struct pollfd`: a descriptor of 4 bytes, then the events.
const POLLFD: usize = 8;

/// One end of a pipe, as `/proc` names it.
#[derive(Debug, Clone)]
pub(super) struct PipeName(String);

impl PipeName {
    /// The name of the pipe with this inode.
    pub(super) fn new(inode: u64) -> Self {
        Self(format!("pipe:[{inode}]"))
    }

    /// The name of no pipe.
    pub(super) fn none() -> Self {
        Self(String::new())
    }
}

/// Whether this process or a descendant of it waits for the pipe. An error if the kernel does not show it.
pub(super) fn is_any_reading(process: i32, pipe: &PipeName) -> io::Result<bool> {
    let mut processes = vec![process];
    let mut next = 0;
    while let Some(&process) = processes.get(next) {
        let seen = look_at(process, pipe, &mut processes);
        match seen {
            Ok(true) => return Ok(true),
            // A descendant may have ended, or belong to another user.
            Err(error) if next == 0 => return Err(error),
            Ok(false) | Err(_) => {}
        }
        next += 1;
    }
    Ok(false)
}

/// Looks at all threads of a process, and adds its children to the processes.
fn look_at(process: i32, pipe: &PipeName, processes: &mut Vec<i32>) -> io::Result<bool> {
    let folder = format!("/proc/{process}");
    for thread in fs::read_dir(format!("{folder}/task"))? {
        let thread = thread?.path();
        let call = fs::read_to_string(thread.join("syscall"))?;
        if SystemCall::parse(&call).is_some_and(|call| call.waits_for(&folder, pipe)) {
            return Ok(true);
        }
        // Without CONFIG_PROC_CHILDREN only the process itself is seen.
        let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
        let room = MAX_PROCESSES - processes.len();
        processes
            .extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()).take(room));
    }
    Ok(false)
}

/// A system call in which a thread sleeps.
struct SystemCall {
    number: c_long,
    arguments: [u64; 2],
}

impl SystemCall {
    /// None if the thread does not sleep in one. The line is `running`, or numbers: the call's own, then its arguments.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some(Self { number, arguments: [argument()?, argument()?] })
    }

    fn waits_for(&self, process: &str, pipe: &PipeName) -> bool {
        let [first, second] = self.arguments;
        let is_pipe = |fd: u64| {
            let link = fs::read_link(format!("{process}/fd/{fd}"));
            link.is_ok_and(|link| link == Path::new(&pipe.0))
        };
        match self.number {
            libc::SYS_read | libc::SYS_readv | libc::SYS_splice | libc::SYS_tee => is_pipe(first),
            libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => {
                epoll_set(process, first).into_iter().any(is_pipe)
            }
            libc::SYS_ppoll => poll_set(process, first, second).into_iter().any(is_pipe),
            libc::SYS_pselect6 => select_set(process, first, second).into_iter().any(is_pipe),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => epoll_set(process, first).into_iter().any(is_pipe),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => poll_set(process, first, second).into_iter().any(is_pipe),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => select_set(process, first, second).into_iter().any(is_pipe),
            _ => false,
        }
    }
}

/// The descriptors that an epoll descriptor watches.
fn epoll_set(process: &str, epoll: u64) -> Vec<u64> {
    let info = fs::read_to_string(format!("{process}/fdinfo/{epoll}")).unwrap_or_default();
    let watched =
        info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next()?.parse().ok());
    watched.collect()
}

/// The descriptors in the array of `poll`.
fn poll_set(process: &str, address: u64, count: u64) -> Vec<u64> {
    // Bounded, so that the conversion is exact.
    let mut array = vec![0; POLLFD * usize::try_from(count.min(MAX_POLL)).unwrap_or_default()];
    if read_memory(process, address, &mut array).is_err() {
        return Vec::new();
    }
    let (entries, _) = array.as_chunks::<POLLFD>();
    // A negative descriptor is not watched.
    entries
        .iter()
        .filter_map(|[a, b, c, d, ..]| i32::from_ne_bytes([*a, *b, *c, *d]).try_into().ok())
        .collect()
}

/// The descriptors in the set of `select` that are waited for to be readable.
fn select_set(process: &str, count: u64, address: u64) -> Vec<u64> {
    let count = count.min(MAX_SELECT);
    let mut set = vec![0; usize::try_from(count.div_ceil(64) * 8).unwrap_or_default()];
    if address == 0 || read_memory(process, address, &mut set).is_err() {
        return Vec::new();
    }
    let (words, _) = set.as_chunks::<8>();
    let is_set = |fd: &u64| {
        let word = usize::try_from(fd / 64).ok().and_then(|index| words.get(index));
        word.is_some_and(|word| u64::from_ne_bytes(*word) >> (fd % 64) & 1 == 1)
    };
    (0..count).filter(is_set).collect()
}

fn read_memory(process: &str, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    fs::File::open(format!("{process}/mem"))?.read_exact_at(buffer, address)
}
