//! Owns the priority of the journal's threads.

/// How urgent a thread is, next to the serving threads.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Urgency {
    /// It may fall behind: a niceness of 19.
    None = 0,
    /// It has to keep up, with a tenth of a saturated core at least: a niceness of 10.
    Some = 22,
}

/// Lowers the priority of this thread, and makes it one of batch work (`SCHED_BATCH`): when it wakes, it waits for its core
/// instead of preempting a dispatch. Only Linux has this for a single thread.
pub(super) fn lower_priority(urgency: Urgency) {
    #[cfg(target_os = "linux")]
    if let Err(error) = set_priority(urgency) {
        tracing::debug!(%error, "a thread works at the usual priority");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = urgency;
}

/// The crate's priorities are from 0 to 99; it turns them into a niceness.
#[cfg(target_os = "linux")]
fn set_priority(urgency: Urgency) -> Result<(), thread_priority::Error> {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };

    let value = ThreadPriorityValue::try_from(urgency as u8).unwrap_or(ThreadPriorityValue::MIN);
    let priority = ThreadPriority::Crossplatform(value);
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    set_thread_priority_and_policy(thread_native_id(), priority, policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The niceness and the policy of this thread.
    fn scheduling() -> (i32, u32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The fields after the name, of which the first is the third of all.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[19 - 3].parse().unwrap(), fields[41 - 3].parse().unwrap())
    }

    #[test]
    fn the_threads_of_the_journal_preempt_no_dispatch() {
        const BATCH: u32 = 3;
        for (urgency, niceness) in [(Urgency::Some, 10), (Urgency::None, 19)] {
            let thread = std::thread::spawn(move || {
                lower_priority(urgency);
                scheduling()
            });
            assert_eq!(thread.join().unwrap(), (niceness, BATCH), "{urgency:?}");
        }
    }
}
