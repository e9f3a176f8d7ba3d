//! Owns the kinds of payload, and which of them a waiter accepts.

/// The kind of a run's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// A run message of Trigger.dev.
    TriggerMessage,
    /// Bytes that the broker does not interpret.
    Opaque,
}

impl PayloadKind {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Self; 2] = [Self::TriggerMessage, Self::Opaque];
}

/// How many waiters could be claimed, for each kind of payload.
pub type Claimable = [u32; PayloadKind::ALL.len()];

/// The kinds of payload that a waiter accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedPayload {
    /// Only a run message of Trigger.dev: a stock controller exits on anything else.
    TriggerMessage,
    /// Every kind.
    Any,
}

impl AcceptedPayload {
    /// Every set, in the order of the discriminants.
    pub const ALL: [Self; 2] = [Self::TriggerMessage, Self::Any];

    /// Whether the set contains this kind.
    pub const fn accepts(self, kind: PayloadKind) -> bool {
        match (self, kind) {
            (Self::Any, PayloadKind::TriggerMessage | PayloadKind::Opaque)
            | (Self::TriggerMessage, PayloadKind::TriggerMessage) => true,
            (Self::TriggerMessage, PayloadKind::Opaque) => false,
        }
    }
}
