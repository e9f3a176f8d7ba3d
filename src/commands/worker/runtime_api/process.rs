//! Owns one program as the API sees it: the events that it has, whether it has to go, and how it ended.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::posted::Posted;
use crate::commands::worker::program::Liveness;
use crate::model::random_uuid;

/// How many requests about one event may wait. The first one counts.
const MAX_POSTED: usize = 4;

/// One program, from its start to its end.
pub(super) struct RuntimeProcess {
    state: watch::Sender<State>,
    events: Mutex<HashMap<Arc<str>, mpsc::Sender<Posted>>>,
    liveness: Liveness,
}

#[derive(Default)]
struct State {
    /// How many events are open.
    open: usize,
    has_asked: bool,
    has_served: bool,
    is_condemned: bool,
    init_error: Option<Arc<str>>,
    end: Option<Arc<str>>,
}

impl State {
    fn is_unusable(&self) -> bool {
        self.is_condemned || self.init_error.is_some() || self.end.is_some()
    }
}

/// An event that a program has. Requests about it that come after this is dropped change nothing.
pub(super) struct OpenEvent {
    process: Arc<RuntimeProcess>,
    request: Arc<str>,
    pub(super) posted: mpsc::Receiver<Posted>,
}

impl RuntimeProcess {
    pub(super) fn new(liveness: Liveness) -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::default(), events: Mutex::default(), liveness })
    }

    /// Whether it can be given an event, as far as is known without waiting.
    pub(super) fn is_usable(&self) -> bool {
        !self.state.borrow().is_unusable() && !self.liveness.has_ended()
    }

    /// Returns once it cannot be given an event.
    pub(super) async fn unusable(&self) {
        self.until(State::is_unusable).await;
    }

    /// Opens an event under this name, or under a random one if the program has one of this name.
    pub(super) fn begin(self: &Arc<Self>, request: Arc<str>) -> OpenEvent {
        let (sender, posted) = mpsc::channel(MAX_POSTED);
        let mut events = self.events.lock();
        let request = if events.contains_key(&request) { random_uuid().into() } else { request };
        events.insert(request.clone(), sender);
        drop(events);
        self.state.send_modify(|state| {
            state.open += 1;
            state.has_served = true;
        });
        OpenEvent { process: self.clone(), request, posted }
    }

    /// Where requests about this event go, if it is open.
    pub(super) fn find(&self, request: &str) -> Option<mpsc::Sender<Posted>> {
        self.events.lock().get(request).cloned()
    }

    /// The program has asked for an event.
    pub(super) fn note_asked(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.has_asked, true));
    }

    /// The program says that it cannot begin, for this reason.
    pub(super) fn note_init_error(&self, reason: &str) {
        self.state.send_modify(|state| state.init_error = Some(reason.into()));
    }

    /// The program gets no other event, and has to go when those that it has are answered.
    pub(super) fn condemn(&self) {
        self.state.send_modify(|state| state.is_condemned = true);
    }

    /// The program has ended: `how` completes the sentence "Runtime exited …".
    pub(super) fn note_end(&self, how: &str) {
        self.state.send_modify(|state| state.end = Some(how.into()));
    }

    pub(super) fn has_open_events(&self) -> bool {
        self.state.borrow().open > 0
    }

    /// Whether it was given an event.
    pub(super) fn has_served(&self) -> bool {
        self.state.borrow().has_served
    }

    /// Returns once the program has asked for an event.
    pub(super) async fn asked(&self) {
        self.until(|state| state.has_asked).await;
    }

    /// Returns once the program has to be killed.
    pub(super) async fn condemned(&self) {
        self.until(|state| state.is_condemned && state.open == 0).await;
    }

    /// Returns why the program cannot begin, once it has said so.
    pub(super) async fn init_error(&self) -> Arc<str> {
        self.until(|state| state.init_error.is_some()).await;
        self.state.borrow().init_error.clone().unwrap_or_default()
    }

    /// Returns how the program ended, once it is known.
    pub(super) async fn ended(&self) -> Arc<str> {
        self.until(|state| state.end.is_some()).await;
        self.state.borrow().end.clone().unwrap_or_default()
    }

    async fn until(&self, reached: impl FnMut(&State) -> bool) {
        // The sender is part of this, so there is no error.
        let _ = self.state.subscribe().wait_for(reached).await;
    }
}

impl OpenEvent {
    /// The name by which the program knows it.
    pub(super) fn request(&self) -> &Arc<str> {
        &self.request
    }

    pub(super) fn process(&self) -> &Arc<RuntimeProcess> {
        &self.process
    }
}

impl Drop for OpenEvent {
    fn drop(&mut self) {
        self.process.events.lock().remove(&self.request);
        self.posted.close();
        while let Ok(posted) = self.posted.try_recv() {
            posted.refuse();
        }
        self.process.state.send_modify(|state| state.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use rustix::process::Pid;

    use super::*;

    /// A run that is here when the program has just ended must not be handed to it.
    #[test]
    fn a_program_that_has_ended_is_given_no_event_before_anybody_has_noticed() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = RuntimeProcess::new(Liveness::of(Some(Pid::from_child(&child))));
        assert!(process.is_usable());
        drop(child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        // Nobody has waited for it.
        while process.is_usable() {
            assert!(Instant::now() < deadline);
        }
        child.wait().unwrap();
        assert!(!process.is_usable());
    }

    #[test]
    fn two_events_of_one_name_are_two_events() {
        let process = RuntimeProcess::new(Liveness::of(None));
        let one = process.begin("job-7".into());
        let two = process.begin("job-7".into());
        assert_eq!(&**one.request(), "job-7");
        assert_ne!(one.request(), two.request());
        drop(one);
        assert!(process.find("job-7").is_none() && process.find(two.request()).is_some());
        assert!(process.has_open_events());
        drop(two);
        assert!(!process.has_open_events());
    }
}
