//! Owns the runtime that a run's tasks are executed on.

use tokio::task::LocalSet;

/// Runs a future and the tasks that it spawns on this thread.
pub fn block_on_local<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}
