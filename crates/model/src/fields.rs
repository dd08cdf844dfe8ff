//! Typed, bounded access to the fields of a JSON object that somebody else wrote.
//!
//! Hugging Face writes `null` for "not set", so `null` and absence are one. Every accessor names the file and the field
//! when it refuses, and every number that comes out is inside the range that was asked for.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// A JSON object of a model folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    file: &'static str,
    /// Empty at the top; `"rope_parameters."` inside that object.
    within: &'static str,
    values: Map<String, Value>,
}

impl Fields {
    /// Fields that come from elsewhere; `file` is what messages call it.
    #[must_use]
    pub(crate) fn new(file: &'static str, values: Map<String, Value>) -> Self {
        Self { file, within: "", values }
    }

    /// Parses a whole file, which must hold one JSON object.
    ///
    /// # Errors
    /// When it does not; the sentence says where.
    pub fn parse(file: &'static str, bytes: &[u8]) -> Result<Self, ModelError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(values)) => Ok(Self { file, within: "", values }),
            Ok(_) => Err(ModelError::file(file, "must hold a JSON object")),
            Err(e) => Err(ModelError::file(file, format!("is not valid JSON: {e}"))),
        }
    }

    /// An object without fields, for files that may be absent.
    #[must_use]
    pub fn none(file: &'static str) -> Self {
        Self { file, within: "", values: Map::new() }
    }

    pub(crate) fn bad(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Field {
            file: self.file,
            field: format!("{}{field}", self.within),
            problem: problem.into(),
        }
    }

    /// The field's value, unless it is absent or `null`.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<&Value> {
        self.values.get(field).filter(|v| !v.is_null())
    }

    /// The names of the fields that hold objects.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter(|(_, v)| v.is_object()).map(|(k, _)| k.as_str())
    }

    /// The object in `field`; `within` is its name with a dot, for messages.
    ///
    /// # Errors
    /// When the field holds something else.
    pub fn object(&self, field: &str, within: &'static str) -> Result<Option<Self>, ModelError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Object(values)) => {
                Ok(Some(Self { file: self.file, within, values: values.clone() }))
            }
            Some(_) => Err(self.bad(field, "must be an object or null")),
        }
    }

    /// A whole number in `range`, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn count(
        &self,
        field: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if range.contains(&n) => Ok(Some(n)),
            _ => Err(self.out_of_range(field, "a whole number", &range, value)),
        }
    }

    /// A number in `range`, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn number(
        &self,
        field: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if range.contains(&x) => Ok(Some(x)),
            _ => Err(self.out_of_range(field, "a number", &range, value)),
        }
    }

    /// A number above 0 and at most `most`, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn positive(&self, field: &str, most: f64) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x > 0.0 && x <= most => Ok(Some(x)),
            _ => Err(self.bad(
                field,
                format!("must be a number above 0 and at most {most}, not {}", show(value)),
            )),
        }
    }

    /// Whether the field is there and holds `null`, for the few whose default is not "none".
    #[must_use]
    pub fn is_null(&self, field: &str) -> bool {
        self.values.get(field).is_some_and(Value::is_null)
    }

    /// `true` or `false`, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => {
                Err(self.bad(field, format!("must be true or false, not {}", show(other))))
            }
        }
    }

    /// A string, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ModelError> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.bad(field, format!("must be a string, not {}", show(other)))),
        }
    }

    /// A list of strings, or `None` when not set.
    ///
    /// # Errors
    /// When the field holds anything else.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
            .map(Some)
            .ok_or_else(|| self.bad(field, "must be a list of strings"))
    }

    /// The field, which must be set.
    ///
    /// # Errors
    /// When `value` is `None`.
    pub fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.bad(field, "is missing"))
    }

    fn out_of_range<T: Display>(
        &self,
        field: &str,
        kind: &str,
        range: &RangeInclusive<T>,
        value: &Value,
    ) -> ModelError {
        let (low, high) = (range.start(), range.end());
        self.bad(field, format!("must be {kind} from {low} to {high}, not {}", show(value)))
    }
}

/// A value as it is shown in a message: whole when short, else its beginning.
fn show(value: &Value) -> String {
    const MOST: usize = 40;
    let text = value.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start}…")
}
