//! Owns a run's names: as ranges of the request that they came in, so that they are not copied.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// A run's name, its deployment and its version.
#[derive(Clone)]
pub(super) struct RunNames {
    text: Bytes,
    run: Range<usize>,
    deployment: Range<usize>,
    version: Range<usize>,
}

impl RunNames {
    /// The names are copied only if one of them is no part of `request`, as after decoding.
    pub(super) fn new(request: &Bytes, [run, deployment, version]: [&str; 3]) -> Self {
        let ranges = (range_in(request, run), range_in(request, deployment), range_in(request, version));
        if let (Some(run), Some(deployment), Some(version)) = ranges {
            return Self { text: request.clone(), run, deployment, version };
        }
        let mut text = BytesMut::with_capacity(run.len() + deployment.len() + version.len());
        let [run, deployment, version] = [run, deployment, version].map(|name| {
            text.extend_from_slice(name.as_bytes());
            text.len() - name.len()..text.len()
        });
        Self { text: text.freeze(), run, deployment, version }
    }

    pub(super) fn run(&self) -> &str {
        self.text_at(&self.run)
    }

    pub(super) fn deployment(&self) -> &str {
        self.text_at(&self.deployment)
    }

    pub(super) fn version(&self) -> &str {
        self.text_at(&self.version)
    }

    /// The run's name as bytes that share the request's memory.
    pub(super) fn run_bytes(&self) -> Bytes {
        self.text.slice(self.run.clone())
    }

    fn text_at(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.text[range.clone()]).unwrap_or_default()
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
        let all = |names: &RunNames| [names.run(), names.deployment(), names.version()].map(str::to_owned);
        assert_eq!(all(&names), ["run_1", "deployment_1", "20260821.3"]);
        assert_eq!(names.run_bytes().as_ptr(), request.as_ptr());

        let decoded = String::from("deployment 1");
        let names = RunNames::new(&request, [&text[..5], &decoded, &text[19..]]);
        assert_eq!(all(&names), ["run_1", "deployment 1", "20260821.3"]);
        assert_eq!(names.run_bytes(), "run_1");
    }
}
