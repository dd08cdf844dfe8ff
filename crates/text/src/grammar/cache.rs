//! The grammars compiled last: whoever sends the same one again does not wait for it again.

use std::collections::HashMap;

use super::{Grammar, Matcher};

/// The most grammars that are kept. The largest take a few megabytes each.
const MOST: usize = 64;
/// The most bytes of their sources together.
const MOST_BYTES: usize = 1 << 20;

/// At most [`MOST`] matchers at the start of a text, of sources of at most [`MOST_BYTES`]; whoever was not asked for longest
/// goes first.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Grammar, Entry>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    matcher: Matcher,
    bytes: usize,
    used: u64,
}

impl Cache {
    pub(super) fn get(&mut self, grammar: &Grammar) -> Option<Matcher> {
        self.clock += 1;
        let entry = self.entries.get_mut(grammar)?;
        entry.used = self.clock;
        Some(entry.matcher.fork())
    }

    pub(super) fn put(&mut self, grammar: Grammar, bytes: usize, matcher: Matcher) {
        self.clock += 1;
        let entry = Entry { matcher, bytes, used: self.clock };
        if let Some(old) = self.entries.insert(grammar, entry) {
            self.bytes -= old.bytes;
        }
        self.bytes += bytes;
        while self.entries.len() > MOST || self.bytes > MOST_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(grammar, _)| grammar.clone()) else { return };
            if let Some(gone) = self.entries.remove(&oldest) {
                self.bytes -= gone.bytes;
            }
        }
    }
}
