//! Owns one controller: it polls, reports what it received, and polls again, unless it is instructed to misbehave.

use std::rc::Rc;
use std::time::Duration;

use super::context::FleetContext;
use super::protocol::{Action, Event, Instruction, first_slot};
use super::session::wait_once;
use super::slot::Slot;
use super::transport::Transport;
use pilotlight_bench::client::Client;
use pilotlight_bench::requests::{native_poll_request, poll_request_from, run_and_pool};

/// The first delay after a failed connection, in milliseconds. It doubles with each further failure.
const FIRST_BACKOFF_MS: u64 = 50;
/// A silent controller's socket stays open for this long after the poll's timeout, so that the broker closes it first.
const SILENT_SOCKET_GRACE: Duration = Duration::from_secs(5);
/// How long a controller that had paused waits for a response to be in its socket's buffer.
const LATE_READ_TIMEOUT: Duration = Duration::from_millis(200);

/// How a poll ended.
enum PollEnd {
    /// With a response; the connection is there if it can be used for the next poll.
    Answered(Option<Client>),
    /// The connection failed.
    Over,
    /// The controller has fallen silent; another one takes its slot.
    Silent(Client),
}

/// Waits from this slot until the process ends.
pub(super) async fn run_slot(crew: Rc<FleetContext>, slot: Rc<Slot>) {
    match crew.options.transport(slot.place) {
        None => poll_forever(crew, slot).await,
        Some(transport) => wait_forever(crew, slot, transport).await,
    }
}

/// Waits on one connection after the other.
async fn wait_forever(crew: Rc<FleetContext>, slot: Rc<Slot>, transport: Transport) {
    let controller = first_slot(crew.options.serial, slot.place);
    loop {
        if wait_once(&crew, &slot, transport, controller).await.is_err() {
            let rest = crew.rng.borrow_mut().u64(..FIRST_BACKOFF_MS * 4);
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

async fn poll_forever(crew: Rc<FleetContext>, slot: Rc<Slot>) {
    let mut controller = crew.first_controller() + slot.place as u64;
    let pool = slot.place % crew.options.pools;
    let mut kept = None;
    let mut failures = 0_u32;
    loop {
        let client = match kept.take() {
            Some(client) => Ok(client),
            None => Client::connect_from(crew.source(), crew.broker()).await,
        };
        match client {
            Ok(client) => match poll_once(&crew, &slot, controller, pool, client).await {
                PollEnd::Answered(client) => (kept, failures) = (client, 0),
                PollEnd::Over => failures += 1,
                PollEnd::Silent(client) => {
                    controller += crew.options.count as u64;
                    let time = crew.timeout() + SILENT_SOCKET_GRACE;
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(time).await;
                        drop(client);
                    });
                }
            },
            Err(_) => failures += 1,
        }
        if failures > 0 {
            let rest = crew.rng.borrow_mut().u64(..FIRST_BACKOFF_MS << failures.min(4));
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
    }
}

async fn poll_once(
    crew: &Rc<FleetContext>,
    slot: &Slot,
    controller: u64,
    pool: usize,
    mut client: Client,
) -> PollEnd {
    let number = usize::try_from(controller).unwrap_or(usize::MAX);
    let poll = if crew.is_native(slot.place) {
        native_poll_request(pool, number)
    } else {
        poll_request_from(&format!("worker_{}", crew.options.serial), pool, number)
    };
    if client.send(&poll).await.is_err() {
        return PollEnd::Over;
    }
    FleetContext::report(controller, Event::PollSent(pool));
    let (mut patience, mut leaves) = (crew.timeout(), Action::Close);
    {
        let mut rng = crew.rng.borrow_mut();
        if rng.f64() < crew.options.silent {
            FleetContext::report(controller, Event::Unhealthy);
            return PollEnd::Silent(client);
        }
        if rng.f64() < crew.options.aborts {
            patience = patience.mul_f64(rng.f64());
            leaves = if rng.bool() { Action::Close } else { Action::Reset };
        }
    }
    tokio::select! {
        biased;
        answer = read_response(controller, pool, &mut client) => match answer {
            Some(true) => PollEnd::Answered(None),
            Some(false) => PollEnd::Answered(Some(client)),
            None => PollEnd::Over,
        },
        order = slot.instruction() => {
            carry_out(crew, controller, pool, client, order).await;
            PollEnd::Answered(None)
        }
        () = tokio::time::sleep(patience) => {
            leave(controller, client, leaves == Action::Reset);
            PollEnd::Answered(None)
        }
    }
}

/// Reads the response and reports it first of all: with `received` the broker takes the end of the connection as the
/// receipt, so the report has to be older. Returns whether the connection has to be closed; `None` without a response.
async fn read_response(controller: u64, pool: usize, client: &mut Client) -> Option<bool> {
    let Ok(answer) = client.response().await else {
        FleetContext::report(controller, Event::ConnectionEnded);
        return None;
    };
    let what = match (answer.status, run_and_pool(answer.body)) {
        (200, Some((run, of))) if of == pool => Event::Received(run),
        (200, Some((run, _))) => Event::WrongPool(run),
        (204, _) => Event::NoRun,
        (307, _) => Event::Redirected,
        (status, _) => Event::Status(status),
    };
    FleetContext::report(controller, what);
    Some(answer.closes)
}

fn leave(controller: u64, client: Client, reset: bool) {
    FleetContext::report(controller, Event::Leaving);
    if reset {
        // An error means that the broker has closed the connection already.
        let _ = client.stream().set_zero_linger();
    }
    drop(client);
}

async fn carry_out(
    crew: &FleetContext,
    controller: u64,
    pool: usize,
    mut client: Client,
    order: Instruction,
) {
    match order.action {
        Action::Close | Action::Reset | Action::Exit => {
            return leave(controller, client, order.action == Action::Reset);
        }
        Action::CloseOnRun | Action::ResetAfterRun | Action::PauseReading | Action::StopReading => {
            FleetContext::report(controller, Event::Unhealthy);
        }
    }
    match order.action {
        Action::CloseOnRun => {
            let _ = tokio::time::timeout(crew.timeout(), client.stream().readable()).await;
        }
        Action::ResetAfterRun => {
            let _ = tokio::time::timeout(crew.timeout(), read_response(controller, pool, &mut client)).await;
            return leave(controller, client, true);
        }
        Action::PauseReading => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
            let _ =
                tokio::time::timeout(LATE_READ_TIMEOUT, read_response(controller, pool, &mut client)).await;
        }
        Action::Close | Action::Reset | Action::StopReading | Action::Exit => {
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
        }
    }
    leave(controller, client, false);
}
