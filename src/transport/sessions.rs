//! Owns the sessions of a broker: by number, for tokens and heartbeats, and by controller, for the one that replaces another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::connection::Connection;
use super::waiter::{
    Exchange, Goodbye, OfferToken, Receipt, ReceiptError, Session, SessionContext, SessionKind, SessionOwner,
};
use crate::broker::Filter;
use crate::metrics::Metrics;

/// A WebSocket is pinged after so many ticks: 20 s.
const PING_TICKS: u32 = 400;
/// A comment is sent on a stream after so many ticks: 15 s.
const COMMENT_TICKS: u32 = 300;
/// At most so many sessions are handled before the lock is released.
const SESSIONS_PER_LOCK: usize = 256;

/// The sessions that are open.
pub struct Sessions {
    context: Arc<SessionContext>,
    hasher: RandomState,
    /// How many sessions have a controller with a name.
    named: AtomicUsize,
    /// How many there may be.
    most: AtomicUsize,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    /// How many sessions are open or are being opened.
    places: usize,
    by_number: BTreeMap<u32, Weak<Session>>,
    /// The number of the newest session of each controller that has a name, by a hash of pool, name and address.
    by_controller: HashMap<[u8; 8], u32, RandomState>,
    /// The number of the newest session.
    last: u32,
    /// How many ticks there were.
    now: u32,
    /// At which tick which session gets its next heartbeat, in this order: first those of WebSockets.
    heartbeats: [VecDeque<(u32, u32)>; 2],
}

impl Sessions {
    /// How often [`send_heartbeats`](Self::send_heartbeats) is called.
    pub const TICK: Duration = Duration::from_millis(50);

    /// No sessions. `broker` is this broker's id in its cluster, which its tokens then carry.
    pub fn new(exchange: Arc<Exchange>, metrics: &Metrics, broker: Option<u128>) -> Self {
        let withdraw = Box::new(move |id, end| {
            exchange.withdraw(id, end);
        });
        let waiting = SessionKind::TRANSPORTS.map(|transport| metrics.waiters(transport).clone());
        let context = Arc::new(SessionContext { waiting, broker: Mutex::new(broker), withdraw });
        let (named, most) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Self { context, hasher: RandomState::new(), named, most, registry: Mutex::default() }
    }

    /// From now on, more sessions than this are refused.
    pub fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A place for one more session; none if there are as many as there may be. Those whose slots are all in use are no waiters,
    /// but hold a connection.
    pub fn place(self: &Arc<Self>) -> Option<SessionPlace> {
        let mut registry = self.registry.lock();
        if registry.places >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        registry.places += 1;
        Some(SessionPlace { sessions: self.clone(), is_taken: false })
    }

    /// From now on, tokens name this broker by another id.
    pub fn set_broker(&self, id: u128) {
        *self.context.broker.lock() = Some(id);
    }

    /// Opens a session, which ends the older one of the same controller.
    fn open(&self, connection: Arc<Connection>, kind: SessionKind, owner: SessionOwner) -> Arc<Session> {
        let controller_hash = self.controller_hash(&owner);
        let mut registry = self.registry.lock();
        let number = registry.next_number();
        let session = Arc::new(Session::new(connection, self.context.clone(), kind, owner, number));
        registry.by_number.insert(number, Arc::downgrade(&session));
        let due = registry.now.wrapping_add(interval(kind));
        registry.heartbeats[kind.index()].push_back((due, number));
        let older = controller_hash.and_then(|hash| registry.by_controller.insert(hash, number));
        let older = older.and_then(|older| registry.find(older));
        self.named.store(registry.by_controller.len(), Ordering::Relaxed);
        drop(registry);
        if let Some(older) = older.filter(|older| older.owner.is_same(&session.owner)) {
            older.close(Goodbye::Replaced);
        }
        session
    }

    /// A session is over.
    pub(super) fn remove(&self, session: &Session) {
        let controller_hash = self.controller_hash(&session.owner);
        let mut registry = self.registry.lock();
        registry.by_number.remove(&session.number);
        registry.places -= 1;
        if let Some(hash) = controller_hash
            && registry.by_controller.get(&hash) == Some(&session.number)
        {
            registry.by_controller.remove(&hash);
            self.named.store(registry.by_controller.len(), Ordering::Relaxed);
        }
    }

    /// Ends the session of a controller that has come with a poll.
    pub fn replace(&self, owner: impl FnOnce() -> SessionOwner) {
        // Nearly always there is no session, and then nothing is computed.
        if self.named.load(Ordering::Relaxed) == 0 {
            return;
        }
        let owner = owner();
        let Some(hash) = self.controller_hash(&owner) else { return };
        let session = {
            let registry = self.registry.lock();
            let number = registry.by_controller.get(&hash).copied();
            number.and_then(|number| registry.find(number))
        };
        if let Some(session) = session.filter(|session| session.owner.is_same(&owner)) {
            session.close(Goodbye::Replaced);
        }
    }

