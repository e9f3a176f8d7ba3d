//! Owns parking: a poll that was parsed becomes a waiter in its pool.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dialect::PollRequest;
use super::state::HttpState;
use crate::broker::ParkRequest;
use crate::transport::{CloseReason, Connection, LongPoll, ParkedGuard, Waiter};

/// Parks the poll. `Break` if a limit refuses it: then the connection is closed without a response, because any status would
/// end a stock controller.
pub(super) fn park(
    state: &HttpState,
    connection: &Arc<Connection>,
    poll: &PollRequest<'_>,
) -> ControlFlow<(), ParkedGuard> {
    if state.admission.is_short_of_memory() {
        state.metrics.poll_refused();
        return ControlFlow::Break(());
    }
    let now = state.exchange.at(Instant::now());
    let PollRequest { key, accepts, controller, host, client, format, reusable, timeout, guard, grace } =
        poll;
    let guard = guard.map_or(Duration::ZERO, |least| least.max(4 * connection.round_trip()));
    let origin = client.origin();
    let request = ParkRequest {
        key: key.as_ref(),
        accepts: *accepts,
        controller: (**controller).into(),
        host: *host,
        is_exclusive: true,
        offer_until: now.plus(timeout.saturating_sub(guard)),
        deadline: now.plus(*timeout + *grace),
        waiter: Waiter::LongPoll(LongPoll::new(connection.clone(), format, *reusable, client.through_proxy)),
    };
    match state.exchange.park(request, now) {
        Ok((place, replaced)) => {
            if let Some(replaced) = replaced {
                state.shared_names.record(&state.metrics, &replaced.controller, origin);
                replaced.waiter.close(CloseReason::Replaced);
            }
            ControlFlow::Continue(place)
        }
        Err(full) => {
            tracing::debug!(limit = full.limit(), "a poll was closed without an answer");
            ControlFlow::Break(())
        }
    }
}
