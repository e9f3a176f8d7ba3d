//! Owns seeded walks: each seed is one walk of many steps, and a failure says how to repeat it.
#![allow(clippy::print_stderr, reason = "a failing test says so")]

/// Walks every seed, or the one that `PILOTLIGHT_SEED` names; `done` is told of each walk. Returns whether all were walked.
pub(crate) fn walk<W>(
    seeds: u64,
    steps: usize,
    new: impl Fn(u64) -> W,
    step: impl Fn(&mut W),
    mut done: impl FnMut(&W),
) -> bool {
    let chosen = std::env::var_os("PILOTLIGHT_SEED").and_then(|seed| seed.to_str()?.parse().ok());
    for seed in chosen.map_or(0..seeds, |seed: u64| seed..seed + 1) {
        let mut walk = new(seed);
        for number in 0..steps {
            let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&mut walk)));
            if let Err(panic) = walked {
                eprintln!("seed {seed}, step {number}; PILOTLIGHT_SEED={seed} repeats it");
                std::panic::resume_unwind(panic);
            }
        }
        done(&walk);
    }
    chosen.is_none()
}
