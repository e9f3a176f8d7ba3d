//! Owns what a caller asks for, as the JSON message of its POST, and the tokens that answer it.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// What a caller asks the stub or the worker for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    /// Told in every token, so that a caller knows its own.
    pub(super) request: u32,
    pub(super) answer: Answer,
}

/// The answer that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Server-sent events, one after each delay; after the last one, `[DONE]`, at the end of `hold`.
    Tokens { count: u32, delay: Duration, hold: Duration },
    /// So many bytes, as fast as they are read.
    Bytes(u64),
}

impl Ask {
    pub(super) fn message(&self) -> String {
        let mut message = json!({ "message": "Say it token by token", "request": self.request });
        match self.answer {
            Answer::Tokens { count, delay, hold } => {
                message["tokens"] = count.into();
                message["delay_us"] = microseconds(delay).into();
                message["hold_us"] = microseconds(hold).into();
            }
            Answer::Bytes(bytes) => message["bytes"] = bytes.into(),
        }
        message.to_string()
    }

    pub(super) fn parse(message: &[u8]) -> anyhow::Result<Self> {
        let message: Value = serde_json::from_slice(message)?;
        let number = |name: &str| message[name].as_u64().with_context(|| format!("no {name} in {message}"));
        let duration = |name| anyhow::Ok(Duration::from_micros(number(name)?));
        let answer = match number("bytes") {
            Ok(bytes) => Answer::Bytes(bytes),
            Err(_) => Answer::Tokens {
                count: number("tokens")?.try_into()?,
                delay: duration("delay_us")?,
                hold: duration("hold_us")?,
            },
        };
        Ok(Self { request: number("request")?.try_into()?, answer })
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The event after the last token.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// The event of a token that is written now: 40 bytes, so that 25 of them are 1,000.
pub(super) fn event(request: u32, place: u32) -> String {
    format!("data: {request:08} {place:05} {:017}\n\n", now())
}

/// The nanoseconds since a token was written, if it is the one that is due.
pub(super) fn age_of(event: &str, request: u32, place: u32) -> anyhow::Result<u64> {
    let fields = event.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
    let mut fields = fields.context("not an event")?.split(' ').map(str::parse::<u64>);
    let mut next = || anyhow::Ok(fields.next().context("not a token")??);
    let found = (next()?, next()?);
    ensure!(found == (request.into(), place.into()), "token {place} of {request} is due");
    Ok(now().saturating_sub(next()?))
}

/// Nanoseconds of the clock that all processes of a machine share.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let parts = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    parts.0.unwrap_or(0) * 1_000_000_000 + parts.1.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_is_asked_for() {
        let delay = Duration::from_millis(20);
        for answer in
            [Answer::Tokens { count: 25, delay, hold: Duration::from_secs(60) }, Answer::Bytes(1 << 30)]
        {
            let ask = Ask { request: 7, answer };
            assert_eq!(Ask::parse(ask.message().as_bytes()).unwrap(), ask);
        }
        assert!(Ask::parse(b"{\"request\":1}").is_err());
    }

    #[test]
    fn only_the_token_that_is_due_is_read() {
        let token = event(12, 3);
        assert_eq!(token.len(), 40);
        assert!(age_of(&token, 12, 3).unwrap() < 10_000_000_000);
        for (request, place) in [(12, 2), (12, 4), (13, 3)] {
            assert!(age_of(&token, request, place).is_err(), "{place} of {request}");
        }
        assert!(age_of(DONE, 12, 3).is_err());
        assert!(age_of(&token[1..], 12, 3).is_err());
    }
}
