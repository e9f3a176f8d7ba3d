//! Owns what follows an answer to another broker: what it says beyond the messages of the codec. A broker that does not know it, because
//! it is older, does not read it; one that misses it, because the other is older, takes it for empty.

use serde::{Deserialize, Serialize};

/// What follows an answer. A field is only ever added as the last one, and `read` has to take its absence for none.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AnswerTail<'a> {
    /// What the controller that has the run says to whoever claims it, which may be a secret.
    pub(super) metadata: Option<&'a str>,
}

impl<'a> AnswerTail<'a> {
    /// The bytes of this tail; none if it says nothing.
    pub(super) fn encode(&self) -> Vec<u8> {
        if *self == Self::default() { Vec::new() } else { postcard::to_allocvec(self).unwrap_or_default() }
    }

    /// The tail in the bytes that follow an answer.
    pub(super) fn read(bytes: &'a [u8]) -> Self {
        postcard::take_from_bytes(bytes).map(|(tail, _)| tail).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::codec::{Answer, NotTaken, decode, encode};
    use super::*;

    #[test]
    fn a_tail_is_read_again_and_an_answer_is_read_whatever_follows_it() {
        let answer = Answer::NotTaken(NotTaken::Stale);
        let tail = |metadata| AnswerTail { metadata }.encode();
        for (said, bytes) in [
            (None, tail(None)),
            (Some("one"), tail(Some("one"))),
            (Some("one"), [&tail(Some("one")), &b"what a later version adds"[..]].concat()),
            (None, b"\x01\xffcut off".to_vec()),
        ] {
            let bytes = encode(&answer, &bytes);
            let (read, tail) = decode::<Answer<'_>>(&bytes).unwrap();
            assert_eq!((read, AnswerTail::read(tail).metadata), (answer.clone(), said));
        }
        assert_eq!(tail(None), b"", "not one byte more");
    }
}
