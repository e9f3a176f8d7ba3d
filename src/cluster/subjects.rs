//! Owns the NATS subjects of a cluster: those of each broker, and the one that all share.

/// The subjects of one cluster. All begin with its name and the version of the protocol.
#[derive(Debug, Clone)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// The subjects of the cluster with this name, which is one token of a NATS subject.
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("{cluster}.v1") }
    }

    /// Where one broker takes in what concerns it alone.
    pub fn direct(&self, id: u128) -> String {
        format!("{}.to.{id:032x}", self.prefix)
    }

    /// Where all brokers announce.
    pub fn directory(&self) -> String {
        format!("{}.directory", self.prefix)
    }

    /// Where the answer to one request of a broker goes.
    pub fn answer(&self, id: u128, token: u128) -> String {
        format!("{}.re.{id:032x}.{token:032x}", self.prefix)
    }

    /// All answers to a broker.
    pub fn answers(&self, id: u128) -> String {
        format!("{}.re.{id:032x}.*", self.prefix)
    }

    /// The direct subjects of all brokers, as permissions are written.
    pub fn direct_pattern(&self) -> String {
        format!("{}.to.*", self.prefix)
    }

    /// The answers to all brokers, as permissions are written.
    pub fn answers_pattern(&self) -> String {
        format!("{}.re.*.*", self.prefix)
    }

    /// Everything that a broker needs to publish and to subscribe.
    pub fn all(&self) -> String {
        format!("{}.>", self.prefix)
    }
}

/// The request that an answer's subject names; None if it names none.
pub fn answered_token(subject: &str) -> Option<u128> {
    let token = subject.rsplit('.').next().filter(|token| token.len() == 32)?;
    let is_hex = token.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_hex.then(|| u128::from_str_radix(token, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_its_request() {
        let subjects = Subjects::new("pilotlight");
        let (id, token) = (u128::MAX, 0xa5);
        let subject = subjects.answer(id, token);
        assert_eq!(subject.split('.').count(), 5);
        assert_eq!(answered_token(&subject), Some(token));
        assert_eq!(subjects.answers(id), format!("pilotlight.v1.re.{}.*", "f".repeat(32)));
        let wrong = [
            String::new(),
            "g".repeat(32),
            "A".repeat(32),
            "1".repeat(31),
            "1".repeat(33),
            format!("+{}", "1".repeat(31)),
        ];
        for token in wrong {
            assert_eq!(answered_token(&format!("pilotlight.v1.re.{id:032x}.{token}")), None, "{token}");
        }
    }
}
