//! Owns how many waiters and pools there may be, and which waiter of a pool is matched first.

/// How many waiters and pools there may be. A limit of zero refuses every waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Waiters in all pools together.
    pub waiters: usize,
    /// Waiters in one pool.
    pub waiters_per_pool: usize,
    /// Pools with at least one waiter.
    pub pools: usize,
}

/// The limit that refuses a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitReached {
    /// [`Limits::waiters`] is reached.
    Waiters,
    /// [`Limits::waiters_per_pool`] is reached.
    Pool,
    /// [`Limits::pools`] is reached.
    Pools,
}

impl LimitReached {
    /// The name of the limit's setting.
    pub const fn limit(self) -> &'static str {
        match self {
            Self::Waiters => "max-waiters",
            Self::Pool => "max-waiters-per-pool",
            Self::Pools => "max-pools",
        }
    }
}

/// Which of a pool's waiters is matched first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionPolicy {
    /// The one that parked last: few controllers stay in use, the others expire, and the deadline of a match is far.
    Newest,
    /// The one that has waited longest.
    Oldest,
}
