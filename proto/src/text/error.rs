//! What can be wrong with a prototxt, and how it is shown.

use std::{error::Error, fmt, ops::Range};

use super::lexer::Span;

/// Longest piece of a source line that an error shows, in characters.
const SHOWN: usize = 120;

/// What is wrong, without the place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The message has no field of this name.
    UnknownField {
        /// The name in the text.
        field: String,
        /// The message it was meant for, without its package.
        message: String,
    },
    /// The enum has no value of this name or number.
    UnknownEnumValue {
        /// The name or number in the text.
        value: String,
        /// The enum, without its package.
        enumeration: String,
    },
    /// Something else was needed here.
    Unexpected {
        /// What would have been right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A whole number that the field's type cannot hold.
    OutOfRange {
        /// The number in the text.
        value: String,
        /// The type's smallest value.
        min: i64,
        /// The type's largest value.
        max: u64,
    },
    /// A field that may be set once was set again.
    SetTwice {
        /// The field's name.
        field: String,
        /// The line on which it was set first.
        first_line: usize,
    },
    /// A field that the message cannot do without is not set.
    MissingField {
        /// The field's name.
        field: String,
        /// The message, without its package.
        message: String,
    },
    /// The text ends inside a message.
    OpenMessage {
        /// The message, without its package.
        message: String,
        /// The bracket that would close it.
        close: char,
    },
    /// A string whose closing quote is missing.
    OpenString,
    /// A backslash followed by something that stands for nothing.
    BadEscape,
    /// A string whose bytes are no UTF-8, in a field that holds text.
    NotUtf8,
    /// Digits that are no number.
    BadNumber {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A character that is no part of the format.
    StrayCharacter {
        /// The character.
        found: char,
    },
    /// More than a definition may hold.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        most: usize,
    },
    /// The type asked for is no message of the Caffe format.
    UnknownMessage {
        /// The type's full name.
        message: String,
    },
    /// The parsed fields do not make a message: a fault of this library, not of the text.
    Transcode {
        /// What the decoder said.
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownField { field, message } => {
                write!(f, "{message} has no field `{field}`")
            }
            Self::UnknownEnumValue { value, enumeration } => {
                write!(f, "{enumeration} has no value `{value}`")
            }
            Self::Unexpected { expected, found } => {
                write!(f, "expected {expected}, found {found}")
            }
            Self::OutOfRange { value, min, max } => {
                write!(f, "{value} is out of range: the field takes {min} to {max}")
            }
            Self::SetTwice { field, first_line } => {
                write!(f, "`{field}` is already set, on line {first_line}")
            }
            Self::MissingField { field, message } => {
                write!(f, "{message} needs the field `{field}`")
            }
            Self::OpenMessage { message, close } => {
                write!(f, "the text ends inside this {message}: `{close}` is missing")
            }
            Self::OpenString => f.write_str("this string is never closed"),
            Self::BadEscape => f.write_str("unknown escape sequence in a string"),
            Self::NotUtf8 => f.write_str("the string is not valid UTF-8"),
            Self::BadNumber { reason } => write!(f, "not a number: {reason}"),
            Self::StrayCharacter { found } => write!(f, "unexpected character {found:?}"),
            Self::TooMany { what, most } => write!(f, "this net has more than {most} {what}"),
            Self::UnknownMessage { message } => {
                write!(f, "`{message}` is no message of the Caffe format")
            }
            Self::Transcode { reason } => write!(f, "cannot build the message: {reason}"),
        }
    }
}

/// A fault of a prototxt with its place, ready to be shown to whoever wrote the file:
///
/// ```text
/// lenet.prototxt:14:5: ConvolutionParameter has no field `num_ouput`
///    14 |     num_ouput: 20
///       |     ^^^^^^^^^
/// did you mean `num_output`?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(Box<Details>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Details {
    origin: String,
    line: usize,
    column: usize,
    excerpt: String,
    marked: Range<usize>,
    fault: Fault,
    hints: Vec<String>,
}

impl TextError {
    pub(super) fn new(
        origin: &str,
        text: &str,
        span: Span,
        fault: Fault,
        hints: Vec<String>,
    ) -> Self {
        let (line, column) = position(text, span.start);
        let (excerpt, marked) = excerpt(text, &span);
        let origin = origin.to_owned();
        Self(Box::new(Details { origin, line, column, excerpt, marked, fault, hints }))
    }

    /// The file name (or other origin) given to the parser.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// The line of the fault, from 1.
    pub fn line(&self) -> usize {
        self.0.line
    }

    /// The column of the fault in characters, from 1.
    pub fn column(&self) -> usize {
        self.0.column
    }

    /// What is wrong.
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// What might help, a sentence each.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { origin, line, column, excerpt, marked, fault, hints } = &*self.0;
        writeln!(f, "{origin}:{line}:{column}: {fault}")?;
        writeln!(f, "{line:>6} | {excerpt}")?;
        let blank = " ".repeat(marked.start);
        write!(f, "       | {blank}{}", "^".repeat(marked.len().max(1)))?;
        for hint in hints {
            write!(f, "\n{hint}")?;
        }
        Ok(())
    }
}

impl Error for TextError {}

/// Line and column of a byte offset, both from 1; the column counts characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let head = String::from_utf8_lossy(&before[line_start..]);
    (line, head.chars().filter(|&c| c != '\u{feff}').count() + 1)
}

/// The line around `span`, shortened about it when long, tabs as single spaces; and which of its
/// characters to mark.
fn excerpt(text: &str, span: &Span) -> (String, Range<usize>) {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    let clean = |part: &str| -> Vec<char> {
        let part = part.trim_end_matches('\r').chars().filter(|&c| c != '\u{feff}');
        part.map(|c| if c.is_control() { ' ' } else { c }).collect()
    };
    let mut line = clean(&text[start..end]);
    let mut from = clean(&text[start..span.start]).len().min(line.len());
    let mut to = from + clean(&text[span.start..span.end.min(end)]).len();
    if line.len() > SHOWN {
        let cut = from.saturating_sub(SHOWN / 3).min(line.len() - SHOWN);
        line = line[cut..cut + SHOWN].to_vec();
        from -= cut;
        to = (to - cut).min(SHOWN);
    }
    (line.into_iter().collect(), from..to.max(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, span: Span) -> String {
        TextError::new("f", text, span, Fault::OpenString, vec!["help".into()]).to_string()
    }

    #[test]
    fn the_caret_stands_under_the_fault() {
        let text = "a: 1\n\té: bad # x\r\nc: 3";
        assert_eq!(
            at(text, 10..13),
            "f:2:5: this string is never closed\n     2 |  é: bad # x\n       |     ^^^\nhelp"
        );
    }

    #[test]
    fn the_end_of_the_text_has_a_place() {
        assert!(at("ab", 2..2).contains("f:1:3:"));
        assert!(at("", 0..0).contains("f:1:1:"));
        assert!(at("ab\n", 3..3).contains("f:2:1:"));
    }

    #[test]
    fn long_lines_are_cut_about_the_fault() {
        let text = format!("{}BAD{}", "x".repeat(500), "y".repeat(500));
        let shown = at(&text, 500..503);
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].len() <= SHOWN + 9, "{}", lines[1]);
        let caret = lines[2].find('^').unwrap();
        assert_eq!(&lines[1][caret..caret + 3], "BAD");
    }
}
