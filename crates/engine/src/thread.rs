//! The engine's thread: how it starts, and that it ends every stream however it ends.
//!
//! Ending has one order, whatever the reason: close the door, give back the blocks, publish, then tell the streams. So
//! who hears that a request failed because the engine died finds the engine dead.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use folio_core::exec::{ExecError, Executor};
use folio_core::kv::KvMemory;
use folio_core::schedule::Scheduler;

use crate::config::EngineConfig;
use crate::handle::Handle;
use crate::inbox::Door;
use crate::observe::Observer;
use crate::run::{Engine, Occasion};
use crate::shared::Shared;
use crate::update::Cause;

/// Why the engine ended although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The scheduler panicked.
    #[error("the engine's thread panicked: {0}")]
    Panicked(String),
    /// An invariant of the scheduler or of the block manager does not hold.
    #[error("an invariant is broken: {0}")]
    Invariant(String),
    /// There was work, and the scheduler planned none of it.
    #[error("the scheduler has work but planned none of it")]
    Stuck,
    /// Too many steps failed, one after the other.
    #[error("{count} steps failed in a row, the last one because: {last}")]
    FailedSteps {
        /// How many.
        count: u32,
        /// Why the last one did.
        last: ExecError,
    },
}

/// The running thread. Dropping it lets the thread run on.
#[derive(Debug)]
pub struct EngineThread {
    thread: JoinHandle<Result<(), EngineError>>,
}

impl EngineThread {
    /// Waits until the engine has ended, which takes a [`Handle::drain`], a [`Handle::abort_all`], the end of the last
    /// handle, or an error. Blocks: do not call it on an async runtime's own thread.
    ///
    /// # Errors
    /// Why the engine ended, if it did not end as it was told to.
    pub fn join(self) -> Result<(), EngineError> {
        self.thread
            .join()
            .unwrap_or_else(|panic| Err(EngineError::Panicked(panic_message(&*panic))))
    }

    /// Whether the engine has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts the thread that serves `scheduler`'s requests with `executor`.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start<M: KvMemory + Send + 'static>(
    scheduler: Scheduler<M>,
    executor: Box<dyn Executor>,
    config: EngineConfig,
) -> io::Result<(Handle, EngineThread)> {
    start_observed(scheduler, executor, config, ())
}

/// Like [`start`], with somebody who is told how far each step has come.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start_observed<M: KvMemory + Send + 'static>(
    scheduler: Scheduler<M>,
    executor: Box<dyn Executor>,
    config: EngineConfig,
    observer: impl Observer,
) -> io::Result<(Handle, EngineThread)> {
    let shared = Arc::new(Shared::new(scheduler.admission().clone(), config.stall_after));
    let handle = Handle::new(Arc::clone(&shared));
    let engine = Engine::new(scheduler, observer, executor, Arc::clone(&shared), config);
    let thread = std::thread::Builder::new()
        .name("folio-engine".to_owned())
        .spawn(move || live(engine, &shared))?;
    Ok((handle, EngineThread { thread }))
}

/// The thread from its first instruction to its last.
fn live<M: KvMemory, O: Observer>(
    mut engine: Engine<M, O>,
    shared: &Shared,
) -> Result<(), EngineError> {
    // Whatever happens below, nobody may wait for this thread once it is gone.
    let _bolt = Bolt(shared);
    let result = guarded(|| engine.run());
    if let Err(error) = &result {
        tracing::error!(%error, "the engine ends");
        // Told apart in the log: a panic that left everything in order, and one that did not.
        if let Err(broken) = guarded(|| engine.check(Occasion::Error)) {
            tracing::error!(%broken, "and this is what it leaves behind");
        }
    }
    let (door, cause) = match &result {
        Ok(()) => (Door::Ended, Cause::Shutdown),
        Err(_) => (Door::Dead, Cause::Died),
    };
    shared.inbox.close(door);
    let ended = guarded(|| {
        engine.end_all(&cause);
        engine.check(Occasion::Idle)
    });
    if ended.is_ok() {
        return result.and(guarded(move || {
            drop(engine);
            Ok(())
        }));
    }
    // The scheduler is beyond repair. Its tables would only report, by more panics, what is known already.
    engine.refuse_messages(&cause);
    engine.streams.fail_all(&cause);
    std::mem::forget(engine);
    result.and(ended)
}

/// Runs `f` and makes an error of a panic. What `f` changed is looked at afterwards only to end it.
fn guarded(f: impl FnOnce() -> Result<(), EngineError>) -> Result<(), EngineError> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|panic| Err(EngineError::Panicked(panic_message(&*panic))))
}

/// Closes the door for good and empties the inbox, if the thread ends without having done so.
struct Bolt<'a>(&'a Shared);

impl Drop for Bolt<'_> {
    fn drop(&mut self) {
        if self.0.inbox.door() < Door::Ended {
            self.0.inbox.close(Door::Dead);
        }
        // With the messages go the senders, and with them whoever waits.
        self.0.inbox.take(false, &mut Vec::new());
    }
}

/// What a panic said, if it said it in words.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(message) = panic.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message.clone()
    } else {
        "no message".to_owned()
    }
}
