//! Owns the definition of enumerations whose values have one fixed text each.

/// Defines an enumeration whose values have a fixed text each.
macro_rules! closed_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $meaning:literal])+ $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $meaning])+ $value),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value's text.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$value => $text),+ }
            }

            /// The value's doc comment, for the guides.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$value => concat!($($meaning),+)),+ }
            }
        }
    };
}

pub(crate) use closed_enum;
