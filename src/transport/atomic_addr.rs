//! Owns an IP address that can be replaced without a lock, in no more space than an address takes.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::address::canonical;

/// The two halves of the address as IPv6. They are not stored together, so a store must come before any concurrent load.
pub(super) struct AtomicIpAddr([AtomicU64; 2]);

impl AtomicIpAddr {
    pub(super) fn new(address: IpAddr) -> Self {
        Self(halves(address).map(AtomicU64::new))
    }

    /// The address in its canonical form.
    pub(super) fn load(&self) -> IpAddr {
        let [high, low] = self.0.each_ref().map(|half| u128::from(half.load(Ordering::Relaxed)));
        canonical(Ipv6Addr::from(high << 64 | low).into())
    }

    pub(super) fn store(&self, address: IpAddr) {
        for (half, value) in self.0.iter().zip(halves(address)) {
            half.store(value, Ordering::Relaxed);
        }
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let bits = address.to_bits();
    #[expect(clippy::cast_possible_truncation, reason = "each is a half")]
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_loaded_as_it_was_stored() {
        for text in ["192.0.2.9", "2001:db8::9", "::1", "::", "0.0.0.0", "255.255.255.255"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(AtomicIpAddr::new(address).load(), address);
            let replaced = AtomicIpAddr::new([10, 0, 0, 1].into());
            replaced.store(address);
            assert_eq!(replaced.load(), address);
        }
    }
}
