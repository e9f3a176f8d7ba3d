//! Owns the memory of answers: of many that are open, of a large one that passes, and of one that nobody reads.

use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use pilotlight_bench::runtime::block_on_local;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;
use tokio::time::{Instant, sleep};

use super::ask::{Answer, Ask};
use super::caller::Caller;
use super::figures::count;
use super::kernel_queues;
use super::origin::{self, OriginProcess};
use super::progress::Progress;
use super::scope::StreamScope;
use super::subject::{StartedSubject, Subject};
use crate::load::settling_time;
use crate::usage::cpu;

/// Memory, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct MemoryFigures {
    /// Resident with many open answers, more than before their workers and callers came.
    pub(crate) open: f64,
    /// The part of it that stood before a caller came: the workers' polls.
    pub(crate) waiting: f64,
    /// The most that was resident while the large answer passed, more than before.
    pub(crate) large: f64,
    /// Bytes of the large answer per second, and per second of the server's CPU time.
    pub(crate) large_rate: f64,
    pub(crate) large_per_cpu_second: f64,
    pub(crate) unread: Unread,
}

/// What stands of an answer that nobody reads, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    /// In the server and in the kernel's queues of its sockets.
    pub(crate) all: f64,
    /// In the queue of the socket from which the server reads it, and of the one on which it writes it.
    pub(crate) received: f64,
    pub(crate) unsent: f64,
    /// It was still growing.
    pub(crate) is_unbounded: bool,
}

pub(super) fn measure(subject: &Subject, scope: &StreamScope) -> anyhow::Result<MemoryFigures> {
    let (open, waiting) = open(&subject.start()?, scope.open)?;
    let (large, large_rate, large_per_cpu_second) = large(&subject.start()?, scope.large)?;
    let unread = unread(&subject.start()?)?;
    let figures = MemoryFigures { open, waiting, large, large_rate, large_per_cpu_second, unread };
    print(&format!("  {:<12} {figures:?}\n", subject.name));
    Ok(figures)
}

/// The calls before a measurement, so that one-time allocations are not counted.
const FIRST_CALLS: u32 = 10;
const SETTLES: Duration = Duration::from_millis(500);
/// Longer than an answer stays open here.
const LONG: Duration = Duration::from_secs(600);

/// Holds answers open after their first token: what they and the workers' polls keep resident, and what the polls alone do.
fn open(started: &StartedSubject, answers: usize) -> anyhow::Result<(f64, f64)> {
    block_on_local(async {
        let first = OriginProcess::start(started.origin, 1)?;
        warm_up(started).await?;
        drop(first);
        sleep(SETTLES).await;
        let idle = resident(&started.server)?;
        let _origin = OriginProcess::start(started.origin, answers)?;
        sleep(settling_time(answers)).await;
        let waiting = resident(&started.server)?;
        let answer = Answer::Tokens { count: 1, delay: Duration::ZERO, hold: LONG };
        let mut callers = Vec::with_capacity(answers);
        for number in 0..answers {
            let ask = Ask { request: u32::try_from(number)?, answer: answer.clone() };
            let mut caller = Caller::connect(started.target).await?;
            caller.call_until_first_token(&ask).await?;
            callers.push(caller);
        }
        sleep(SETTLES).await;
        let open = resident(&started.server)?;
        Ok((open - idle, waiting - idle))
    })
}

/// Passes an answer: the most that was resident meanwhile, its bytes per second, and those per CPU second.
fn large(started: &StartedSubject, size: u64) -> anyhow::Result<(f64, f64, f64)> {
    block_on_local(async {
        let _origin = OriginProcess::start(started.origin, 1)?;
        warm_up(started).await?;
        let (before, cpu_before) = (resident(&started.server)?, cpu(started.server.pid())?);
        let mut caller = Caller::connect(started.target).await?;
        let begun = Instant::now();
        let mut most = before;
        let ask = Ask { request: FIRST_CALLS, answer: Answer::Bytes(size) };
        let call = caller.call(&ask, |_| {});
        tokio::pin!(call);
        loop {
            tokio::select! {
                ended = &mut call => break ended?,
                () = sleep(Duration::from_millis(20)) => most = most.max(resident(&started.server)?),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu(started.server.pid())?.saturating_sub(cpu_before).as_secs_f64();
        Ok((most - before, count(size) / seconds, count(size) / cpu))
    })
}

/// An answer that is not read is written for no longer, and no further, than this.
const UNREAD_TIME: Duration = Duration::from_secs(5);
const UNREAD_SIZE: u64 = 256 * 1024 * 1024;
/// It stands if it has not grown for so long.
const STANDS_AFTER: Duration = Duration::from_millis(500);

/// What stands between an origin that writes and a caller that never reads. What the kernel holds for the origin's own socket and for
/// the caller's is not the server's.
fn unread(started: &StartedSubject) -> anyhow::Result<Unread> {
    let progress = Rc::new(Progress::default());
    block_on_local(async {
        let origin = origin::start(started.origin, 1, &progress).await?;
        let measured = async {
            sleep(settling_time(1)).await;
            let mut caller = Caller::connect(started.target).await?;
            caller.post(&Ask { request: 0, answer: Answer::Bytes(UNREAD_SIZE) }).await?;
            let is_unbounded = !stands(&progress).await;
            let Some((origin, in_server)) = progress.connection.get() else { bail!("nothing is written") };
            let (reader, to_reader) = (caller.stream().local_addr()?, caller.stream().peer_addr()?);
            let outside =
                kernel_queues::of(origin, in_server)?.unsent + kernel_queues::of(reader, to_reader)?.unread;
            Ok(Unread {
                all: count(progress.written.get().saturating_sub(outside)),
                received: count(kernel_queues::of(in_server, origin)?.unread),
                unsent: count(kernel_queues::of(to_reader, reader)?.unsent),
                is_unbounded,
            })
        };
        tokio::select! {
            figures = measured => figures,
            failure = origin => failure.and_then(|()| bail!("the origin has left")),
        }
    })
}

/// Whether what is written stops growing in time.
async fn stands(progress: &Progress) -> bool {
    let begun = Instant::now();
    let (mut written, mut since) = (0, begun);
    while begun.elapsed() < UNREAD_TIME {
        sleep(Duration::from_millis(20)).await;
        if progress.written.get() != written {
            (written, since) = (progress.written.get(), Instant::now());
        } else if written > 0 && since.elapsed() > STANDS_AFTER {
            return written < UNREAD_SIZE;
        }
    }
    false
}

async fn warm_up(started: &StartedSubject) -> anyhow::Result<()> {
    let mut caller = Caller::connect(started.target).await?;
    for request in 0..FIRST_CALLS {
        let answer = Answer::Tokens { count: 2, delay: Duration::from_millis(1), hold: Duration::ZERO };
        caller.call(&Ask { request, answer }, |_| {}).await?;
    }
    sleep(SETTLES).await;
    Ok(())
}

fn resident(server: &Server) -> anyhow::Result<f64> {
    Ok(count(server.resident()?))
}
