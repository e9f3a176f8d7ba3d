//! Owns the names of functions, as callers of AWS Lambda write them: a name, a partial ARN or a whole one, each with or without a
//! qualifier.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::config::LATEST;
use crate::http::problem::Problem;

/// The longest name, with all that is around it, and the longest qualifier, in bytes.
const MAX_NAME_BYTES: usize = 256;
const MAX_QUALIFIER_BYTES: usize = 128;
/// The parameter that gives the qualifier.
const QUALIFIER: &str = "Qualifier";

/// A function as a request names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FunctionName<'a> {
    pub(super) name: Cow<'a, str>,
    /// Of the name or of the query; `$LATEST` if there is none.
    pub(super) qualifier: Cow<'a, str>,
}

impl<'a> FunctionName<'a> {
    /// Parses the segment of a path and the query behind it. Parameters other than the qualifier are ignored.
    pub(super) fn parse(segment: &'a str, query: Option<&'a str>) -> Result<Self, Problem> {
        let text = percent_decode_str(segment).decode_utf8();
        let (name, own) = match text.map_err(|_| bad_name("is not percent-encoded UTF-8"))? {
            Cow::Borrowed(text) => {
                let (name, own) = split(text)?;
                (Cow::Borrowed(name), own.map(Cow::Borrowed))
            }
            Cow::Owned(text) => {
                let (name, own) = split(&text)?;
                (Cow::Owned(name.to_owned()), own.map(|own| Cow::Owned(own.to_owned())))
            }
        };
        let given = parse_qualifier(query)?;
        let qualifier = match (own, given) {
            (Some(own), Some(given)) if own != given => {
                return Err(Problem::bad_parameter(
                    "The qualifier that the function name has",
                    "is not the one in the query: give one of them, or the same",
                ));
            }
            (Some(qualifier), _) | (None, Some(qualifier)) => qualifier,
            (None, None) => LATEST.into(),
        };
        Ok(Self { name, qualifier })
    }
}

fn bad_name(why: &str) -> Problem {
    Problem::bad_parameter("The function name", why)
}

/// The name and the qualifier in a name or an ARN.
fn split(text: &str) -> Result<(&str, Option<&str>), Problem> {
    let form = || {
        bad_name(
            "is none of NAME, NAME:QUALIFIER, ACCOUNT:function:NAME and arn:aws:lambda:REGION:ACCOUNT:function:NAME",
        )
    };
    if text.len() > MAX_NAME_BYTES {
        return Err(bad_name("is longer than 256 bytes"));
    }
    let mut parts: &[&str] = &text.split(':').collect::<Vec<_>>();
    // What comes before a name is optional, so a part is one of these only if another part follows it.
    if let ["arn", partition, "lambda", rest @ ..] = parts
        && partition.starts_with("aws")
    {
        parts = rest;
    }
    for is_before_name in [is_region, is_account, |part: &str| part == "function"] {
        if let [first, rest @ ..] = parts
            && !rest.is_empty()
            && is_before_name(first)
        {
            parts = rest;
        }
    }
    let (name, qualifier) = match *parts {
        [name] => (name, None),
        [name, qualifier] => (name, Some(qualifier)),
        _ => return Err(form()),
    };
    if !is_of(name, b"-_.") || name == "arn" {
        return Err(form());
    }
    qualifier.map(check_qualifier).transpose()?;
    Ok((name, qualifier))
}

/// Such as `us-east-1`, `us-gov-west-1` or `eusc-de-east-1`. A function may be named much like one.
fn is_region(part: &str) -> bool {
    let words: Vec<&str> = part.strip_prefix("eusc-").unwrap_or(part).split('-').collect();
    let (country, direction, number) = match words[..] {
        [country, direction, number] => (country, direction, number),
        [country, kind, direction, number] if kind == "gov" || kind.starts_with("iso") && kind.len() <= 4 => {
            (country, direction, number)
        }
        _ => return false,
    };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    country.len() == 2 && is_word(country) && is_word(direction) && is_digits(number, 1)
}

