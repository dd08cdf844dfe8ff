//! What a user sees of a download: a bar for the file and one for everything, or plain lines where nobody watches.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Result;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::log::say;

/// Without a terminal, a line is printed whenever this share of the whole has come.
const LINES: u64 = 10;
/// Files smaller than this are not worth a line.
const LARGE: u64 = 16 << 20;

/// The progress of a whole download.
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    total: ProgressBar,
    printed: u64,
}

/// The progress of one file of it.
pub(crate) struct FileProgress<'a> {
    whole: &'a mut Progress,
    bar: Option<ProgressBar>,
    before: u64,
}

impl Progress {
    pub(crate) fn new(title: &str, files: usize, bytes: u64) -> Result<Self> {
        let plural = if files == 1 { "" } else { "s" };
        say!("fetching {title}: {files} file{plural}, {}", HumanBytes(bytes));
        let style = "{msg:32!} {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        let total = ProgressBar::new(bytes).with_message("everything");
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        let total = match &bars {
            Some(bars) => {
                total.enable_steady_tick(Duration::from_millis(200));
                bars.add(total.with_style(ProgressStyle::with_template(style)?))
            }
            None => {
                total.set_draw_target(indicatif::ProgressDrawTarget::hidden());
                total
            }
        };
        Ok(Self { bars, total, printed: 0 })
    }

    /// Begins a file of which `size` bytes are to come.
    pub(crate) fn file(&mut self, name: &str, size: u64) -> FileProgress<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = ProgressBar::new(size).with_message(name.to_owned());
            bars.insert_before(&self.total, bar.with_style(self.total.style()))
        });
        if bar.is_none() && size >= LARGE {
            say!("  {name}, {}", HumanBytes(size));
        }
        let before = self.total.position();
        FileProgress { whole: self, bar, before }
    }

    /// Says something without disturbing the bars.
    pub(crate) fn say(&self, text: &str) {
        self.total.suspend(|| say!("  {text}"));
    }

    pub(crate) fn finish(self) {
        self.total.finish_and_clear();
    }
}

impl FileProgress<'_> {
    /// `done` bytes of this file are there, some of them perhaps from an earlier attempt.
    pub(crate) fn at(&mut self, done: u64) {
        let position = self.before.saturating_add(done);
        self.whole.total.set_position(position);
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None => self.whole.print(position),
        }
    }

    pub(crate) fn say(&self, text: &str) {
        self.whole.say(text);
    }
}

impl Drop for FileProgress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress {
    fn print(&mut self, position: u64) {
        let total = self.total.length().unwrap_or(0);
        let step = (total / LINES).max(LARGE);
        if position / step > self.printed / step {
            say!("  {} of {}", HumanBytes(position), HumanBytes(total));
            self.printed = position;
        }
    }
}
