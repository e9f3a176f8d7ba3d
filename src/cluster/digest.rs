//! Owns the digests that stand for keys and runs between brokers: the same on every broker, and not made to collide by a
//! stranger who chooses names.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::broker::KeyRef;

/// The first 128 bits of a SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest([u8; 16]);

impl Digest {
    /// From its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A pool as other brokers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDigest {
    /// Of the whole key.
    pub key: Digest,
    /// Fingerprints of the deployment, and of the deployment with the version. A collision can only make the reason of a
    /// miss less exact.
    pub prints: [u32; 2],
}

impl PoolDigest {
    /// The digest of this key's pool.
    pub fn of(key: KeyRef<'_>) -> Self {
        let KeyRef { deployment, version, cpu, memory } = key;
        let mut text = Vec::with_capacity(32 + deployment.len() + version.len());
        // The length makes it unambiguous: concatenated strings could collide.
        text.extend_from_slice(&(deployment.len() as u64).to_le_bytes());
        text.extend_from_slice(deployment.as_bytes());
        let deployment = fingerprint(&text);
        text.extend_from_slice(version.as_bytes());
        let version = fingerprint(&text);
        for number in [cpu, memory] {
            text.extend_from_slice(&number.get().to_bits().to_le_bytes());
        }
        Self { key: Digest(first(&text)), prints: [deployment, version] }
    }
}

/// The digest of a run for this pool; the snapshot is empty where there is none.
pub fn run_digest(run: &str, snapshot: &str, key: KeyRef<'_>) -> Digest {
    let KeyRef { deployment, version, cpu, memory } = key;
    let parts = [run, snapshot, deployment, version];
    let mut text = Vec::with_capacity(48 + parts.iter().map(|part| part.len()).sum::<usize>());
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_le_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    for number in [cpu, memory] {
        text.extend_from_slice(&number.get().to_bits().to_le_bytes());
    }
    Digest(first(&text))
}

fn fingerprint(text: &[u8]) -> u32 {
    u32::from_le_bytes(first(text))
}

/// The first bytes of the text's SHA-256 digest.
fn first<const N: usize>(text: &[u8]) -> [u8; N] {
    let whole = digest(&SHA256, text);
    std::array::from_fn(|index| whole.as_ref()[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Number;

    fn pool(deployment: &str, version: &str, cpu: f64) -> PoolDigest {
        let (cpu, memory) = (Number::new(cpu).unwrap(), Number::new(1.0).unwrap());
        PoolDigest::of(KeyRef { deployment, version, cpu, memory })
    }

    #[test]
    fn equal_keys_have_equal_digests_and_others_do_not() {
        let one = pool("deployment_1", "v1", 0.5);
        assert_eq!(one, pool("deployment_1", "v1", 0.5));
        let other_machine = pool("deployment_1", "v1", 1.0);
        assert!(other_machine.key != one.key && other_machine.prints == one.prints);
        let other_version = pool("deployment_1", "v2", 0.5);
        assert_eq!(other_version.prints[0], one.prints[0]);
        assert!(other_version.key != one.key && other_version.prints[1] != one.prints[1]);
        assert_ne!(pool("ab", "c", 1.0).key, pool("a", "bc", 1.0).key);
    }
}
