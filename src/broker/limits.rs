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

impl Limits {
    /// Whether there is a place for another waiter, beside so many in its pool; none if it has no pool yet.
    pub(super) fn check(
        &self,
        waiters: usize,
        pools: usize,
        in_pool: Option<usize>,
    ) -> Result<(), LimitReached> {
        if waiters >= self.waiters {
            return Err(LimitReached::Waiters);
        }
        match in_pool {
            Some(in_pool) if in_pool >= self.waiters_per_pool => Err(LimitReached::Pool),
            None if self.waiters_per_pool == 0 => Err(LimitReached::Pool),
            None if pools >= self.pools => Err(LimitReached::Pools),
            _ => Ok(()),
        }
    }
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