    /// Takes a worker's receipt for an offer. Repeated, it changes nothing, and is no error.
    pub fn receive(&self, token: &OfferToken, run: &str, receipt: Receipt) -> Result<(), ReceiptError> {
        if !token.is_genuine() {
            return Err(ReceiptError::Forged);
        }
        let session = u32::try_from(token.session).ok().and_then(|number| self.registry.lock().find(number));
        session.ok_or(ReceiptError::Gone)?.receive(run, token.offer, receipt)
    }

    /// Sends the heartbeats that are due. To be called every [`TICK`](Self::TICK).
    pub fn send_heartbeats(&self) {
        {
            let mut registry = self.registry.lock();
            registry.now = registry.now.wrapping_add(1);
        }
        loop {
            let due = self.registry.lock().take_due();
            if due.is_empty() {
                return;
            }
            for session in due {
                session.heartbeat();
            }
        }
    }

    /// Ends all sessions whose pool the filter selects, because their pool was retired.
    pub fn retire(&self, filter: &Filter) {
        self.close_all(Goodbye::Retired, |session| filter.matches(session.owner.key()));
    }

    /// Ends all sessions, because the broker has drained.
    pub fn drain(&self) {
        self.close_all(Goodbye::Drained, |_| true);
    }

    fn close_all(&self, goodbye: Goodbye, is_selected: impl Fn(&Session) -> bool) {
        let mut next = Some(0);
        while let Some(from) = next {
            let page = self.registry.lock().page(from);
            next = page.last().and_then(|(number, _)| number.checked_add(1));
            for session in page.into_iter().filter_map(|(_, session)| session.upgrade()) {
                if is_selected(&session) {
                    session.close(goodbye);
                }
            }
        }
    }

    /// None for a controller without a name.
    fn controller_hash(&self, owner: &SessionOwner) -> Option<[u8; 8]> {
        let hash = || self.hasher.hash_one((owner.key(), owner.controller(), owner.address()));
        (!owner.controller().is_empty()).then(|| hash().to_ne_bytes())
    }
}

/// A place for a session that is being opened. It counts before the client is told, so that the limit is exact.
pub struct SessionPlace {
    sessions: Arc<Sessions>,
    is_taken: bool,
}

impl SessionPlace {
    /// Opens the session, which has the place until it is removed.
    pub(super) fn open(
        mut self,
        connection: Arc<Connection>,
        kind: SessionKind,
        owner: SessionOwner,
    ) -> (Arc<Sessions>, Arc<Session>) {
        self.is_taken = true;
        (self.sessions.clone(), self.sessions.open(connection, kind, owner))
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        if !self.is_taken {
            self.sessions.registry.lock().places -= 1;
        }
    }
}

impl Registry {
    fn find(&self, number: u32) -> Option<Arc<Session>> {
        self.by_number.get(&number).and_then(Weak::upgrade)
    }

    /// A number that no session has.
    fn next_number(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.by_number.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    /// Whether a tick has come, or is past by less than half of the ticks that there are.
    fn is_due(&self, tick: u32) -> bool {
        self.now.wrapping_sub(tick) <= u32::MAX / 2
    }

    /// The sessions from this number on, at most as many as may be handled under one lock.
    fn page(&self, from: u32) -> Vec<(u32, Weak<Session>)> {
        let rest = self.by_number.range(from..).take(SESSIONS_PER_LOCK);
        rest.map(|(number, session)| (*number, session.clone())).collect()
    }

    /// Sessions whose heartbeat is due, and notes when the next one is.
    fn take_due(&mut self) -> Vec<Arc<Session>> {
        let mut due = Vec::new();
        for queue in 0..self.heartbeats.len() {
            while due.len() < SESSIONS_PER_LOCK
                && let Some((_, number)) =
                    self.heartbeats[queue].front().copied().filter(|(due, _)| self.is_due(*due))
            {
                self.heartbeats[queue].pop_front();
                if let Some(session) = self.find(number) {
                    self.heartbeats[queue].push_back((self.now.wrapping_add(interval(session.kind)), number));
                    due.push(session);
                }
            }
        }
        due
    }
}

/// How many ticks there are from one heartbeat to the next.
fn interval(kind: SessionKind) -> u32 {
    match kind {
        SessionKind::WebSocket => PING_TICKS,
        SessionKind::EventStream { .. } => COMMENT_TICKS,
    }
}
