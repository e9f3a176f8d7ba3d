//! Owns one of the places for controllers in a process, and the instruction that it was given.

use std::cell::Cell;

use tokio::sync::Notify;

use super::protocol::Instruction;

/// One of the places for controllers in a process. A controller that falls silent is replaced in its slot.
pub(super) struct Slot {
    pub(super) place: usize,
    order: Cell<Option<Instruction>>,
    order_given: Notify,
}

impl Slot {
    pub(super) fn new(place: usize) -> Self {
        Self { place, order: Cell::new(None), order_given: Notify::new() }
    }

    pub(super) fn instruct(&self, order: Instruction) {
        self.order.set(Some(order));
        self.order_given.notify_one();
    }

    pub(super) async fn instruction(&self) -> Instruction {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.order_given.notified().await;
        }
    }
}
