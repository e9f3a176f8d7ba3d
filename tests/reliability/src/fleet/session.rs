//! Owns a controller that waits with several slots on one connection: it acknowledges each run, and frees its slot.

use std::rc::Rc;
use std::time::Duration;

use pilotlight_bench::requests::run_and_pool;

use super::context::FleetContext;
use super::event_stream::EventStream;
use super::protocol::{Action, Event, Instruction};
use super::slot::Slot;
use super::transport::{Acknowledgement, Delivery, Transport, slots};
use super::websocket::WebSocket;

/// An open connection.
pub(super) enum Session {
    WebSocket(WebSocket),
    EventStream(EventStream),
}

/// How long a controller that had paused waits for runs that are in its socket's buffer.
const LATE_READ_TIMEOUT: Duration = Duration::from_millis(200);

impl Session {
    async fn open(
        crew: &FleetContext,
        transport: Transport,
        (pool, controller): (usize, u64),
        slots: usize,
    ) -> anyhow::Result<Self> {
        let (source, broker) = (crew.source(), crew.broker());
        Ok(match transport {
            Transport::WebSocket => {
                Self::WebSocket(WebSocket::open(source, broker, (pool, controller), slots).await?)
            }
            Transport::EventStream => {
                Self::EventStream(EventStream::open(source, broker, (pool, controller), slots).await?)
            }
        })
    }

    /// The next run. It can be given up without a loss.
    async fn delivery(&mut self) -> anyhow::Result<Delivery> {
        match self {
            Self::WebSocket(socket) => socket.delivery().await,
            Self::EventStream(stream) => stream.delivery().await,
        }
    }

    /// Whether the acknowledgement was taken.
    async fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> anyhow::Result<()> {
        match (self, acknowledgement) {
            (Self::WebSocket(socket), Acknowledgement::Messages(bytes)) => socket.send(&bytes).await,
            (Self::EventStream(stream), Acknowledgement::Targets { ack, ready }) => {
                stream.confirm(&ack, &ready).await
            }
            _ => anyhow::bail!("an acknowledgement of another transport"),
        }
    }

    fn stream(&self) -> &tokio::net::TcpStream {
        match self {
            Self::WebSocket(socket) => socket.stream(),
            Self::EventStream(stream) => stream.stream(),
        }
    }
}

/// The slots of one controller: those that wait, by their own numbers.
struct Slots {
    controller: u64,
    pool: usize,
    waiting: Vec<bool>,
}

impl Slots {
    fn of_waiting(&self, what: Event) {
        for (number, _) in self.waiting.iter().enumerate().filter(|(_, waits)| **waits) {
            FleetContext::report(self.controller + number as u64, what);
        }
    }

    /// All slots, because a run that is on its way to one of them may be read while its controller misbehaves.
    fn mark_unhealthy(&self) {
        for number in 0..self.waiting.len() {
            FleetContext::report(self.controller + number as u64, Event::Unhealthy);
        }
    }

    /// Reports a run that was received. Returns the number of the slot that it has taken.
    fn receive(&mut self, payload: &[u8]) -> usize {
        let number = self.waiting.iter().position(|waits| *waits).unwrap_or(0);
        self.waiting[number] = false;
        let what = match run_and_pool(payload) {
            Some((run, pool)) if pool == self.pool => Event::Received(run),
            Some((run, _)) => Event::WrongPool(run),
            None => Event::Status(0),
        };
        FleetContext::report(self.controller + number as u64, what);
        number
    }

    fn free(&mut self, number: usize) {
        self.waiting[number] = true;
        FleetContext::report(self.controller + number as u64, Event::PollSent(self.pool));
    }
}

/// Waits on one connection until it ends. An error means that it failed, so that the next one should not follow at once.
pub(super) async fn wait_once(
    crew: &Rc<FleetContext>,
    place: &Slot,
    transport: Transport,
    controller: u64,
) -> anyhow::Result<()> {
    let (pool, count) = (place.place % crew.options.pools, slots(place.place));
    let mut session = Session::open(crew, transport, (pool, controller), count).await?;
    let mut slots = Slots { controller, pool, waiting: vec![false; count] };
    (0..count).for_each(|number| slots.free(number));
    loop {
        tokio::select! {
            biased;
            delivery = session.delivery() => {
                let Ok(Delivery { payload, acknowledgement }) = delivery else {
                    slots.of_waiting(Event::ConnectionEnded);
                    anyhow::bail!("the connection has ended");
                };
                // The report is older than the acknowledgement, which is the proof.
                let number = slots.receive(&payload);
                if let Err(error) = session.acknowledge(acknowledgement).await {
                    slots.of_waiting(Event::ConnectionEnded);
                    return Err(error);
                }
                slots.free(number);
            }
            order = place.instruction() => {
                carry_out(crew, session, slots, order).await;
                return Ok(());
            }
        }
    }
}

async fn carry_out(crew: &FleetContext, mut session: Session, mut slots: Slots, order: Instruction) {
    let mut is_rude = false;
    match order.action {
        Action::Close | Action::Exit => {}
        Action::Reset => is_rude = true,
        Action::CloseOnRun => {
            slots.mark_unhealthy();
            let _ = tokio::time::timeout(crew.timeout(), session.stream().readable()).await;
        }
        Action::ResetAfterRun => {
            slots.mark_unhealthy();
            if let Ok(Ok(delivery)) = tokio::time::timeout(crew.timeout(), session.delivery()).await {
                slots.receive(&delivery.payload);
            }
            is_rude = true;
        }
        Action::PauseReading => {
            slots.mark_unhealthy();
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
            while let Ok(Ok(delivery)) = tokio::time::timeout(LATE_READ_TIMEOUT, session.delivery()).await {
                slots.receive(&delivery.payload);
            }
        }
        Action::StopReading => {
            slots.mark_unhealthy();
            tokio::time::sleep(Duration::from_millis(order.millis)).await;
        }
    }
    slots.of_waiting(Event::Leaving);
    if is_rude {
        // An error means that the broker has closed the connection already.
        let _ = session.stream().set_zero_linger();
    }
}
