//! Owns the read buffers that each thread keeps, so that a request that is answered at once needs no allocation.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// Most requests fit into one read of this size.
pub(super) const CAPACITY: usize = 4096;
/// How many buffers a thread keeps: more than one request is under way at a time while its client or a proof is awaited.
const KEPT: usize = 4;

thread_local!(static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) });

/// An empty buffer. Its slices share it without a further allocation.
pub(super) fn take_buffer() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        let mut buffer = BytesMut::with_capacity(CAPACITY);
        // Splitting allocates the reference count, which the buffer keeps from then on.
        drop(buffer.split());
        buffer
    })
}

/// Keeps a buffer for the next request of this thread, unless something still refers to its bytes.
pub fn return_buffer(bytes: Bytes) {
    if let Ok(mut buffer) = bytes.try_into_mut() {
        buffer.clear();
        // What was taken from its front is there again.
        let _ = buffer.try_reclaim(CAPACITY);
        SPARE.with_borrow_mut(|spare| {
            // A larger one, or what is left of one, is not worth keeping.
            if spare.len() < KEPT && buffer.capacity() == CAPACITY {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nothing_refers_to_it() {
        let mut buffer = take_buffer();
        let address = buffer.as_ptr();
        buffer.extend_from_slice(b"a request");
        let bytes = buffer.freeze();
        let (run, payload) = (bytes.slice(..1), bytes.slice(2..));
        return_buffer(bytes.clone());
        assert_ne!(take_buffer().as_ptr(), address, "it is still referred to");
        drop((run, payload));
        return_buffer(bytes);
        let again = take_buffer();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (address, 0, CAPACITY));
    }

    #[test]
    fn a_buffer_of_which_a_middle_part_is_left_is_used_again() {
        let mut buffer = take_buffer();
        buffer.extend_from_slice(b"5\r\nhello\r\n");
        let address = buffer.as_ptr();
        buffer.truncate(8);
        bytes::Buf::advance(&mut buffer, 3);
        return_buffer(buffer.freeze());
        let again = take_buffer();
        assert_eq!((again.as_ptr(), again.len(), again.capacity()), (address, 0, CAPACITY));
    }

    #[test]
    fn larger_buffers_and_surplus_ones_are_freed() {
        for _ in 0..2 * KEPT {
            return_buffer(BytesMut::with_capacity(2 * CAPACITY).freeze());
        }
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        let many: Vec<BytesMut> = (0..2 * KEPT).map(|_| take_buffer()).collect();
        for buffer in many {
            return_buffer(buffer.freeze());
        }
        assert_eq!(SPARE.with_borrow(Vec::len), KEPT);
    }
}
