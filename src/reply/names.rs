//! Owns which named runs have a reply: a run that is posted again is told how its reply stands, because bodies are not kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::model::ReplyOutcome;

/// Named runs whose reply is awaited, or has ended a short while ago, by the digest of the name.
#[derive(Default)]
pub(super) struct NamedRuns(Mutex<HashMap<[u8; 16], State, RandomState>>);

#[derive(Clone, Copy)]
enum State {
    Open,
    Ended(ReplyOutcome, Instant),
}

/// How the reply to an earlier POST of the same run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierReply {
    /// It is awaited.
    Open,
    /// It has ended so.
    Ended(ReplyOutcome),
}

/// A named run whose reply this POST awaits. Dropped without an outcome, the run may be posted again.
pub struct NamedRun {
    names: Arc<NamedRuns>,
    name: [u8; 16],
    has_ended: bool,
}

impl NamedRuns {
    /// An error if an earlier POST of this run awaits its reply, or had it less than `remember_for` ago.
    pub(super) fn begin(
        self: &Arc<Self>,
        name: [u8; 16],
        remember_for: Duration,
    ) -> Result<NamedRun, EarlierReply> {
        let mut names = self.0.lock();
        match names.get(&name) {
            Some(State::Open) => return Err(EarlierReply::Open),
            Some(State::Ended(outcome, at)) if at.elapsed() < remember_for => {
                return Err(EarlierReply::Ended(*outcome));
            }
            Some(State::Ended(..)) | None => {}
        }
        names.insert(name, State::Open);
        Ok(NamedRun { names: self.clone(), name, has_ended: false })
    }

    /// Forgets the runs whose replies ended before.
    pub(super) fn forget_old(&self, remember_for: Duration) {
        let mut names = self.0.lock();
        names.retain(|_, state| match state {
            State::Open => true,
            State::Ended(_, at) => at.elapsed() < remember_for,
        });
        if names.capacity() > 1024 && names.len() < names.capacity() / 4 {
            names.shrink_to_fit();
        }
    }
}

impl NamedRun {
    /// The reply has ended, and is remembered.
    pub fn end(mut self, outcome: ReplyOutcome) {
        self.has_ended = true;
        self.names.0.lock().insert(self.name, State::Ended(outcome, Instant::now()));
    }
}

impl Drop for NamedRun {
    fn drop(&mut self) {
        if !self.has_ended {
            self.names.0.lock().remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_remembered_from_its_post_until_its_reply_is_old() {
        let names = Arc::new(NamedRuns::default());
        let minute = Duration::from_secs(60);
        let run = names.begin([1; 16], minute).ok().unwrap();
        assert_eq!(names.begin([1; 16], minute).err(), Some(EarlierReply::Open));
        drop(names.begin([2; 16], minute).ok().unwrap());
        drop(names.begin([2; 16], minute).ok().unwrap());
        run.end(ReplyOutcome::Replied);
        assert_eq!(names.begin([1; 16], minute).err(), Some(EarlierReply::Ended(ReplyOutcome::Replied)));
        names.forget_old(Duration::ZERO);
        assert!(names.begin([1; 16], minute).is_ok());
    }
}
