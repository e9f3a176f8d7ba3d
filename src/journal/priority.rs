//! Owns the priority of the journal's threads.

/// Raises the niceness of this thread. Only Linux has a niceness per thread; elsewhere the call would affect the whole process,
/// so nothing is done.
pub(super) fn lower_priority(niceness: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, niceness)
    {
        tracing::debug!(%error, "a thread works at the usual priority");
    }
}
