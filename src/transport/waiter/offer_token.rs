//! Owns the token by which a request on another connection names an offer of a session, and which nobody can forge.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use siphasher::sip128::{Hash128, SipHasher24};
use subtle::ConstantTimeEq;

/// The length of a token's text, in bytes, without the broker.
const TEXT_BYTES: usize = 56;
/// The length of a broker's id in the text.
const BROKER_BYTES: usize = 32;

/// Names one offer of one session, of one broker if there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferToken {
    /// Of the other two, with a key that only this process has.
    code: u128,
    /// The session.
    pub(in crate::transport) session: u64,
    /// The offer's number in its session.
    pub(in crate::transport) offer: u32,
    /// The broker that made the offer, if it is in a cluster.
    pub broker: Option<u128>,
}

impl OfferToken {
    /// The token of this process's offer.
    pub(in crate::transport) fn new(session: u64, offer: u32, broker: Option<u128>) -> Self {
        Self { code: code(session, offer), session, offer, broker }
    }

    /// Parses a token. None if it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_lower_hex(text) || !(text.len() == TEXT_BYTES || text.len() == TEXT_BYTES + BROKER_BYTES) {
            return None;
        }
        let (code, rest) = text.split_at(32);
        let (session, rest) = rest.split_at(16);
        let (offer, broker) = rest.split_at(8);
        Some(Self {
            code: u128::from_str_radix(code, 16).ok()?,
            session: u64::from_str_radix(session, 16).ok()?,
            offer: u32::from_str_radix(offer, 16).ok()?,
            broker: if broker.is_empty() { None } else { Some(u128::from_str_radix(broker, 16).ok()?) },
        })
    }

    /// Whether this process has made it.
    pub(in crate::transport) fn is_genuine(&self) -> bool {
        code(self.session, self.offer).to_ne_bytes().ct_eq(&self.code.to_ne_bytes()).into()
    }
}

impl fmt::Display for OfferToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, session, offer, broker } = self;
        write!(f, "{code:032x}{session:016x}{offer:08x}")?;
        broker.map_or(Ok(()), |broker| write!(f, "{broker:032x}"))
    }
}

fn code(session: u64, offer: u32) -> u128 {
    static SECRET: LazyLock<SipHasher24> = LazyLock::new(|| {
        // The standard library takes its keys from the system.
        let word = || RandomState::new().hash_one(0);
        SipHasher24::new_with_keys(word(), word())
    });
    let mut named = [0; 12];
    named[..8].copy_from_slice(&session.to_le_bytes());
    named[8..].copy_from_slice(&offer.to_le_bytes());
    let Hash128 { h1, h2 } = SECRET.hash(&named);
    u128::from(h1) << 64 | u128::from(h2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_no_part_of_it_can_be_changed() {
        for broker in [None, Some(7), Some(u128::MAX)] {
            let token = OfferToken::new(1 << 40, 9, broker);
            let text = token.to_string();
            assert_eq!(OfferToken::parse(&text), Some(token));
            assert!(token.is_genuine());
            for at in 0..TEXT_BYTES {
                let mut other = text.clone().into_bytes();
                other[at] = if other[at] == b'0' { b'1' } else { b'0' };
                let other = OfferToken::parse(std::str::from_utf8(&other).unwrap()).unwrap();
                assert!(!other.is_genuine(), "{at}");
            }
        }
    }

    #[test]
    fn what_has_not_the_form_of_a_token_is_none() {
        let text = OfferToken::new(1, 2, None).to_string();
        for wrong in
            ["", "0", &text[1..], &format!("{text}0"), &text.replace(|_: char| true, "A"), &"é".repeat(28)]
        {
            assert_eq!(OfferToken::parse(wrong), None, "{wrong}");
        }
    }
}
