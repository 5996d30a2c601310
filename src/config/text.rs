//! A configuration file as text: places in it, and pieces of it in messages.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use super::error::{ConfigError, ConfigErrors, Place, Problem};

/// The most characters of a file that a message repeats.
const SHOWN: usize = 60;

/// Gathers what is wrong with one file.
pub(super) struct Report<'t> {
    file: Arc<str>,
    text: &'t str,
    /// Where each line starts, in bytes.
    lines: Vec<usize>,
    errors: Vec<ConfigError>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, lines, errors: Vec::new() }
    }

    /// The line of the byte at `at`, from one.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    pub(super) fn place(&self, at: usize) -> Place {
        let line = self.line(at);
        let start = line.checked_sub(1).and_then(|index| self.lines.get(index)).copied();
        let before = self.text.as_bytes().get(start.unwrap_or(0)..at).unwrap_or_default();
        // Every byte of a character but its first has the form 10xxxxxx.
        let column = before.iter().filter(|byte| *byte & 0xc0 != 0x80).count() + 1;
        Place { file: Arc::clone(&self.file), line, column }
    }

    pub(super) fn invalid(&mut self, at: usize, problem: Problem) {
        let place = self.place(at);
        self.errors.push(ConfigError::Invalid { place, problem });
    }

    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let place = self.place(span.start);
        let found = self.text.get(span).unwrap_or_default().trim().into();
        self.errors.push(ConfigError::Syntax { place, found, message: message.into() });
    }

    /// What was reported since this was last asked, in the order of the file, if there is any.
    pub(super) fn check(&mut self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let mut errors = std::mem::take(&mut self.errors);
        errors.sort_by(|a, b| a.place().cmp(&b.place()));
        // Of the syntax errors of a line, the others mostly follow from the first.
        errors.dedup_by(|next, kept| match (next, kept) {
            (ConfigError::Syntax { place: a, .. }, ConfigError::Syntax { place: b, .. }) => {
                a.line == b.line
            }
            _ => false,
        });
        Err(ConfigErrors(errors))
    }
}

/// A piece of the file, made fit for one line: escaped, and cut when it is long.
pub(super) struct Quoted<'t> {
    text: &'t str,
    quote: &'static str,
}

impl<'t> Quoted<'t> {
    pub(super) fn text(text: &'t str) -> Self {
        Self { text, quote: "\"" }
    }

    pub(super) fn key(text: &'t str) -> Self {
        Self { text, quote: "`" }
    }

    pub(super) fn plain(text: &'t str) -> Self {
        Self { text, quote: "" }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the parser says is of a bounded length, and all of it is needed.
        let shown = if self.quote.is_empty() { usize::MAX } else { SHOWN };
        f.write_str(self.quote)?;
        for character in self.text.chars().take(shown) {
            match character {
                '"' | '\'' | '\\' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        if self.text.chars().nth(shown).is_some() {
            f.write_str("...")?;
        }
        f.write_str(self.quote)
    }
}

/// The values there are: `"a", "b" and "c"`.
pub(super) struct Choices<'t, T>(pub(super) &'t [T]);

impl<T: AsRef<str>> fmt::Display for Choices<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.0.iter().enumerate() {
            let between = match self.0.len() - index {
                _ if index == 0 => "",
                1 => " and ",
                _ => ", ",
            };
            write!(f, "{between}{}", Quoted::text(choice.as_ref()))?;
        }
        Ok(())
    }
}

/// What people write who know other targets.
const SYNONYMS: [(&str, &str); 8] = [
    ("major", "shelf"),
    ("minor", "slot"),
    ("queue_length", "buffer_count"),
    ("bufcnt", "buffer_count"),
    ("accept", "allow"),
    ("file", "path"),
    ("state_directory", "state_dir"),
    ("receive_buffer_size", "receive_buffer"),
];

/// The one of `known` that `word` is probably meant to be.
pub(super) fn closest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    // Above this, misspellings of all our words score and other words do not.
    const ALIKE: f64 = 0.85;
    let word: String =
        word.chars().take(SHOWN).flat_map(char::to_lowercase).collect::<String>().replace('-', "_");
    let meant = SYNONYMS.iter().find(|(synonym, _)| *synonym == word).map(|(_, meant)| *meant);
    if let Some(meant) = meant.filter(|meant| known.contains(meant)) {
        return Some(meant);
    }
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&word, known), *known))
        .filter(|(score, _)| *score > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let report = Report::new("f", "a\n\u{fc}x = 1\r\n\nend");
        assert_eq!(report.place(0).to_string(), "f:1:1");
        assert_eq!(report.place(1).to_string(), "f:1:2");
        assert_eq!(report.place(2).to_string(), "f:2:1");
        assert_eq!(report.place(4).to_string(), "f:2:2");
        assert_eq!(report.place(14).to_string(), "f:4:3");
        assert_eq!(report.place(15).to_string(), "f:4:4");
    }

    #[test]
    fn misspellings_are_recognized_and_other_words_are_not() {
        let known = ["interface", "poll", "spin_us", "buffer_count", "read_only", "shelf"];
        for (word, meant) in [
            ("pol", "poll"),
            ("Poll", "poll"),
            ("interfce", "interface"),
            ("bufer_count", "buffer_count"),
            ("readonly", "read_only"),
            ("read-only", "read_only"),
            ("major", "shelf"),
            ("bufcnt", "buffer_count"),
        ] {
            assert_eq!(closest(word, &known), Some(meant), "{word}");
        }
        for word in ["", "control_socket", "journal", "x", "minor", "color"] {
            assert_eq!(closest(word, &known), None, "{word}");
        }
    }

    #[test]
    fn a_message_stays_on_one_line_and_short() {
        let text = "\n\u{1b}[31m".to_string() + &"x".repeat(1000);
        let shown = Quoted::text(&text).to_string();
        assert!(shown.len() < 100 && !shown.contains(['\n', '\u{1b}']), "{shown}");
        assert_eq!(Choices(&["a", "b", "c"]).to_string(), "\"a\", \"b\" and \"c\"");
    }
}
