//! Owns how many may wait, and who of them is matched first.

/// How many may wait. A limit of zero refuses everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Waiters in all pools together.
    pub waiters: usize,
    /// Waiters in one pool.
    pub waiters_per_pool: usize,
    /// Pools with at least one waiter.
    pub pools: usize,
}

/// Why nobody may wait any more.
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
    /// The limit that is reached, as its setting is called.
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
    /// The one that came last: few controllers stay hot, the surplus ends, deadlines are far.
    Newest,
    /// The one that has waited longest.
    Oldest,
}