fn is_account(part: &str) -> bool {
    is_digits(part, 12)
}

fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_of(text: &str, others: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

/// Versions of pools may have a dot, which AWS allows in none but `$LATEST.PUBLISHED`.
fn check_qualifier(qualifier: &str) -> Result<(), Problem> {
    if is_of(qualifier, b"-_.$") && qualifier.len() <= MAX_QUALIFIER_BYTES {
        return Ok(());
    }
    Err(Problem::bad_parameter("The qualifier", "has not 1 to 128 letters, digits, `-`, `_`, `.` and `$`"))
}

fn parse_qualifier(query: Option<&str>) -> Result<Option<Cow<'_, str>>, Problem> {
    let mut found = None;
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name != QUALIFIER {
            continue;
        }
        check_qualifier(&value)?;
        if found.replace(value).is_some() {
            return Err(Problem::bad_parameter(QUALIFIER, "occurs more than once"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_named_in_every_way_that_aws_knows() {
        for (segment, query, name, qualifier) in [
            ("hello", None, "hello", LATEST),
            ("hello", Some(""), "hello", LATEST),
            ("hello", Some("Qualifier=%24LATEST"), "hello", LATEST),
            ("hello", Some("X-Amz-Date=1&Qualifier=prod"), "hello", "prod"),
            ("hello:7", None, "hello", "7"),
            ("hello%3A7", Some("Qualifier=7"), "hello", "7"),
            ("hello:$LATEST", None, "hello", LATEST),
            ("hello:20260821.3", None, "hello", "20260821.3"),
            ("function:hello", None, "hello", LATEST),
            ("function", None, "function", LATEST),
            ("123456789012:function:f:q", None, "f", "q"),
            ("123456789012:f", None, "f", LATEST),
            ("123456789012", None, "123456789012", LATEST),
            ("us-east-1:123456789012:function:f", None, "f", LATEST),
            ("us-east-1", None, "us-east-1", LATEST),
            ("us-isob-east-1:function:f", None, "f", LATEST),
            ("eusc-de-east-1:123456789012:f:7", None, "f", "7"),
            ("function-1-1:7", None, "function-1-1", "7"),
            ("a-b-1:7", None, "a-b-1", "7"),
            ("arn:aws:lambda:eu-west-1:123456789012:function:f", None, "f", LATEST),
            ("arn:aws:lambda:eu-west-1:123456789012:function:f:prod", None, "f", "prod"),
            ("arn%3Aaws-us-gov%3Alambda%3Aus-gov-west-1%3A123456789012%3Afunction%3Af%3A3", None, "f", "3"),
            ("arn:aws:lambda:f", None, "f", LATEST),
        ] {
            let parsed = FunctionName::parse(segment, query);
            let parsed = parsed.map(|found| (found.name.into_owned(), found.qualifier.into_owned()));
            assert_eq!(parsed.ok(), Some((name.to_owned(), qualifier.to_owned())), "{segment} {query:?}");
        }
    }

    #[test]
    fn what_names_no_function_is_refused() {
        let long = "a".repeat(257);
        for (segment, query) in [
            ("", None),
            (":q", None),
            ("a:", None),
            ("a:b:c", None),
            ("a b", None),
            ("a%2Fb", None),
            ("a%ff", None),
            ("a%00", None),
            ("arn", None),
            ("arn:aws:lambda", None),
            ("arn:aws:s3:us-east-1:123456789012:function:f", None),
            ("123456789012:function:f:q:r", None),
            (&*long, None),
            ("a:b%20c", None),
            ("a", Some("Qualifier=")),
            ("a", Some("Qualifier=a%2Fb")),
            ("a", Some("Qualifier=1&Qualifier=1")),
            ("a:1", Some("Qualifier=2")),
            ("a:1", Some("Qualifier=%24LATEST")),
        ] {
            assert!(FunctionName::parse(segment, query).is_err(), "{segment} {query:?}");
        }
    }
}
