//! Owns the parts of a server, each of which has its own share of a figure.

/// A figure by part; 0 where there is no such part.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Parts {
    /// The broker.
    pub(crate) broker: f64,
    /// What serves the runtime API: the worker, or the emulator.
    pub(crate) stand_in: f64,
    /// The runtime clients with the handler, or the plain server's processes.
    pub(crate) functions: f64,
}

impl Parts {
    /// All parts together.
    pub(crate) fn sum(self) -> f64 {
        self.broker + self.stand_in + self.functions
    }

    /// Each part by itself.
    pub(super) fn combine(self, other: Self, each: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            broker: each(self.broker, other.broker),
            stand_in: each(self.stand_in, other.stand_in),
            functions: each(self.functions, other.functions),
        }
    }
}
