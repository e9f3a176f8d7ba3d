//! Owns a run's names: as ranges of the body that they came in, so that they are not copied.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Names are copied from a larger body, so that a slow reader of the answer does not keep it in memory.
const MAX_SHARED_BYTES: usize = 16 * 1024;

/// A run's name, its deployment and its version.
#[derive(Clone)]
pub(super) struct RunNames {
    text: Bytes,
    run: Range<usize>,
    deployment: Range<usize>,
    version: Range<usize>,
}

impl RunNames {
    /// The names are copied if one of them is no part of the request's `body`, as those in a head, or if that is large.
    pub(super) fn new(body: &Bytes, [run, deployment, version]: [&str; 3]) -> Self {
        let ranges = (range_in(body, run), range_in(body, deployment), range_in(body, version));
        if let (Some(run), Some(deployment), Some(version)) = ranges
            && body.len() <= MAX_SHARED_BYTES
        {
            return Self { text: body.clone(), run, deployment, version };
        }
        let mut text = BytesMut::with_capacity(run.len() + deployment.len() + version.len());
        let [run, deployment, version] = [run, deployment, version].map(|name| {
            text.extend_from_slice(name.as_bytes());
            text.len() - name.len()..text.len()
        });
        Self { text: text.freeze(), run, deployment, version }
    }

    /// The run's name.
    pub(super) fn run(&self) -> &str {
        std::str::from_utf8(&self.text[self.run.clone()]).unwrap_or_default()
    }

    /// The run's name, which shares the request's memory.
    pub(super) fn shared_run(&self) -> Bytes {
        self.text.slice(self.run.clone())
    }

    /// The three names as bytes, which are not checked again to be text.
    pub(super) fn as_bytes(&self) -> [&[u8]; 3] {
        [&self.run, &self.deployment, &self.version].map(|range| &self.text[range.clone()])
    }
}

/// Where `part` is in `whole`, if its bytes are those of `whole`.
fn range_in(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= whole.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_request_share_its_memory_and_others_are_copied() {
        let request = Bytes::from_static(b"run_1 deployment_1 20260821.3");
        let text = std::str::from_utf8(&request).unwrap();
        let names = RunNames::new(&request, [&text[..5], &text[6..18], &text[19..]]);
        let all = |names: &RunNames| names.as_bytes().map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(all(&names), ["run_1", "deployment_1", "20260821.3"]);
        assert_eq!(names.shared_run().as_ptr(), request.as_ptr());

        let decoded = String::from("deployment 1");
        let names = RunNames::new(&request, [&text[..5], &decoded, &text[19..]]);
        assert_eq!(all(&names), ["run_1", "deployment 1", "20260821.3"]);
        assert_eq!(names.shared_run(), "run_1");

        let large = Bytes::from("x".repeat(MAX_SHARED_BYTES + 1));
        let text = std::str::from_utf8(&large).unwrap();
        let names = RunNames::new(&large, [&text[..5], &text[6..18], &text[19..29]]);
        assert_eq!(names.as_bytes().map(<[u8]>::len), [5, 12, 10]);
        assert!(large.try_into_mut().is_ok(), "nothing refers to it");
    }
}
