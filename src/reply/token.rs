//! Owns the token by which a worker's request names the offer that it replies to.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};

/// The length of each number in a token's text.
const NUMBER_BYTES: usize = 32;

/// Names one offer of a run whose reply is awaited, and the caller's broker if there are several. It is random, so that it cannot be
/// guessed, and is good while its offer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyToken {
    pub(super) secret: u128,
    /// The broker that made it, if it is in a cluster.
    pub broker: Option<u128>,
}

impl ReplyToken {
    pub(super) fn new(broker: Option<u128>) -> Self {
        let mut bytes = [0; 16];
        // It does not fail on the systems that pilotlight runs on.
        let _ = SystemRandom::new().fill(&mut bytes);
        Self { secret: u128::from_ne_bytes(bytes), broker }
    }

    /// Parses a token. None if it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = |text| u128::from_str_radix(text, 16).ok();
        match text.len() {
            NUMBER_BYTES if is_lower_hex => Some(Self { secret: number(text)?, broker: None }),
            length if length == 2 * NUMBER_BYTES && is_lower_hex => {
                let (secret, broker) = text.split_at(NUMBER_BYTES);
                Some(Self { secret: number(secret)?, broker: Some(number(broker)?) })
            }
            _ => None,
        }
    }
}

impl fmt::Display for ReplyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.secret)?;
        self.broker.map_or(Ok(()), |broker| write!(f, "{broker:032x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_nothing_else_is_one() {
        for broker in [None, Some(7), Some(u128::MAX)] {
            let token = ReplyToken::new(broker);
            let text = token.to_string();
            assert_eq!(ReplyToken::parse(&text), Some(token));
            assert_ne!(ReplyToken::new(broker), token);
            for wrong in
                ["", "0", &text[1..], &format!("{text}0"), &format!("g{}", &text[1..]), &"é".repeat(16)]
            {
                assert_eq!(ReplyToken::parse(wrong), None, "{wrong}");
            }
        }
    }
}
