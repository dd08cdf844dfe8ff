//! The log, and whatever else is said on standard error and output.
//!
//! **Invariant:** nobody who reads slowly, stops reading or has gone holds up the server. Lines of the log are handed to a
//! thread that writes them; where it cannot keep up they are dropped and counted. What is printed directly is printed as far
//! as it goes.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::limits::LogFormat;
use crate::typed::variable;

/// Lines that may wait to be written.
const MOST_WAITING: usize = 4096;

/// What is logged unless the environment says otherwise.
const USUAL: &str = "info";

/// Time to write what waits when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Prints a line on standard error, if anybody listens.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use say;

/// `text` as one word of a command that can be copied to a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// Hands lines over. Clones are the same log.
#[derive(Clone)]
struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

/// One call is one line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this process.
pub(crate) struct Log {
    lines: Lines,
    written: Receiver<()>,
}

impl Log {
    /// Starts to log to standard error. `FOLIO_LOG` chooses what is logged, in the syntax of `RUST_LOG`.
    pub(crate) fn start(format: LogFormat) -> Self {
        let wanted = variable("FOLIO_LOG").unwrap_or_else(|| USUAL.to_owned());
        let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            say!("FOLIO_LOG={wanted:?} is not understood ({error}); it is taken as {USUAL}");
            EnvFilter::new(USUAL)
        });
        let log = Self::to(io::stderr());
        let lines = log.lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || lines.clone());
        match format {
            LogFormat::Text => subscriber.with_ansi(io::stderr().is_terminal()).init(),
            LogFormat::Json => subscriber.json().flatten_event(true).init(),
        }
        log
    }

    fn to(target: impl Write + Send + 'static) -> Self {
        let (queue, waiting) = sync_channel(MOST_WAITING);
        let (done, written) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let work = move || {
            write_lines(&waiting, &counted, target);
            let _ = done.send(());
        };
        // Without a thread nothing is written, and nothing else suffers.
        let _ = thread::Builder::new().name("folio-log".to_owned()).spawn(work);
        Self { lines: Lines { queue, dropped }, written }
    }

    /// Writes what waits, and `last` after it, as far as it goes in a second.
    pub(crate) fn end(mut self, last: &str) {
        let _ = self.lines.write(last.as_bytes());
        if self.lines.queue.try_send(Message::End).is_ok() {
            let _ = self.written.recv_timeout(LAST_WORDS);
        }
    }
}

fn write_lines(waiting: &Receiver<Message>, dropped: &AtomicU64, mut target: impl Write) {
    while let Ok(Message::Line(line)) = waiting.recv() {
        // Who has gone may be replaced by somebody who listens: named pipes are.
        let _ = target.write_all(&line);
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ =
                writeln!(target, "{lost} lines of the log were dropped: nobody read them in time");
        }
    }
    let _ = target.flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    /// Holds the first line until it is told to go on.
    struct Slow(Arc<Mutex<Vec<u8>>>, Option<Receiver<()>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(wait) = self.1.take() {
                let _ = wait.recv();
            }
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_does_not_read_holds_nobody_up_and_is_told_what_was_missed() {
        let (go_on, wait) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Log::to(Slow(Arc::clone(&written), Some(wait)));
        let mut lines = log.lines.clone();
        for number in 0..MOST_WAITING + 100 {
            lines.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        go_on.send(()).unwrap();
        // There may not be room for the end at once.
        while lines.queue.try_send(Message::Line(b"late\n".to_vec())).is_err() {
            thread::yield_now();
        }
        let _ = log.lines.queue.send(Message::End);
        log.written.recv().unwrap();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].ends_with("lines of the log were dropped: nobody read them in time"),
            "{}",
            lines[1]
        );
        assert_eq!((lines[0], lines.last()), ("0", Some(&"late")));
    }
}
