//! Text files that list images: a path and a label in each line.
//!
//! As Caffe reads them: the label is what stands behind the last space, so paths may hold spaces.
//! What Caffe's `atoi` would take for label 0 (a line without one, a word) is refused here.

use std::fs;
use std::path::{Path, PathBuf};

use super::image::Picture;
use super::{DataError, RecordProblem};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path as written, relative to a root folder.
    pub name: String,
    /// The class.
    pub label: i32,
    /// Where it stands, from 1.
    pub line: usize,
}

/// Reads the list in the file `path`. Blank lines are passed over.
///
/// # Errors
/// [`DataError::Io`]; [`DataError::Line`] for a line without a whole number behind its last space;
/// [`DataError::Empty`] when no line is left.
pub fn read(path: &Path) -> Result<Vec<Entry>, DataError> {
    let text = read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
    let entry = |(i, text): (usize, &str)| {
        let line = i + 1;
        let text = text.trim_end();
        let (name, label) = text.rsplit_once(' ').unwrap_or((text, ""));
        match label.parse() {
            Ok(label) => Ok(Entry { name: name.trim_end().to_owned(), label, line }),
            Err(_) => Err(DataError::Line {
                list: path.to_owned(),
                line,
                reason: format!("`{text}` is no path, space and whole number (the label)"),
            }),
        }
    };
    let entries = lines.map(entry).collect::<Result<Vec<_>, _>>()?;
    match entries.is_empty() {
        true => Err(DataError::Empty { path: path.to_owned() }),
        false => Ok(entries),
    }
}

/// The text of a list.
pub(super) fn read_text(path: &Path) -> Result<String, DataError> {
    fs::read_to_string(path).map_err(|source| DataError::io("read", path, source))
}

/// The file that `name` in a list means: Caffe puts `root` before it letter by letter, so that
/// `images` and `/images/` both work with what users wrote for them.
pub(super) fn file(root: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("{root}{name}"))
}

/// Reads an image file as far as its header.
pub(super) fn read_picture(file: &Path) -> Result<Picture, RecordProblem> {
    let bytes = fs::read(file).map_err(|source| RecordProblem::Unreadable(source.to_string()))?;
    Ok(Picture::inspect(bytes.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<Entry>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn labels_stand_behind_the_last_space() {
        let entries = list("a b/cat.jpg 281\r\n\nfish.jpg -1\n").unwrap();
        let entry = |name: &str, label, line| Entry { name: name.to_owned(), label, line };
        assert_eq!(entries, [entry("a b/cat.jpg", 281, 1), entry("fish.jpg", -1, 3)]);
    }

    #[test]
    fn a_line_without_a_label_is_named() {
        for text in ["a.jpg 1\nb.jpg\n", "a.jpg 1\nb.jpg x\n", "a.jpg 1\nb.jpg 1.5\n"] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains("list.txt:2: `b.jpg"), "{error}");
        }
        assert!(matches!(list("\n").unwrap_err(), DataError::Empty { .. }));
    }
}
