//! Owns the measurement of sessions: WebSockets and streams of events, pilotlight's beside those of Bun and Node.

use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use super::alternate::alternate;
use super::results::SessionResults;
use super::scope::SessionScope;
use crate::load::{self, SessionShape, WaitKind};

/// What is measured: a server, and how controllers wait on it.
struct Subject {
    name: &'static str,
    server: &'static str,
    kind: WaitKind,
}

const SUBJECTS: [Subject; 6] = [
    Subject { name: "Bun, WebSocket", server: "bun-sessions", kind: WaitKind::Websocket },
    Subject { name: "Node, WebSocket", server: "node-sessions", kind: WaitKind::Websocket },
    Subject { name: "pilotlight, WebSocket", server: "pilotlight", kind: WaitKind::Websocket },
    Subject { name: "Bun, events", server: "bun-sessions", kind: WaitKind::EventStream },
    Subject { name: "Node, events", server: "node-sessions", kind: WaitKind::EventStream },
    Subject { name: "pilotlight, events", server: "pilotlight", kind: WaitKind::EventStream },
];

impl Subject {
    fn start(&self) -> anyhow::Result<Server> {
        Server::start(&match self.server {
            "pilotlight" => Implementation::pilotlight("received")?.with(&PATIENT.map(str::to_owned)),
            peer => Implementation::peer(peer, false)?,
        })
    }
}

/// The peers wait for an acknowledgement for ever. Where a pause of the machine delays one, it counts as latency for all of them.
const PATIENT: [&str; 4] = ["--proof-timeout", "10s", "--dispatch-budget", "30s"];

/// The load of the published comparisons.
pub(super) const MANY: &str = "500 sessions of one slot, 50 supervisors, 10 pools";
pub(super) const ONE: &str = "One session, one run at a time";

/// The loads: their description, sessions, slots of each, supervisors, pools.
const LOADS: [(&str, [usize; 4]); 3] = [
    (ONE, [1, 1, 1, 1]),
    (MANY, [500, 1, 50, 10]),
    ("One session of 64 slots, 50 supervisors", [1, 64, 50, 1]),
];

/// Measures all subjects, or only pilotlight's.
pub(super) fn measure(scope: &SessionScope, with_peers: bool) -> anyhow::Result<SessionResults> {
    let is_wanted = |subject: &Subject| {
        let is_named = scope.only.as_ref().is_none_or(|only| subject.name.contains(only));
        is_named && (with_peers || subject.server == "pilotlight")
    };
    let subjects: Vec<Subject> = SUBJECTS.into_iter().filter(is_wanted).collect();
    let names: Vec<&'static str> = subjects.iter().map(|subject| subject.name).collect();
    let mut loads = Vec::new();
    for (load, [sessions, slots, supervisors, pools]) in LOADS {
        let shape = SessionShape { sessions, slots, supervisors, pools, seconds: scope.seconds };
        let series = alternate(scope.rounds, load, &names, |place| {
            load::sessions(&subjects[place].start()?, subjects[place].kind, &shape)
        })?;
        loads.push((load, series));
    }
    let mut held: Vec<_> = names.iter().map(|&name| (name, Vec::new())).collect();
    for round in 1..=scope.hold_rounds {
        print(&format!("held sessions, round {round} of {}\n", scope.hold_rounds));
        for (subject, (name, points)) in subjects.iter().zip(&mut held) {
            let point = load::hold(&subject.start()?, subject.kind, scope.held, false)?;
            print(&format!("  {} held: {name} at {:.0} B each\n", point.count, point.user));
            points.push(point);
        }
    }
    Ok(SessionResults { loads, held })
}
