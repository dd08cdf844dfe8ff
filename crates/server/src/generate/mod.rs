//! From a valid request to the pieces of its answer; what both endpoints have in common.

pub(crate) mod answer;
pub(crate) mod choice;
pub(crate) mod constraint;
pub(crate) mod encode;
pub(crate) mod logprobs;
pub(crate) mod narrate;
pub(crate) mod origin;
pub(crate) mod reading;
pub(crate) mod report;
pub(crate) mod run;
mod stop_rule;
pub(crate) mod timings;
pub(crate) mod told;
