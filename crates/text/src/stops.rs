//! Stop strings in a stream of text that comes in arbitrary pieces.
//!
//! A piece of text leaves as soon as no stop string can begin in it; only the longest end of the text that may be the beginning
//! of a stop string is kept back. All stop strings run at once, one step per byte, in the automaton of Knuth, Morris and Pratt,
//! so a byte of text costs one step per stop string on average, whatever the stop strings look like.
//!
//! Invariant: the text that leaves in total, and the stop string that is found, do not depend on how the text was cut.

/// Finds the first of some stop strings in a stream.
#[derive(Debug, Clone)]
pub struct StopFinder {
    stops: Vec<Stop>,
    include: bool,
    /// Text that may be the beginning of a stop string.
    kept: String,
    found: Option<usize>,
}

/// A stop string and how far the end of the text agrees with it.
#[derive(Debug, Clone)]
struct Stop {
    /// Its place in the list that was given.
    index: usize,
    text: Vec<u8>,
    /// For each prefix, the length of its longest proper prefix that is also its suffix.
    borders: Vec<usize>,
    matched: usize,
}

/// What a piece of text leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Text that can leave now; it ends before the stop string, or with it if it is to be included.
    pub text: String,
    /// The stop string that was found, as its index in the list. Nothing leaves after it.
    pub stop: Option<usize>,
}

impl Stop {
    fn new(index: usize, text: String) -> Self {
        let text = text.into_bytes();
        let mut borders = vec![0; text.len()];
        let mut border = 0;
        for i in 1..text.len() {
            while border > 0 && text[border] != text[i] {
                border = borders[border - 1];
            }
            border += usize::from(text[border] == text[i]);
            borders[i] = border;
        }
        Self { index, text, borders, matched: 0 }
    }

    /// Whether the stop string ends with this byte of the stream.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

impl StopFinder {
    /// A finder of `stops`. With `include`, the text keeps the stop string that ends it. Empty stop strings are left out: they
    /// would end every text before it begins.
    ///
    /// A text ends as soon as it ends with a stop string, so a generation never runs on to see whether another one fits better.
    /// If several end at the same byte, the one that starts first wins, then the first in the list.
    #[must_use]
    pub fn new(stops: Vec<String>, include: bool) -> Self {
        let stops = stops.into_iter().enumerate().filter(|(_, text)| !text.is_empty());
        let stops = stops.map(|(index, text)| Stop::new(index, text)).collect();
        Self { stops, include, kept: String::new(), found: None }
    }

    /// Takes the next piece of text. After a stop string was found, nothing leaves any more.
    pub fn push(&mut self, piece: &str) -> Found {
        if self.found.is_some() {
            return Found { text: String::new(), stop: self.found };
        }
        let before = self.kept.len();
        self.kept.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            if let Some((index, length)) = self.step(byte) {
                self.found = Some(index);
                let end = before + i + 1;
                self.kept.truncate(if self.include { end } else { end - length });
                return Found { text: std::mem::take(&mut self.kept), stop: self.found };
            }
        }
        let keep = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        // A stop string begins with a whole character, so this is where one begins.
        let rest = self.kept.split_off(self.kept.len() - keep);
        Found { text: std::mem::replace(&mut self.kept, rest), stop: None }
    }

    /// The text that was kept back, when no more will come.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.kept)
    }

    /// The stop string that ends with this byte: its index and length.
    fn step(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for stop in &mut self.stops {
            if stop.step(byte) && best.is_none_or(|(_, length)| stop.text.len() > length) {
                best = Some((stop.index, stop.text.len()));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (String, Option<usize>) {
        let mut finder = StopFinder::new(stops.iter().map(|s| (*s).to_owned()).collect(), include);
        let mut text = String::new();
        for piece in pieces {
            let found = finder.push(piece);
            text.push_str(&found.text);
            if found.stop.is_some() {
                assert_eq!(finder.push("more"), Found { text: String::new(), stop: found.stop });
                assert_eq!(finder.finish(), "");
                return (text, found.stop);
            }
        }
        text.push_str(&finder.finish());
        (text, None)
    }

    #[test]
    fn a_stop_string_ends_the_text_with_or_without_it() {
        assert_eq!(run(&["END"], false, &["the END is near"]), ("the ".to_owned(), Some(0)));
        assert_eq!(run(&["END"], true, &["the E", "ND is near"]), ("the END".to_owned(), Some(0)));
        assert_eq!(run(&["END"], false, &["the EN", "E", "ND"]), ("the EN".to_owned(), Some(0)));
        assert_eq!(run(&["END"], false, &["the EN"]), ("the EN".to_owned(), None));
    }

    #[test]
    fn the_first_to_end_wins_then_the_first_to_start_then_the_first_in_the_list() {
        assert_eq!(run(&["abcd", "bc"], false, &["abcd"]), ("a".to_owned(), Some(1)));
        assert_eq!(run(&["c", "abc", "abc"], false, &["xabc"]), ("x".to_owned(), Some(1)));
        assert_eq!(run(&["", "b"], false, &["ab"]), ("a".to_owned(), Some(1)));
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_kept_back() {
        let mut finder = StopFinder::new(vec!["aab".to_owned(), "\u{1f642}!".to_owned()], false);
        assert_eq!(finder.push("xa").text, "x");
        assert_eq!(finder.push("a").text, "");
        assert_eq!(finder.push("a").text, "a");
        assert_eq!(finder.push("c\u{1f642}").text, "aac");
        assert_eq!(finder.push("\u{1f641}").text, "\u{1f642}\u{1f641}");
        assert_eq!(finder.finish(), "");
    }
}
