//! Owns the names by which a program knows its events.

use std::sync::Arc;

use crate::model::random_uuid;

/// The longest name of a run that is one.
const MAX_LENGTH: usize = 128;

/// The name of a run, if it is one in a path and in a header as it is; otherwise a random one.
pub(super) fn request_id(run: &str) -> Arc<str> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let has_name = run.bytes().any(|b| b.is_ascii_alphanumeric());
    if has_name && run.len() <= MAX_LENGTH && run.bytes().all(is_plain) {
        run.into()
    } else {
        random_uuid().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_keeps_its_name_if_that_is_safe() {
        for name in ["0b1f2c3d-0000-4000-8000-1234567890ab", "job-7", "run_1.2~3"] {
            assert_eq!(&*request_id(name), name);
        }
        for name in ["", ".", "a/b", "a b", "a\u{e9}", "a%2f", &"x".repeat(129)] {
            let id = request_id(name);
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }
}
