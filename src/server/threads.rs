//! Owns the threads that run as long as the broker: detects one that ends early, and joins all of them at the end, within a
//! limit of time.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often to check the threads while all of them should run,
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// and while all of them should end.
const JOIN_INTERVAL: Duration = Duration::from_millis(20);

/// The threads of one server.
#[derive(Default)]
pub(super) struct Threads(Vec<JoinHandle<anyhow::Result<()>>>);

impl Threads {
    /// Starts one.
    pub(super) fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.0.push(std::thread::Builder::new().name(name.to_owned()).spawn(work)?);
        Ok(())
    }

    /// Waits for any of them to end, and returns which one and why.
    pub(super) async fn first_ended(&mut self) -> anyhow::Error {
        loop {
            if let Some(index) = self.0.iter().position(JoinHandle::is_finished) {
                let thread = self.0.swap_remove(index);
                let name = name(&thread);
                return join(thread)
                    .unwrap_or_else(|| anyhow::anyhow!("the thread {name} has ended without a reason"));
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Joins all of them. One that does not end within this time is left running, and ends with the process.
    pub(super) async fn join_all(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline && !self.0.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(JOIN_INTERVAL).await;
        }
        for thread in self.0 {
            if !thread.is_finished() {
                let thread = thread.thread().name().unwrap_or_default();
                tracing::error!(thread, "a thread does not end; the process ends without it");
            } else if let Some(error) = join(thread) {
                tracing::error!("{error:#}");
            }
        }
    }
}

fn name(thread: &JoinHandle<anyhow::Result<()>>) -> String {
    thread.thread().name().unwrap_or_default().to_owned()
}

/// The error or the panic that ended a thread, if it was one.
fn join(thread: JoinHandle<anyhow::Result<()>>) -> Option<anyhow::Error> {
    let name = name(&thread);
    match thread.join() {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.context(format!("the thread {name} has ended"))),
        Err(_) => Some(anyhow::anyhow!("the thread {name} has panicked")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn until_dropped(other: Receiver<()>) -> impl FnOnce() -> anyhow::Result<()> {
        move || {
            let _ = other.recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_thread_that_ends_is_named_with_its_reason() {
        for (work, expected) in [
            (
                (|| anyhow::bail!("no more")) as fn() -> anyhow::Result<()>,
                "the thread two has ended: no more",
            ),
            (|| panic!("as a test"), "the thread two has panicked"),
            (|| Ok(()), "the thread two has ended without a reason"),
        ] {
            let mut threads = Threads::default();
            let (_running, receiver) = sync_channel::<()>(1);
            threads.spawn("one", until_dropped(receiver)).unwrap();
            threads.spawn("two", work).unwrap();
            assert_eq!(format!("{:#}", threads.first_ended().await), expected);
        }
    }

    #[tokio::test]
    async fn threads_are_joined_within_a_limit_of_time() {
        let mut threads = Threads::default();
        let ((sender, one), (_running, two)) = (sync_channel(1), sync_channel(1));
        threads.spawn("one", until_dropped(one)).unwrap();
        drop(sender);
        threads.join_all(Duration::from_secs(60)).await;
        let mut threads = Threads::default();
        threads.spawn("two", until_dropped(two)).unwrap();
        threads.join_all(Duration::from_millis(50)).await;
    }
}
