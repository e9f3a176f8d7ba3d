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

/// A broker that knows of a run only what was announced forgets it after the time for which runs are remembered. So a run that takes
/// longer is announced again, so often in that time.
const ANNOUNCED_AGAIN: u32 = 3;

#[derive(Clone, Copy)]
enum State {
    /// Last announced to other brokers then: the first time by its dispatch.
    Open(Instant),
    Ended {
        outcome: ReplyOutcome,
        at: Instant,
        /// Whether that was announced.
        is_announced: bool,
    },
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
        if let Some(earlier) = names.get(&name).and_then(|state| state.describe(remember_for)) {
            return Err(earlier);
        }
        names.insert(name, State::Open(Instant::now()));
        Ok(NamedRun { names: self.clone(), name, has_ended: false })
    }

    /// How the reply to this run stands, if it has one.
    pub(super) fn find(&self, name: [u8; 16], remember_for: Duration) -> Option<EarlierReply> {
        self.0.lock().get(&name).and_then(|state| state.describe(remember_for))
    }

    /// Forgets the runs whose replies ended before. Calls `announce` for each run that other brokers must hear of again, so that they
    /// remember it for as long.
    pub(super) fn forget_old(&self, remember_for: Duration, mut announce: impl FnMut([u8; 16])) {
        let mut names = self.0.lock();
        names.retain(|name, state| {
            match state {
                State::Open(announced) if announced.elapsed() < remember_for / ANNOUNCED_AGAIN => {}
                State::Open(announced) => {
                    *announced = Instant::now();
                    announce(*name);
                }
                State::Ended { is_announced, .. } => {
                    if !std::mem::replace(is_announced, true) {
                        announce(*name);
                    }
                }
            }
            state.describe(remember_for).is_some()
        });
        if names.capacity() > 1024 && names.len() < names.capacity() / 4 {
            names.shrink_to_fit();
        }
    }
}

impl State {
    /// None if it has ended too long ago.
    fn describe(self, remember_for: Duration) -> Option<EarlierReply> {
        match self {
            Self::Open(_) => Some(EarlierReply::Open),
            Self::Ended { outcome, at, .. } => {
                (at.elapsed() < remember_for).then_some(EarlierReply::Ended(outcome))
            }
        }
    }
}

impl NamedRun {
    /// The reply has ended, and is remembered.
    pub fn end(mut self, outcome: ReplyOutcome) {
        self.has_ended = true;
        let ended = State::Ended { outcome, at: Instant::now(), is_announced: false };
        self.names.0.lock().insert(self.name, ended);
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
        names.forget_old(Duration::ZERO, |_| {});
        assert!(names.begin([1; 16], minute).is_ok());
    }

    #[test]
    fn a_run_is_announced_again_while_its_reply_is_open_and_when_it_has_ended() {
        let names = Arc::new(NamedRuns::default());
        let minute = Duration::from_secs(60);
        let announced = |remember_for| {
            let mut announced = Vec::new();
            names.forget_old(remember_for, |name| announced.push(name[0]));
            announced
        };
        let run = names.begin([1; 16], minute).ok().unwrap();
        assert!(announced(minute).is_empty(), "its dispatch has announced it");
        assert_eq!((announced(Duration::ZERO), announced(minute)), (vec![1], Vec::new()));
        assert_eq!(names.find([1; 16], minute), Some(EarlierReply::Open));
        run.end(ReplyOutcome::Replied);
        assert_eq!((announced(minute), announced(minute)), (vec![1], Vec::new()));
        assert_eq!(names.find([1; 16], minute), Some(EarlierReply::Ended(ReplyOutcome::Replied)));
        assert_eq!((names.find([1; 16], Duration::ZERO), names.find([2; 16], minute)), (None, None));
    }
}
