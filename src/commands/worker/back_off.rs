//! Owns pauses between attempts: they grow, and are random, so that many workers do not come back at once.

use std::time::Duration;

/// The first pause, at most.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses of one thing that is tried again and again.
#[derive(Debug)]
pub(super) struct BackOff {
    next: Duration,
}

impl BackOff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause: between half of its length and the whole. Each length is twice the one before, up to 5 s.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST);
        jitter(whole)
    }

    /// The next pause is a short one again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// Between half of this time and the whole.
pub(super) fn jitter(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_until_something_worked() {
        let mut back_off = BackOff::new();
        let mut whole = FIRST;
        for _ in 0..20 {
            let pause = back_off.pause();
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST);
        }
        assert_eq!(whole, LONGEST);
        back_off.reset();
        assert!(back_off.pause() <= FIRST);
    }
}
