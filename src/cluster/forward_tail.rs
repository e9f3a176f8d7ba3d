//! Owns what comes before the payload of a forward: what it says of a run beyond the messages of the codec, as its features announce.

use bytes::Bytes;

use super::codec::{FIELDS_FEATURE, REPLY_FEATURE};
use crate::transport::{Run, RunFields};

/// What an owner needs to know to handle a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ForwardTail {
    /// The path to which the run's worker is to reply.
    pub(super) reply: Option<Box<str>>,
    pub(super) fields: Option<RunFields>,
}

/// The features that a forward of this run announces.
pub(super) fn features(run: &Run) -> u32 {
    let feature = |is_needed, feature| if is_needed { feature } else { 0 };
    feature(run.reply.is_some(), REPLY_FEATURE) | feature(run.fields.is_some(), FIELDS_FEATURE)
}

/// The bytes before the payload; none if no feature is needed.
pub(super) fn encode(run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory cannot fail, and every length is known.
    if let Some(reply) = &run.reply {
        bytes = postcard::to_extend(reply.path(), bytes).unwrap_or_default();
    }
    if let Some(fields) = &run.fields {
        bytes = postcard::to_extend(fields.rendered(), bytes).unwrap_or_default();
    }
    bytes
}

/// What these features announce, and the payload behind it. None if it is damaged.
pub(super) fn split(features: u32, bytes: &Bytes) -> Option<(ForwardTail, Bytes)> {
    let mut rest: &[u8] = bytes;
    let mut tail = ForwardTail::default();
    if features & REPLY_FEATURE != 0 {
        let (path, after) = postcard::take_from_bytes::<&str>(rest).ok()?;
        (tail.reply, rest) = (Some(path.into()), after);
    }
    if features & FIELDS_FEATURE != 0 {
        let (fields, after) = postcard::take_from_bytes::<&[u8]>(rest).ok()?;
        (tail.fields, rest) = (Some(RunFields::parse(fields)?), after);
    }
    Some((tail, bytes.slice_ref(rest)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::ReplyTarget;

    #[test]
    fn a_run_is_forwarded_with_what_its_worker_is_told_and_pays_for_nothing_else() {
        let path = || Some(Arc::new(ReplyTarget::at("/v1/runs/a/reply?token=0".into())));
        let fields = || RunFields::new([("x-amz-log-type", &b"Tail"[..])]);
        for (reply, fields) in [(None, None), (path(), None), (None, fields()), (path(), fields())] {
            let run = Run {
                id: Bytes::from_static(b"a"),
                content_type: Bytes::new(),
                payload: Bytes::from_static(b"payload"),
                reply,
                fields,
            };
            let before = encode(&run);
            assert_eq!(before.is_empty(), features(&run) == 0);
            let bytes = Bytes::from([&before, &run.payload[..]].concat());
            let (tail, payload) = split(features(&run), &bytes).unwrap();
            assert_eq!(
                (tail.reply.as_deref(), payload),
                (run.reply.as_ref().map(|reply| reply.path()), run.payload)
            );
            assert_eq!(tail.fields, run.fields);
        }
    }

    #[test]
    fn what_is_damaged_is_no_run() {
        let wrong = postcard::to_allocvec(&b"\r\na: 1\nb: 2"[..]).unwrap();
        for bytes in [&b""[..], b"\x05ab", &wrong] {
            assert_eq!(split(FIELDS_FEATURE, &Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
        }
        assert_eq!(split(REPLY_FEATURE, &Bytes::from_static(b"\x02\xff\xff")), None);
    }
}
