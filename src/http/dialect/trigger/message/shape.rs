//! Owns the building blocks of schemas: types that check a JSON value as the client's schema does, and keep nothing of it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::kind::{Described, Kind};

/// The range of JavaScript's dates, in milliseconds from 1970.
const MAX_DATE_MILLIS: f64 = 8.64e15;

/// A struct that must be a JSON object; serde alone would accept an array, too.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

/// Any text.
#[derive(Debug)]
pub(super) struct Text;

/// A date as the platform writes it: RFC 3339 in UTC, or milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Date;

/// An array whose elements all match.
#[derive(Debug)]
pub(super) struct ArrayOf<T>(PhantomData<T>);

/// An object with any fields.
#[derive(Debug)]
pub(super) struct AnyObject;

/// Any value at all.
#[derive(Debug, Default)]
pub(super) struct Anything;

macro_rules! deserialize {
    ($name:ident $(<$kind:ident>)?: $method:ident as $expecting:literal { $($body:tt)* }) => {
        impl<'de $(, $kind: Deserialize<'de>)?> Deserialize<'de> for $name $(<$kind>)? {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Check<T>(PhantomData<T>);
                impl<'de $(, $kind: Deserialize<'de>)?> Visitor<'de> for Check<$name $(<$kind>)?> {
                    type Value = $name $(<$kind>)?;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    $($body)*
                }
                deserializer.$method(Check(PhantomData))
            }
        }
    };
}

deserialize! {
    Object<T>: deserialize_map as "an object" {
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Object)
        }
    }
}

deserialize! {
    Text: deserialize_str as "a string" {
        fn visit_str<E: Error>(self, _: &str) -> Result<Text, E> {
            Ok(Text)
        }
    }
}

deserialize! {
    Date: deserialize_any as "a date" {
        fn visit_str<E: Error>(self, text: &str) -> Result<Date, E> {
            if is_date(text) { Ok(Date) } else { Err(E::custom("expected a date such as 2026-01-31T12:00:00.000Z")) }
        }
        #[expect(clippy::cast_precision_loss, reason = "a bound need not be exact at the year 287396")]
        fn visit_u64<E: Error>(self, millis: u64) -> Result<Date, E> {
            self.visit_f64(millis as f64)
        }
        #[expect(clippy::cast_precision_loss, reason = "a bound need not be exact at the year 287396")]
        fn visit_i64<E: Error>(self, millis: i64) -> Result<Date, E> {
            self.visit_f64(millis as f64)
        }
        fn visit_f64<E: Error>(self, millis: f64) -> Result<Date, E> {
            if millis.abs() <= MAX_DATE_MILLIS { Ok(Date) } else { Err(E::custom("the date is out of range")) }
        }
    }
}

deserialize! {
    ArrayOf<T>: deserialize_seq as "an array" {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ArrayOf<T>, A::Error> {
            while seq.next_element::<T>()?.is_some() {}
            Ok(ArrayOf(PhantomData))
        }
    }
}

deserialize! {
    AnyObject: deserialize_map as "an object" {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyObject, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(AnyObject)
        }
    }
}

/// Whether the text is a date as the platform writes it.
pub(super) fn is_date(text: &str) -> bool {
    // JavaScript's dates have no leap seconds.
    humantime::parse_rfc3339(text).is_ok() && text.get(17..19) != Some("60")
}

impl Described for Text {
    const KIND: Kind = Kind::Text;
}

impl Described for Date {
    const KIND: Kind = Kind::Date;
}

impl Described for AnyObject {
    const KIND: Kind = Kind::Any;
}

impl Described for Anything {
    const KIND: Kind = Kind::Any;
}

impl<T: Described> Described for ArrayOf<T> {
    const KIND: Kind = Kind::Array(&T::KIND);
}

impl<T: Described> Described for Object<T> {
    const KIND: Kind = T::KIND;
}

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Defines the type of a string that should be one of a few values. (A serde enum would also accept `{"VALUE":null}`.)
macro_rules! string_enum {
    ($name:ident: $($value:literal),+) => {
        #[derive(Debug)]
        pub(super) struct $name {
            is_known: bool,
        }

        impl $name {
            const VALUES: &[&str] = &[$($value),+];
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                shape::one_of(Self::VALUES, deserializer).map(|is_known| Self { is_known })
            }
        }

        impl Described for $name {
            const KIND: Kind = Kind::Word(Self::VALUES);
        }
    };
}
pub(super) use {deserialize, string_enum};

/// Deserializes a string; true if it is one of these values.
pub(super) fn one_of<'de, D: Deserializer<'de>>(
    values: &'static [&'static str],
    deserializer: D,
) -> Result<bool, D::Error> {
    struct OneOf(&'static [&'static str]);
    impl Visitor<'_> for OneOf {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "one of {:?}", self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            Ok(self.0.contains(&text))
        }
    }
    deserializer.deserialize_str(OneOf(values))
}

/// Deserializes a string that must be this one.
pub(super) fn literal<'de, D: Deserializer<'de>>(
    text: &'static str,
    deserializer: D,
) -> Result<(), D::Error> {
    struct Literal(&'static str);
    impl Visitor<'_> for Literal {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:?}", self.0)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
            // The string itself is part of a payload, which is never quoted.
            if text == self.0 {
                Ok(())
            } else {
                Err(E::invalid_value(Unexpected::Other("another text"), &self))
            }
        }
    }
    deserializer.deserialize_str(Literal(text))
}

/// Deserializes a field that may be absent but not `null`.
pub(super) fn non_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// [`non_null`] for a string that is kept, without a copy if it has no escapes.
pub(super) fn non_null_text<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Kept<'a>(#[serde(borrow)] Cow<'a, str>);
    Kept::deserialize(deserializer).map(|kept| Some(kept.0))
}

/// The names by which serde knows the fields of an object.
#[cfg(test)]
pub(super) fn names_of<'de, T: Deserialize<'de>>() -> Vec<String> {
    struct Names;
    impl<'de> Deserializer<'de> for Names {
        type Error = serde::de::value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(Error::custom("not an object"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            names: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            Err(Error::custom(names.join(" ")))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let names = T::deserialize(Names).err().expect("names end as an error").to_string();
    names.split(' ').map(str::to_owned).collect()
}
