//! Owns retirement: the controllers of selected pools are sent away for good, whatever they wait on.

use super::response_format::CloseReason;
use super::sessions::Sessions;
use super::waiter::Exchange;
use crate::broker::{Filter, Number};

/// Ends all waiters that are in the selected pools now, and the sessions of these pools, whose slots may all be in use. Returns how
/// many waiters that were. `line` is what the log says.
pub fn retire_pools(exchange: &Exchange, sessions: &Sessions, filter: &Filter, line: &str) -> usize {
    let retired = exchange.retire(filter, |taken| taken.waiter.close(CloseReason::Retired));
    sessions.retire(filter);
    let Filter { deployment, version, cpu, memory } = filter;
    let [cpu, memory] = [cpu, memory].map(|figure| figure.map(Number::get));
    tracing::info!(deployment, version, cpu, memory, retired, "{line}");
    retired
}
