//! The signals that ask a process to end, caught so that it can finish what it does.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Sent to a process that writes beyond the longest file it may have; without a handler it would end.
const FILE_TOO_LONG: SignalKind = SignalKind::from_raw(25);

/// SIGTERM and SIGINT, and SIGXFSZ so that a file which may not grow is an error like a full disk.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _file_too_long: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process. Needs an async runtime around it.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_too_long: signal(FILE_TOO_LONG)?,
        })
    }

    /// Waits for the next that asks for the end.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Sends one message per signal.
    pub(crate) async fn forward(mut self, sender: mpsc::Sender<()>) {
        loop {
            self.next().await;
            if sender.send(()).await.is_err() {
                return;
            }
        }
    }
}
