//! Watching the loop from inside: where a step's time goes between the engine's own parts.
//!
//! The engine is generic over its observer. That of a server is usually `()`, whose methods are empty, so nothing of this is left
//! in its loop.

use folio_core::kv::Change;
use folio_core::plan::StepPlan;

/// The parts of a step, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Taking requests in from the inbox.
    Receive,
    /// Planning.
    Schedule,
    /// Executing the plan.
    Execute,
    /// Taking in what the step has made.
    Commit,
    /// Publishing numbers, and sending updates to their readers.
    Publish,
}

/// Told by the engine's thread how far a step has come.
pub trait Observer: Send + 'static {
    /// A step begins; what came before it was waiting, or belongs to the step before.
    fn began(&mut self);
    /// A part of the step has ended, and the next one begins.
    fn ended(&mut self, part: Part);
    /// Whether it wants to be told of changes of the prefix cache. Then the memory must be one that remembers them.
    fn wants_changes(&self) -> bool {
        false
    }
    /// What the step has changed in the prefix cache, if the memory was made to tell; never called for nothing. Whatever is
    /// left in the list is forgotten.
    fn cache_changed(&mut self, _changes: &mut Vec<Change>) {}
    /// The step that executed `plan` has ended. Not called where there was nothing to plan.
    fn finished(&mut self, plan: &StepPlan);
}

impl Observer for () {
    fn began(&mut self) {}
    fn ended(&mut self, _: Part) {}
    fn finished(&mut self, _: &StepPlan) {}
}
