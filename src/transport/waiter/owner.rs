//! Owns who waits with a session, and for what, in as few bytes as possible: there is one for each held connection.

use std::net::IpAddr;

use crate::broker::{AcceptedPayload, KeyRef, Number};

/// Who waits with a session, and for what.
#[derive(Debug)]
pub struct SessionOwner {
    /// Deployment, version and the controller's name, one behind the other.
    names: Box<str>,
    deployment_length: u16,
    version_length: u16,
    accepts: AcceptedPayload,
    address: IpAddr,
    cpu: Number,
    memory: Number,
}

impl SessionOwner {
    /// The owner of a session for this pool. The controller's name for itself is empty if it gave none.
    pub fn new(key: KeyRef<'_>, accepts: AcceptedPayload, controller: &str, address: IpAddr) -> Self {
        let KeyRef { deployment, version, cpu, memory } = key;
        let names = [deployment, version, controller].concat().into();
        // The parts of a key are far shorter than this.
        let [deployment_length, version_length] =
            [deployment, version].map(|part| u16::try_from(part.len()).unwrap_or(u16::MAX));
        Self { names, deployment_length, version_length, accepts, address, cpu, memory }
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
        let (deployment, rest) = self.names.split_at(self.deployment_length.into());
        let (version, controller) = rest.split_at(self.version_length.into());
        [deployment, version, controller]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_told_apart_again() {
        let number = Number::parse("0.5").unwrap();
        let key = KeyRef { deployment: "app", version: "v1", cpu: number, memory: number };
        let owner =
            |controller| SessionOwner::new(key, AcceptedPayload::Any, controller, [127, 0, 0, 1].into());
        assert_eq!((owner("one").key(), owner("one").controller(), owner("").controller()), (key, "one", ""));
        let shifted = KeyRef { deployment: "ap", version: "pv1", ..key };
        let shifted = SessionOwner::new(shifted, AcceptedPayload::Any, "one", [127, 0, 0, 1].into());
        assert!(owner("one").is_same(&owner("one")));
        assert!(!owner("one").is_same(&shifted) && !owner("one").is_same(&owner("two")));
    }
}
