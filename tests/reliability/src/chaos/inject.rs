//! Owns the injection of faults: each is counted, and is over when its task ends.

use pilotlight_bench::stdout::print;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::schedule::Fault;
use super::testbed::Testbed;
use crate::fleet::{Hit, Instruction, REPLACEMENT_DELAY, unix_micros};
use crate::oracle::Affected;
use crate::supervisors::{Dialect, SendMode};

/// How long the broker may take to accept waiting connections after a fault that kept it from accepting.
const ACCEPT_RECOVERY: Duration = Duration::from_millis(1500);
/// A draining broker exits within this time, which includes its drain window.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Injects one fault, and returns when it is over.
pub(super) async fn inject(stage: Rc<Testbed>, fault: Fault) -> anyhow::Result<()> {
    *stage.injected.borrow_mut().entry(fault.kind()).or_default() += 1;
    let millis = Duration::from_millis;
    match fault {
        Fault::StopFleet { fleet, millis: time } => {
            let Hit { serial, from } = stage.fleets.pause(fleet, millis(time)).await;
            stage.disturbed(Affected::Fleet(serial), from);
        }
        Fault::KillFleet { fleet } => kill_fleet(&stage, fleet).await?,
        Fault::Misbehave { fleet, what, count, millis } => {
            let order = Instruction { action: what, count, millis };
            stage.fleets.instruct(fleet, order);
            sleep(Duration::from_millis(millis)).await;
        }
        Fault::Posts { way, count } => posts(&stage, way, count).await,
        Fault::PostTwice { dialect, count } => post_twice(&stage, dialect, count).await,
        Fault::InvalidBytes { count } => send_invalid_bytes(&stage, count).await,
        Fault::SilentConnections { count, millis: time } => {
            open_silent_connections(&stage, count, millis(time)).await;
        }
        Fault::NoDescriptors { millis: time } => exhaust_descriptors(&stage, millis(time)).await?,
        Fault::Drain | Fault::Kill => restart(&stage, fault == Fault::Drain).await?,
        Fault::StopBroker { millis: time } => {
            let _turn = stage.broker_lock.lock().await;
            let from = unix_micros();
            stage.broker.borrow().signal(Signal::STOP);
            sleep(millis(time)).await;
            stage.broker.borrow().signal(Signal::CONT);
            sleep(Duration::from_millis(300)).await;
            stage.disturbed(Affected::Broker(0), from);
        }
    }
    Ok(())
}

async fn kill_fleet(stage: &Testbed, fleet: usize) -> anyhow::Result<()> {
    let Some(Hit { serial, from }) = stage.fleets.kill(fleet) else { return Ok(()) };
    stage.disturbed(Affected::Killed(serial), from);
    stage.fleet_killed(serial);
    sleep(REPLACEMENT_DELAY).await;
    stage.fleets.replace(fleet)
}

async fn posts(stage: &Rc<Testbed>, way: SendMode, count: usize) {
    let each = (0..count).map(|_| {
        let stage = stage.clone();
        tokio::task::spawn_local(async move {
            stage.supervisors.post(&mut None, 0, stage.supervisors.next_run(), way).await;
        })
    });
    for post in each.collect::<Vec<_>>() {
        let _ = post.await;
    }
}

async fn post_twice(stage: &Rc<Testbed>, dialect: Dialect, count: usize) {
    let mut both = Vec::new();
    for _ in 0..count {
        let (run, pool, _) = stage.supervisors.next_run();
        for _ in 0..2 {
            let stage = stage.clone();
            let wait = Duration::from_micros(stage.supervisors.rng.borrow_mut().u64(..5000));
            both.push(tokio::task::spawn_local(async move {
                sleep(wait).await;
                stage.supervisors.post(&mut None, 0, (run, pool, dialect), SendMode::Whole).await;
            }));
        }
    }
    for post in both {
        let _ = post.await;
    }
}

/// Sends nothing that could be parsed as a POST or a poll, which the broker would count.
async fn send_invalid_bytes(stage: &Testbed, count: usize) {
    for _ in 0..count {
        let bytes = {
            let mut rng = stage.supervisors.rng.borrow_mut();
            match rng.u8(..5) {
                0 => {
                    let mut bytes = vec![0; rng.usize(1..3000)];
                    rng.fill(&mut bytes);
                    bytes
                }
                1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
                2 => b"GET /connect HTTP/1.1\r\n\r\n".to_vec(),
                3 => format!("GET /connect HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(rng.usize(..20_000)))
                    .into_bytes(),
                _ => b"OPTIONS * HTTP/1.1\r\nhost: x\r\nhost: y\r\ncontent-length: +5\r\n\r\n".to_vec(),
            }
        };
        let Ok(mut stream) = TcpStream::connect(stage.supervisors.brokers[0]).await else { continue };
        let _ = stream.write_all(&bytes).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 512])).await;
    }
}

async fn open_silent_connections(stage: &Testbed, count: usize, time: Duration) {
    let from = unix_micros();
    let silent = connect(stage, count).await;
    sleep(time).await;
    drop(silent);
    stage.disturbed(Affected::NewConnections, from);
}

/// Holds descriptors until the broker has none left.
async fn exhaust_descriptors(stage: &Testbed, time: Duration) -> anyhow::Result<()> {
    let from = unix_micros();
    let mut silent = Vec::new();
    let mut last = 0;
    loop {
        silent.extend(connect(stage, 100).await);
        sleep(Duration::from_millis(20)).await;
        let open = stage.broker.borrow().open_files().unwrap_or(0);
        // It has no descriptors left, or it is dead or stopped.
        if open <= last || silent.len() > 5000 {
            break;
        }
        last = open;
    }
    print(&format!("  the broker has {last} descriptors open, {} connections were made\n", silent.len()));
    sleep(time).await;
    drop(silent);
    // The broker pauses accepting for up to a second.
    sleep(ACCEPT_RECOVERY).await;
    stage.disturbed(Affected::NewConnections, from);
    Ok(())
}

async fn connect(stage: &Testbed, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let connecting = TcpStream::connect(stage.supervisors.brokers[0]);
        match tokio::time::timeout(Duration::from_millis(200), connecting).await {
            Ok(Ok(stream)) => streams.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    streams
}

async fn restart(stage: &Testbed, is_polite: bool) -> anyhow::Result<()> {
    let _turn = stage.broker_lock.lock().await;
    let from = unix_micros();
    if is_polite {
        stage.broker.borrow().signal(Signal::TERM);
        let begun = tokio::time::Instant::now();
        while stage.broker.borrow_mut().is_running() && begun.elapsed() < DRAIN_TIMEOUT {
            sleep(Duration::from_millis(20)).await;
        }
        if stage.broker.borrow_mut().is_running() {
            stage.oracle.borrow_mut().fail("drain", "the broker did not end after SIGTERM");
        }
    }
    stage.broker.borrow_mut().kill()?;
    stage.broker_killed();
    stage.broker.borrow_mut().restart()?;
    sleep(ACCEPT_RECOVERY).await;
    stage.disturbed(Affected::Broker(0), from);
    Ok(())
}
