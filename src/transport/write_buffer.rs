//! Owns the write buffer of each thread, in which a head, a short response or what is hashed is rendered without an allocation.

use std::cell::RefCell;

/// A buffer that has grown beyond this is not kept.
const MAX_KEPT: usize = 4096;

thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

/// Calls `write` with an empty buffer.
pub fn with_write_buffer<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // Taken out, so that a nested call gets another one.
    let mut buffer = BUFFER.take();
    let written = write(&mut buffer);
    if buffer.capacity() <= MAX_KEPT {
        buffer.clear();
        BUFFER.set(buffer);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_empty_and_kept_unless_it_has_grown() {
        let fill = |length| with_write_buffer(|buffer| buffer.resize(length, 0));
        fill(100);
        let kept = with_write_buffer(|buffer| (buffer.len(), buffer.capacity()));
        assert!(kept.0 == 0 && kept.1 >= 100, "{kept:?}");
        fill(MAX_KEPT + 1);
        assert_eq!(with_write_buffer(|buffer| buffer.capacity()), 0);
    }
}
