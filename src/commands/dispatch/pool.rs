//! Owns the name of a pool in an argument.

use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What a segment of a path cannot contain. A `%` stays, because it begins what is encoded already.
const NOT_IN_SEGMENT: AsciiSet = CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'\\')
    .add(b'^')
    .add(b'|');

/// A pool as `DEPLOYMENT/VERSION/CPU/MEMORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) struct PoolPath(String);

impl PoolPath {
    /// The path of the URL at which this pool polls and dispatches.
    pub(in crate::commands) fn path(&self) -> String {
        format!("/v1/pools/{}", self.0)
    }
}

impl FromStr for PoolPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() != 4 || parts.iter().any(|part| part.is_empty()) {
            return Err(
                "must be DEPLOYMENT/VERSION/CPU/MEMORY, such as my-app/v1/0.5/1; a slash in a name is %2F",
            );
        }
        Ok(Self(utf8_percent_encode(text, &NOT_IN_SEGMENT).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_four_parts_and_becomes_a_path() {
        for (text, path) in [
            ("my-app/v1/0.5/1", "/v1/pools/my-app/v1/0.5/1"),
            ("my%2Fapp/v 1?/0.5/1", "/v1/pools/my%2Fapp/v%201%3F/0.5/1"),
        ] {
            assert_eq!(text.parse::<PoolPath>().unwrap().path(), path);
        }
        for text in ["", "my-app", "my-app/v1/0.5", "my-app/v1/0.5/1/2", "my-app//0.5/1", "/my-app/v1/1"] {
            text.parse::<PoolPath>().expect_err(text);
        }
    }
}
