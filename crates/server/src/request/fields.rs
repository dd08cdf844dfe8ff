//! The values that JSON requests are made of, read so that nothing is dropped in silence and nothing grows unbounded.
//!
//! Request structs are declared with [`fields!`], not with a derive, for three reasons: several groups of fields can
//! share one JSON object (both endpoints share their sampling fields) without serde's buffering `flatten`; an unknown
//! field is refused with the name that was probably meant; and every error carries the path of its value.
//! **Invariant:** parsing allocates at most a small multiple of the body's size; lists are bounded by [`MOST_ENTRIES`].

use std::fmt;
use std::marker::PhantomData;

use folio_core::params::EarlyStopping;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// The most entries of any list in a request, token ids excepted. Narrower limits follow in validation.
pub(crate) const MOST_ENTRIES: usize = 16_384;

/// A group of named fields that can be read from a JSON object.
pub(crate) trait Fields: Default {
    /// The names as clients write them.
    const NAMES: &'static [&'static str];

    /// Reads the value of `key` if it belongs to this group; tells whether it did.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Declares a group of optional fields. `null` means not given; a field given twice is an error.
macro_rules! fields {
    ($(#[$meta:meta])* $vis:vis struct $group:ident {
        $($(#[$field_meta:meta])* $field:ident $(as $name:literal)?: $type:ty,)*
    }) => {
        $crate::request::fields::fields! { @undescribed
            $(#[$meta])* $vis struct $group { $($(#[$field_meta])* $field $(as $name)?: $type,)* }
        }

        impl $crate::openapi::schema::Members for $group {
            fn members(into: &mut serde_json::Map<String, serde_json::Value>) {
                $(let name = $crate::request::fields::name!($field $($name)?);
                into.insert(name.to_owned(), <$type as $crate::openapi::schema::Schema>::schema());)*
            }
        }
    };
    (@undescribed $(#[$meta:meta])* $vis:vis struct $group:ident {
        $($(#[$field_meta:meta])* $field:ident $(as $name:literal)?: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $group { $($(#[$field_meta])* pub(crate) $field: Option<$type>,)* }

        impl $crate::request::fields::Fields for $group {
            const NAMES: &'static [&'static str] =
                &[$($crate::request::fields::name!($field $($name)?)),*];

            fn take<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                $(if key == $crate::request::fields::name!($field $($name)?) {
                    $crate::request::fields::put(&mut self.$field, map)?;
                    return Ok(true);
                })*
                Ok(false)
            }
        }
    };
}

/// A field's name on the wire.
macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// Reads an object whose fields are exactly those of the named groups.
macro_rules! object {
    ($type:ident { $($part:ident: $group:ty),+ $(,)? }) => {
        impl $crate::openapi::schema::Schema for $type {
            fn schema() -> serde_json::Value {
                let mut members = serde_json::Map::new();
                $(<$group as $crate::openapi::schema::Members>::members(&mut members);)+
                $crate::openapi::schema::closed(members)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> serde::de::Visitor<'de> for Object {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$type, A::Error> {
                        use $crate::request::fields::Fields;
                        $(let mut $part = <$group>::default();)+
                        while let Some(key) = map.next_key::<String>()? {
                            if $($part.take(&key, &mut map)?)||+ {
                                continue;
                            }
                            let known = [$(<$group>::NAMES),+].concat();
                            map.next_value_seed($crate::request::fields::Unknown { key: &key, known: &known })?;
                        }
                        Ok($type { $($part),+ })
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }
    };
}

pub(crate) use {fields, name, object};

/// Fills a slot with the next value; a slot that is filled already is an error.
pub(crate) fn put<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return map.next_value_seed(Twice);
    }
    *slot = map.next_value()?;
    Ok(())
}

/// Fails where the value of an unknown field would be read, so that the error's path ends in the field's name.
pub(crate) struct Unknown<'a> {
    pub(crate) key: &'a str,
    pub(crate) known: &'a [&'static str],
}

impl<'de> DeserializeSeed<'de> for Unknown<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(de::Error::custom(unknown(self.key, self.known)))
    }
}

/// What is wrong with a field `key` where there are only those that are `known`.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|name| (distance(key, name), *name))
        .filter(|(distance, name)| *distance <= name.len() / 3)
        .min();
    match nearest {
        Some((_, name)) => format!("is an unknown field; did you mean `{name}`?"),
        None => "is an unknown field".to_owned(),
    }
}

struct Twice;

impl<'de> DeserializeSeed<'de> for Twice {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(de::Error::custom("is given twice"))
    }
}

