//! From bytes to valid values; the one door that both endpoints share.

pub(crate) mod body;
pub(crate) mod common;
pub(crate) mod fields;
pub(crate) mod json;
pub(crate) mod others;
pub(crate) mod output;
pub(crate) mod structured;
pub(crate) mod unserved;
