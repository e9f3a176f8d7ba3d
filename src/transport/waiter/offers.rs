//! Owns the offers of one session: which are open, which are acknowledged, and whose slot is not free yet. No socket, no lock.

use std::task::Waker;

use bytes::Bytes;

/// The offers that a session remembers, numbered from 1 without gaps.
#[derive(Default)]
pub(super) struct Offers {
    /// How many offers were made.
    made: u32,
    list: Vec<Offer>,
}

struct Offer {
    number: u32,
    run: Bytes,
    state: OfferState,
    /// Its slot was freed before the offer ended.
    is_freed: bool,
    /// Wakes the task that proves it.
    waker: Option<Waker>,
}

/// What is known of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfferState {
    /// It is proved by nothing yet.
    Open,
    /// The controller has acknowledged it.
    Acknowledged,
    /// Its proof is over, and its slot is not free yet.
    Ended,
}

/// What an acknowledgement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum AckEnd {
    /// It proves an offer, or did before.
    Counted,
    /// The offer has ended; or it is of another run; or several offers of the run are open, and it names none. It changes nothing.
    Ignored,
    /// No such offer was ever made.
    NeverMade,
}

impl Offers {
    /// Begins an offer, and returns its number.
    pub(super) fn begin(&mut self, run: Bytes) -> u32 {
        self.made = self.made.wrapping_add(1);
        let state = OfferState::Open;
        self.list.push(Offer { number: self.made, run, state, is_freed: false, waker: None });
        self.made
    }

    /// An offer of which no byte was sent never was.
    pub(super) fn undo(&mut self, number: u32) {
        self.list.retain(|offer| offer.number != number);
    }

    /// Whether an offer's proof is not over.
    pub(super) fn has_open(&self) -> bool {
        self.list.iter().any(|offer| offer.state != OfferState::Ended)
    }

    /// The controller acknowledges a run. Without a number it counts if one offer of the run is open.
    pub(super) fn ack(&mut self, run: &str, number: Option<u32>) -> AckEnd {
        let Some(number) = number else {
            let mut open = self
                .list
                .iter_mut()
                .filter(|offer| offer.state == OfferState::Open && offer.run == run.as_bytes());
            let (Some(offer), None) = (open.next(), open.next()) else { return AckEnd::Ignored };
            offer.acknowledge();
            return AckEnd::Counted;
        };
        if number == 0 || number > self.made {
            return AckEnd::NeverMade;
        }
        match self.find(number) {
            Some(offer) if offer.run == run.as_bytes() => {
                offer.acknowledge();
                AckEnd::Counted
            }
            Some(_) | None => AckEnd::Ignored,
        }
    }

    /// The controller has read the run of an offer, as its reply shows.
    pub(super) fn acknowledge(&mut self, number: u32) {
        if let Some(offer) = self.find(number) {
            offer.acknowledge();
        }
    }

    /// Whether the controller has acknowledged an offer whose proof is not over.
    pub(super) fn is_acknowledged(&self, number: u32) -> bool {
        self.list.iter().any(|offer| offer.number == number && offer.state == OfferState::Acknowledged)
    }

    /// The run of an offer that is remembered.
    pub(super) fn run_of(&self, number: u32) -> Option<&[u8]> {
        self.list.iter().find(|offer| offer.number == number).map(|offer| &*offer.run)
    }

    /// The state of an offer, and the waker that is woken when it changes.
    pub(super) fn poll(&mut self, number: u32, waker: &Waker) -> Option<OfferState> {
        let offer = self.find(number)?;
        if !offer.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            offer.waker = Some(waker.clone());
        }
        Some(offer.state)
    }

    /// The proof of an offer is over. With `keep`, it is remembered until its slot is freed.
    pub(super) fn end(&mut self, number: u32, keep: bool) {
        if let Some(offer) = self.find(number) {
            offer.state = OfferState::Ended;
            if offer.is_freed || !keep {
                self.undo(number);
            }
        }
    }

    /// Frees the slot of an offer. False if it was freed before.
    pub(super) fn free(&mut self, number: u32) -> bool {
        let Some(offer) = self.find(number) else { return false };
        let is_first = !std::mem::replace(&mut offer.is_freed, true);
        if offer.state == OfferState::Ended {
            self.undo(number);
        }
        is_first
    }

    /// Wakes every proof, because the connection is over.
    pub(super) fn wake_all(&mut self) {
        self.list.iter_mut().filter_map(|offer| offer.waker.take()).for_each(Waker::wake);
    }

    fn find(&mut self, number: u32) -> Option<&mut Offer> {
        self.list.iter_mut().find(|offer| offer.number == number)
    }
}

impl Offer {
    fn acknowledge(&mut self) {
        if self.state == OfferState::Open {
            self.state = OfferState::Acknowledged;
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}
