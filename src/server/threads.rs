//! Owns the threads that live as long as the broker: whichever ends before it is found, and at the end they are waited for
//! only so long.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the threads are looked at while all of them should live,
const WATCH_PACE: Duration = Duration::from_millis(250);
/// and while all of them should end.
const END_PACE: Duration = Duration::from_millis(20);

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

    /// Waits for any of them to end, and says which and why.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        loop {
            if let Some(place) = self.0.iter().position(JoinHandle::is_finished) {
                return why(self.0.swap_remove(place))
                    .unwrap_or_else(|name| anyhow::anyhow!("the thread {name} has ended without a reason"));
            }
            tokio::time::sleep(WATCH_PACE).await;
        }
    }

    /// Waits for all of them, which were told to end, for so long. One that does not end is left behind: it goes with the
    /// process.
    pub(super) async fn end(self, time: Duration) {
        let by = Instant::now() + time;
        while Instant::now() < by && !self.0.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(END_PACE).await;
        }
        for thread in self.0 {
            if !thread.is_finished() {
                let thread = thread.thread().name().unwrap_or_default();
                tracing::error!(thread, "a thread does not end; it is left behind");
            } else if let Ok(error) = why(thread) {
                tracing::error!("{error:#}");
            }
        }
    }
}

/// Why a thread has ended; its name if it was all right.
fn why(thread: JoinHandle<anyhow::Result<()>>) -> Result<anyhow::Error, String> {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    match thread.join() {
        Ok(Ok(())) => Err(name),
        Ok(Err(error)) => Ok(error.context(format!("the thread {name} has ended"))),
        Err(_) => Ok(anyhow::anyhow!("the thread {name} has panicked")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn wait_for(end: Receiver<()>) -> impl FnOnce() -> anyhow::Result<()> {
        move || {
            let _ = end.recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_thread_that_ends_is_named_with_its_reason() {
        for (work, said) in [
            (
                (|| anyhow::bail!("no more")) as fn() -> anyhow::Result<()>,
                "the thread two has ended: no more",
            ),
            (|| panic!("as a test"), "the thread two has panicked"),
            (|| Ok(()), "the thread two has ended without a reason"),
        ] {
            let mut threads = Threads::default();
            let (_goes_on, until) = sync_channel::<()>(1);
            threads.spawn("one", wait_for(until)).unwrap();
            threads.spawn("two", work).unwrap();
            assert_eq!(format!("{:#}", threads.ended().await), said);
        }
    }

    #[tokio::test]
    async fn the_end_waits_for_threads_and_not_for_ever() {
        let mut threads = Threads::default();
        let ((told, one), (_never, two)) = (sync_channel(1), sync_channel(1));
        threads.spawn("one", wait_for(one)).unwrap();
        drop(told);
        threads.end(Duration::from_secs(60)).await;
        let mut threads = Threads::default();
        threads.spawn("two", wait_for(two)).unwrap();
        threads.end(Duration::from_millis(50)).await;
    }
}