/// Levenshtein distance; names longer than any of ours are simply far away.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substituted = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// An integer, also when a client's serialiser writes it as `3.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Int(pub(crate) i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer;
        impl Visitor<'_> for Integer {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Int, E> {
                Ok(Int(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Int, E> {
                i64::try_from(value)
                    .map(Int)
                    .map_err(|_| E::custom(format!("must be at most {}, not {value}", i64::MAX)))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Int, E> {
                /// Above this a double cannot tell neighbouring integers apart.
                const EXACT: f64 = 9_007_199_254_740_992.0;
                if value.fract() != 0.0 || value.abs() > EXACT {
                    return Err(E::invalid_type(de::Unexpected::Float(value), &self));
                }
                #[allow(clippy::cast_possible_truncation, reason = "integral and below 2^53")]
                Ok(Int(value as i64))
            }
        }
        deserializer.deserialize_any(Integer)
    }
}

/// When a beam search ends: `false`, `true` or `"never"`, as Hugging Face writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Early(pub(crate) EarlyStopping);

impl<'de> Deserialize<'de> for Early {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrNever;
        impl Visitor<'_> for BoolOrNever {
            type Value = Early;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, true or \"never\"")
            }

            fn visit_bool<E>(self, at_once: bool) -> Result<Early, E> {
                Ok(Early(if at_once { EarlyStopping::AtOnce } else { EarlyStopping::Heuristic }))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Early, E> {
                if word == "never" {
                    Ok(Early(EarlyStopping::Never))
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }
        deserializer.deserialize_any(BoolOrNever)
    }
}

/// A list of at most [`MOST_ENTRIES`].
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    push_bounded(&mut items, item)?;
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_seq(Bounded(PhantomData))
    }
}

/// Appends to a list unless it holds [`MOST_ENTRIES`] already.
pub(crate) fn push_bounded<T, E: de::Error>(items: &mut Vec<T>, item: T) -> Result<(), E> {
    if items.len() >= MOST_ENTRIES {
        return Err(E::custom(format!("has more than {MOST_ENTRIES} entries")));
    }
    items.push(item);
    Ok(())
}

/// Token ids, of which there may be as many as a body holds: they take little more room than in it.
#[derive(Debug, Default)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

/// One string or a list of them.
#[derive(Debug, Default)]
pub(crate) struct Strings(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Strings, E> {
                Ok(Strings(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    push_bounded(&mut items, item)?;
                }
                Ok(Strings(items))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// A string, or a list of `T`.
#[derive(Debug)]
pub(crate) enum TextOr<T> {
    /// A string.
    Text(String),
    /// A list.
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrList<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrList<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TextOr<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    push_bounded(&mut items, item)?;
                }
                Ok(TextOr::List(items))
            }
        }
        deserializer.deserialize_any(TextOrList(PhantomData))
    }
}

/// A map from token id, written as a string, to a number.
#[derive(Debug, Default)]
pub(crate) struct Biases(pub(crate) Vec<(i64, f64)>);

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ById;
        impl<'de> Visitor<'de> for ById {
            type Value = Biases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token ids to numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
                let mut items = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let bias: f64 = map.next_value()?;
                    let id = key.parse().map_err(|_| {
                        de::Error::custom(format!(
                            "has the key {}, which is not a token id",
                            crate::error::quote(&key)
                        ))
                    })?;
                    push_bounded(&mut items, (id, bias))?;
                }
                Ok(Biases(items))
            }
        }
        deserializer.deserialize_map(ById)
    }
}

/// The value of a field that is not served: just enough of it to see whether it asks for anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Given {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string that is not one of [`WORDS`].
    Text,
    /// One of [`WORDS`].
    Word,
    /// A list or an object.
    Collection {
        /// Whether nothing is in it.
        empty: bool,
    },
}

/// The strings that some field has as its default.
pub(crate) const WORDS: &[&str] = &["auto", "default", "medium", "none", "text"];

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Given, E> {
                Ok(Given::Bool(value))
            }

            #[allow(clippy::cast_precision_loss, reason = "only compared with small numbers")]
            fn visit_i64<E>(self, value: i64) -> Result<Given, E> {
                Ok(Given::Number(value as f64))
            }

            #[allow(clippy::cast_precision_loss, reason = "only compared with small numbers")]
            fn visit_u64<E>(self, value: u64) -> Result<Given, E> {
                Ok(Given::Number(value as f64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Given, E> {
                Ok(Given::Number(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Given, E> {
                Ok(if WORDS.contains(&value) { Given::Word } else { Given::Text })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Given, A::Error> {
                let mut empty = true;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    empty = false;
                }
                Ok(Given::Collection { empty })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                let mut empty = true;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    empty = false;
                }
                Ok(Given::Collection { empty })
            }
        }
        deserializer.deserialize_any(Anything)
    }
}
