//! Owns who waits with a session, and for what, in as few bytes as possible: there is one for each held connection.

use std::net::IpAddr;

use crate::broker::{AcceptedPayload, KeyRef, Number};

/// Who waits with a session, and for what.
pub struct SessionOwner {
    /// Deployment, version, the controller's name and the metadata, one behind the other.
    texts: Box<str>,
    deployment_length: u16,
    version_length: u16,
    metadata_length: u16,
    accepts: AcceptedPayload,
    address: IpAddr,
    cpu: Number,
    memory: Number,
}

impl SessionOwner {
    /// The owner of a session for this pool. The controller's name for itself, and what it says to whoever claims one of its slots, are
    /// empty if it gave none.
    pub fn new(
        key: KeyRef<'_>,
        accepts: AcceptedPayload,
        controller: &str,
        metadata: &str,
        address: IpAddr,
    ) -> Self {
        let KeyRef { deployment, version, cpu, memory } = key;
        let texts = [deployment, version, controller, metadata].concat().into();
        // All of them are far shorter than this.
        let [deployment_length, version_length, metadata_length] =
            [deployment, version, metadata].map(|part| u16::try_from(part.len()).unwrap_or(u16::MAX));
        Self { texts, deployment_length, version_length, metadata_length, accepts, address, cpu, memory }
    }

    /// The pool.
    pub fn key(&self) -> KeyRef<'_> {
        let [deployment, version, _] = self.names();
        KeyRef { deployment, version, cpu: self.cpu, memory: self.memory }
    }

    /// The controller's name for itself; empty if it gave none.
    pub fn controller(&self) -> &str {
        let [.., controller] = self.names();
        controller
    }

    /// What it says to whoever claims one of its slots, which may be a secret.
    pub fn metadata(&self) -> Option<&str> {
        let (_, metadata) = self.texts.split_at(self.metadata_start());
        (!metadata.is_empty()).then_some(metadata)
    }

    /// The payloads that it accepts.
    pub fn accepts(&self) -> AcceptedPayload {
        self.accepts
    }

    /// The address that it waits from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is the same controller, of the same pool.
    pub fn is_same(&self, other: &Self) -> bool {
        self.names() == other.names()
            && (self.address, self.cpu, self.memory) == (other.address, other.cpu, other.memory)
    }

    fn names(&self) -> [&str; 3] {
        let (names, _) = self.texts.split_at(self.metadata_start());
        let (deployment, rest) = names.split_at(self.deployment_length.into());
        let (version, controller) = rest.split_at(self.version_length.into());
        [deployment, version, controller]
    }

    fn metadata_start(&self) -> usize {
        self.texts.len() - usize::from(self.metadata_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_told_apart_again() {
        let number = Number::parse("0.5").unwrap();
        let key = KeyRef { deployment: "app", version: "v1", cpu: number, memory: number };
        let with = |key, controller, metadata| {
            SessionOwner::new(key, AcceptedPayload::Any, controller, metadata, [127, 0, 0, 1].into())
        };
        let owner = |controller| with(key, controller, "");
        assert_eq!((owner("one").key(), owner("one").controller(), owner("").controller()), (key, "one", ""));
        let shifted = KeyRef { deployment: "ap", version: "pv1", ..key };
        let shifted = with(shifted, "one", "");
        assert!(owner("one").is_same(&owner("one")));
        assert!(!owner("one").is_same(&shifted) && !owner("one").is_same(&owner("two")));
        let says = with(key, "one", "at 10.0.0.1");
        assert_eq!((says.key(), says.controller(), says.metadata()), (key, "one", Some("at 10.0.0.1")));
        assert!(owner("one").is_same(&says) && owner("one").metadata().is_none());
    }
}
