//! Fields that do not belong to what an object turns out to be.

use serde::de::{IgnoredAny, MapAccess};
use serde_json::{Map, Value};

use super::fields::{Fields, unknown};
use crate::error::ApiError;
use crate::openapi::schema::Members;

/// As the last group of an object, takes every field that no other group knows: what is one of several kinds is refused for its
/// kind, and only then for its fields.
#[derive(Debug, Default)]
pub(crate) struct Others(Option<String>);

impl Others {
    /// # Errors
    /// 400 that names the first of them, in the words of `at`; the other group of the object is `F`.
    pub(crate) fn refuse<F: Fields>(&self, at: impl Fn(&str) -> String) -> Result<(), ApiError> {
        match &self.0 {
            Some(name) => Err(ApiError::field(at(name), unknown(name, F::NAMES))),
            None => Ok(()),
        }
    }
}

impl Fields for Others {
    const NAMES: &'static [&'static str] = &[];

    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        map.next_value::<IgnoredAny>()?;
        self.0.get_or_insert_with(|| key.to_owned());
        Ok(true)
    }
}

impl Members for Others {
    fn members(_: &mut Map<String, Value>) {}
}
