//! Window files, as R-CNN's tools write them.
//!
//! ```text
//! # 0
//! images/000012.jpg
//! 3 333 500
//! 2
//! 7 0.83 156 97 351 270
//! 0 0.12 1 1 200 120
//! ```
//! For each image: its number, path, channels, height and width, the number of windows; then for
//! each window its class, its overlap with an object of that class, and the columns and rows of its
//! corners (x1 y1 x2 y2, the last ones included). Line breaks count as spaces.

use std::path::Path;
use std::str::{FromStr, SplitAsciiWhitespace};

use crate::data::{DataError, list};

/// An image of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its path as written.
    pub(super) name: String,
    /// Where it stands, from 1.
    pub(super) line: usize,
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    /// Which image.
    pub(super) image: usize,
    /// Class of the object.
    pub(super) label: i32,
    /// How well it covers the object, 0 to 1.
    pub(super) overlap: f32,
    /// x1, y1, x2, y2.
    pub(super) corners: [i32; 4],
    /// Where it stands, from 1.
    pub(super) line: usize,
}

/// Reads the window file `path`.
pub(super) fn read(path: &Path) -> Result<(Vec<Listed>, Vec<Window>), DataError> {
    let text = list::read_text(path)?;
    let mut words =
        Words { path, lines: text.lines(), words: "".split_ascii_whitespace(), line: 0 };
    let (mut images, mut windows) = (Vec::new(), Vec::new());
    while let Some(word) = words.next_word() {
        if word != "#" {
            return Err(words.wrong(format!("`{word}` stands where `#` begins an image")));
        }
        words.number::<i64>("the image's number")?;
        let name = words.word("the image's path")?.to_owned();
        images.push(Listed { name, line: words.line });
        let channels: u32 = words.number("channels")?;
        if channels != 3 {
            return Err(words.wrong(format!("{channels} channels; windows are cut from 3")));
        }
        words.number::<u32>("the height")?;
        words.number::<u32>("the width")?;
        for _ in 0..words.number::<u32>("the number of windows")? {
            let (label, overlap) = (words.number("a class")?, words.number("an overlap")?);
            let mut corner = || words.number("a corner");
            let corners = [corner()?, corner()?, corner()?, corner()?];
            let [x1, y1, x2, y2] = corners;
            if x2 < x1 || y2 < y1 {
                return Err(words.wrong(format!("the window {corners:?} is empty")));
            }
            windows.push(Window {
                image: images.len() - 1,
                label,
                overlap,
                corners,
                line: words.line,
            });
        }
    }
    match images.is_empty() {
        true => Err(DataError::Empty { path: path.to_owned() }),
        false => Ok((images, windows)),
    }
}

/// The words of a file, with the line they stand in.
struct Words<'a> {
    path: &'a Path,
    lines: std::str::Lines<'a>,
    words: SplitAsciiWhitespace<'a>,
    line: usize,
}

impl<'a> Words<'a> {
    fn next_word(&mut self) -> Option<&'a str> {
        loop {
            if let Some(word) = self.words.next() {
                return Some(word);
            }
            self.words = self.lines.next()?.split_ascii_whitespace();
            self.line += 1;
        }
    }

    fn word(&mut self, what: &str) -> Result<&'a str, DataError> {
        match self.next_word() {
            Some(word) => Ok(word),
            None => Err(self.wrong(format!("the file ends where {what} is expected"))),
        }
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T, DataError> {
        let word = self.word(what)?;
        word.parse().map_err(|_| self.wrong(format!("`{word}` stands where {what} is expected")))
    }

    fn wrong(&self, reason: String) -> DataError {
        DataError::Line { list: self.path.to_owned(), line: self.line, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Vec<Listed>, Vec<Window>), DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("windows.txt");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn images_and_windows_are_read_with_their_lines() {
        let text =
            "# 0\na.jpg\n3\n50\n60\n2\n7 0.83 1 2 30 40\n0 0.1 0 0 5 5\n# 1\nb.jpg 3 9 9 0\n";
        let (images, windows) = parse(text).unwrap();
        let listed = |name: &str, line| Listed { name: name.to_owned(), line };
        assert_eq!(images, [listed("a.jpg", 2), listed("b.jpg", 10)]);
        assert_eq!(windows.len(), 2);
        let corners = [1, 2, 30, 40];
        assert_eq!(windows[0], Window { image: 0, label: 7, overlap: 0.83, corners, line: 7 });
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, wanted) in [
            ("a.jpg\n", "windows.txt:1: `a.jpg` stands where `#` begins an image"),
            ("# 0\na.jpg\n1\n5\n5\n0\n", "windows.txt:3: 1 channels"),
            ("# 0\na.jpg\n3\n5\n5\n1\n1 0.5 1 1\n", "windows.txt:7: the file ends where a corner"),
            ("# 0\na.jpg\n3\n5\n5\n1\n1 x 1 1 2 2\n", "windows.txt:7: `x` stands where an overlap"),
            ("# 0\na.jpg\n3\n5\n5\n1\n1 1 3 1 2 2\n", "windows.txt:7: the window [3, 1, 2, 2] is"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(matches!(parse("").unwrap_err(), DataError::Empty { .. }));
    }
}
