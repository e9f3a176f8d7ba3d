//! Owns the CPU time of a run: of one broker, and of two between which every run is forwarded.

use pilotlight_bench::implementation::Implementation;
use pilotlight_bench::server::Server;
use pilotlight_bench::stdout::print;

use super::brokers::Brokers;
use crate::load::{self, LoadShape, Measured, Measurement, median};

/// How many POSTs are in flight.
const IN_FLIGHT: [usize; 2] = [32, 64];
const PROOFS: [&str; 2] = ["written", "received"];

/// Compares both in alternating rounds, for each proof and each number of POSTs in flight.
pub(super) fn compare(rounds: usize, seconds: f64) -> anyhow::Result<()> {
    print("CPU time of the brokers per run, in microseconds: medians of alternating rounds\n");
    for proof in PROOFS {
        for supervisors in IN_FLIGHT {
            let shape = LoadShape { supervisors, ..LoadShape::standard(seconds) };
            let (mut lone, mut forwarded) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                lone.push(dispatch_alone(proof, &shape)?);
                forwarded.push(dispatch_forwarded(proof, &shape)?);
            }
            print(&line(proof, supervisors, &lone, &forwarded));
        }
    }
    Ok(())
}

/// With a new broker, because one that ran before would remember the runs.
fn dispatch_alone(proof: &'static str, shape: &LoadShape) -> anyhow::Result<Measurement> {
    load::dispatch(&Server::start_unpinned(&Implementation::pilotlight(proof)?)?, shape)
}

/// All controllers wait at one broker, and all runs are posted to the other.
fn dispatch_forwarded(proof: &'static str, shape: &LoadShape) -> anyhow::Result<Measurement> {
    let pair = Brokers::start(2, proof)?;
    let servers: Vec<&Server> = pair.servers.iter().collect();
    let measured = Measured { servers: &servers, nats: Some(&pair.nats) };
    load::dispatch_between(&measured, pair.address(1), pair.address(0), shape)
}

/// A miss costs less than a hit, so it does not count as a run.
fn cpu_of_hit(round: &Measurement) -> f64 {
    round.cpu / round.hit_share
}

fn line(proof: &str, in_flight: usize, lone: &[Measurement], forwarded: &[Measurement]) -> String {
    let of = |rounds: &[Measurement], figure: fn(&Measurement) -> f64| {
        median(rounds.iter().map(figure).collect::<Vec<f64>>())
    };
    let misses = |rounds: &[Measurement]| rounds.iter().map(|round| round.misses).sum::<u64>();
    let (alone, both) = (of(lone, cpu_of_hit), of(forwarded, cpu_of_hit));
    format!(
        "proof {proof:<8} {in_flight} in flight: alone {alone:.1} µs ({:.0}/s, p50 {:.0} µs, {} misses); forwarded {both:.1} µs \
         ({:.0}/s, p50 {:.0} µs, {} misses, {} without an answer in time), nats-server {:.1} µs; {:.0} % of the runs per CPU second (at least 60 %)\n",
        of(lone, |round| round.rate),
        of(lone, |round| round.p50),
        misses(lone),
        of(forwarded, |round| round.rate),
        of(forwarded, |round| round.p50),
        misses(forwarded),
        forwarded.iter().map(|round| round.surplus).sum::<u64>(),
        of(forwarded, |round| round.nats_cpu),
        100.0 * alone / both,
    )
}
