//! Owns which run a program's lines are about: the one that it serves while it writes them, if it serves one at a time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::tail::Tail;

/// How long what a program has written is waited for. Reading it takes less, unless the program writes without a pause.
const READ_TIMEOUT: Duration = Duration::from_millis(50);
/// The same if somebody wants to see it.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);

/// A question to a reader of a program's output: it is answered when all that was written before was read.
type Question = oneshot::Sender<()>;

/// The runs that a program serves at the moment, and the lines that are about them.
#[derive(Debug, Clone)]
pub(in crate::commands::worker) struct RunLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there can be several runs at a time. Then no line is any one's.
    has_many: bool,
    runs: Mutex<Vec<OpenRun>>,
    readers: Mutex<Vec<mpsc::Sender<Question>>>,
}

#[derive(Debug)]
struct OpenRun {
    name: Arc<str>,
    tail: Tail,
}

impl RunLog {
    /// Of a program that serves one run at a time, or several.
    pub(in crate::commands::worker) fn new(has_many: bool) -> Self {
        Self(Arc::new(Shared { has_many, ..Shared::default() }))
    }

    /// Lines are about this run from now on. What was written before is not.
    pub(in crate::commands::worker) async fn begin(&self, name: &Arc<str>) {
        let _ = timeout(READ_TIMEOUT, self.caught_up()).await;
        self.0.runs.lock().push(OpenRun { name: name.clone(), tail: Tail::default() });
    }

    /// The run has ended. Returns the last of its lines, up to 4 KiB.
    pub(in crate::commands::worker) async fn end(&self, name: &Arc<str>, is_wanted: bool) -> String {
        let limit = if is_wanted { TAIL_TIMEOUT } else { READ_TIMEOUT };
        let _ = timeout(limit, self.caught_up()).await;
        let mut runs = self.0.runs.lock();
        let ended = runs.iter().position(|run| Arc::ptr_eq(&run.name, name));
        ended.map(|index| runs.swap_remove(index).tail.text()).unwrap_or_default()
    }

    /// Returns when everything that the program has written was read.
    async fn caught_up(&self) {
        let readers = self.0.readers.lock().clone();
        for reader in readers {
            let (question, answer) = oneshot::channel();
            if reader.send(question).await.is_ok() {
                let _ = answer.await;
            }
        }
    }

    /// A reader of the program's output, which has to answer these questions.
    pub(super) fn reader(&self) -> mpsc::Receiver<Question> {
        let (sender, questions) = mpsc::channel(1);
        let mut readers = self.0.readers.lock();
        readers.retain(|reader| !reader.is_closed());
        readers.push(sender);
        questions
    }

    /// Notes a line. Returns the run that it is about.
    pub(super) fn note(&self, line: &str) -> Option<Arc<str>> {
        match self.0.runs.lock().as_mut_slice() {
            [run] if !self.0.has_many => {
                run.tail.push(line.to_owned());
                Some(run.name.clone())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_about_the_run_that_is_open_and_of_several_about_none() {
        let [one, two]: [Arc<str>; 2] = ["one".into(), "two".into()];
        let log = RunLog::new(false);
        assert_eq!(log.note("before"), None);
        log.begin(&one).await;
        assert_eq!(log.note("alone").as_ref(), Some(&one));
        assert_eq!(log.end(&one, true).await, "alone\n");
        log.begin(&two).await;
        assert_eq!(log.end(&two, true).await, "");
        let log = RunLog::new(true);
        log.begin(&one).await;
        log.begin(&two).await;
        log.end(&two, false).await;
        // What the other one has left behind would be in this one's tail.
        assert_eq!(log.note("late"), None);
        assert_eq!(log.end(&one, true).await, "");
    }
}
