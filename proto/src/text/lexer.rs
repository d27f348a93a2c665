//! Cuts prototxt text into tokens.
//!
//! The rules are those of protobuf's text format: `#` comments to the end of the line, strings in
//! single or double quotes that may run over lines, decimal, hexadecimal (`0x14`) and octal (`010`)
//! integers, floats with an optional `f` behind them. A number needs no space behind it.
//!
//! The lexer knows no message; signs, `inf` and `nan`, joined strings and lists are the parser's.

use std::ops::Range;

use super::error::Fault;

/// A range of bytes of the text.
pub(super) type Span = Range<usize>;

/// The smallest pieces of a prototxt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'a> {
    /// A name: a field, an enum value, `true`, `inf`.
    Ident(&'a str),
    /// Digits without their radix prefix, and the radix: 8, 10 or 16.
    Int { digits: &'a str, radix: u32 },
    /// A decimal number with a point, an exponent or an `f`; the `f` is cut off.
    Float(&'a str),
    /// The bytes that a quoted string stands for.
    Str(Vec<u8>),
    /// Any of `{ } < > [ ] : , ; -`.
    Punct(char),
    /// The end of the text.
    End,
}

/// Yields the tokens of a text one by one.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Where the latest string that contains a line break was opened. Such a string is legal, yet
    /// more often than not its closing quote was forgotten, which shows only further down.
    long_string: Option<usize>,
}

type Lexed<T> = Result<T, (Span, Fault)>;

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`; a byte order mark is skipped.
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, at, long_string: None }
    }

    /// Where the latest string over several lines was opened, if there was one so far.
    pub(super) fn long_string(&self) -> Option<usize> {
        self.long_string
    }

    /// The next token and where it stands.
    pub(super) fn next_token(&mut self) -> Lexed<(Token<'a>, Span)> {
        self.skip_blank();
        let start = self.at;
        let token = match self.peek() {
            None => Token::End,
            Some(b'A'..=b'Z' | b'a'..=b'z' | b'_') => {
                Token::Ident(self.take_while(|b| b.is_ascii_alphanumeric() || b == b'_'))
            }
            Some(b'0'..=b'9') => self.number()?,
            Some(b'.') if self.peek_at(1).is_some_and(|b| b.is_ascii_digit()) => self.number()?,
            Some(quote @ (b'"' | b'\'')) => self.string(quote)?,
            Some(b @ (b'{' | b'}' | b'<' | b'>' | b'[' | b']' | b':' | b',' | b';' | b'-')) => {
                self.at += 1;
                Token::Punct(char::from(b))
            }
            Some(_) => return Err(self.stray()),
        };
        Ok((token, start..self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    /// Advances over ASCII bytes that satisfy `accept`.
    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&accept) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c));
            if self.peek() != Some(b'#') {
                return;
            }
            let rest = &self.text.as_bytes()[self.at..];
            self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        }
    }

    fn stray(&self) -> (Span, Fault) {
        let found = self.text[self.at..].chars().next().unwrap_or('\0');
        (self.at..self.at + found.len_utf8(), Fault::StrayCharacter { found })
    }

    fn number(&mut self) -> Lexed<Token<'a>> {
        let start = self.at;
        if self.peek() == Some(b'0') && matches!(self.peek_at(1), Some(b'x' | b'X')) {
            self.at += 2;
            let digits = self.take_while(|b| b.is_ascii_hexdigit());
            if digits.is_empty() {
                return Err(self.bad_number(start, "`0x` needs hexadecimal digits behind it"));
            }
            return self.whole(start, digits, 16);
        }
        let digits = self.take_while(|b| b.is_ascii_digit());
        if digits.len() > 1 && digits.starts_with('0') {
            if digits.bytes().any(|b| b > b'7') {
                return Err(self.bad_number(
                    start,
                    "a number that starts with 0 is octal and has the digits 0 to 7 only",
                ));
            }
            return self.whole(start, &digits[1..], 8);
        }
        let mut float = false;
        if self.peek() == Some(b'.') {
            float = true;
            self.at += 1;
            self.take_while(|b| b.is_ascii_digit());
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.take_while(|b| b.is_ascii_digit()).is_empty() {
                return Err(self.bad_number(start, "the exponent has no digits"));
            }
        }
        let end = self.at;
        if matches!(self.peek(), Some(b'f' | b'F')) {
            float = true;
            self.at += 1;
        }
        if float && self.peek() == Some(b'.') {
            return Err(self.bad_number(start, "a second decimal point"));
        }
        let digits = &self.text[start..end];
        Ok(if float { Token::Float(digits) } else { Token::Int { digits, radix: 10 } })
    }

    fn whole(&mut self, start: usize, digits: &'a str, radix: u32) -> Lexed<Token<'a>> {
        if self.peek() == Some(b'.') {
            return Err(self.bad_number(start, "hexadecimal and octal numbers are whole numbers"));
        }
        Ok(Token::Int { digits, radix })
    }

    fn bad_number(&self, start: usize, reason: &'static str) -> (Span, Fault) {
        (start..self.at, Fault::BadNumber { reason })
    }

    fn string(&mut self, quote: u8) -> Lexed<Token<'a>> {
        let start = self.at;
        let mut bytes = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err((start..start + 1, Fault::OpenString)),
                Some(b) if b == quote => {
                    self.at += 1;
                    return Ok(Token::Str(bytes));
                }
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(b) => {
                    if b == b'\n' {
                        self.long_string = Some(start);
                    }
                    bytes.push(b);
                    self.at += 1;
                }
            }
        }
    }

    /// Reads an escape sequence and appends what it stands for.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Lexed<()> {
        let start = self.at;
        let Some(kind) = self.peek_at(1) else {
            return Err((start..start + 1, Fault::OpenString));
        };
        self.at += 2;
        match kind {
            b'a' => bytes.push(0x07),
            b'b' => bytes.push(0x08),
            b'f' => bytes.push(0x0c),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'v' => bytes.push(0x0b),
            b'\\' | b'\'' | b'"' | b'?' => bytes.push(kind),
            b'0'..=b'7' => {
                self.at -= 1;
                let value = self.digits_value(8, 1, 3, start)?;
                let byte = u8::try_from(value).map_err(|_| self.bad_escape(start))?;
                bytes.push(byte);
            }
            b'x' | b'X' => {
                let value = self.digits_value(16, 1, 2, start)?;
                let byte = u8::try_from(value).map_err(|_| self.bad_escape(start))?;
                bytes.push(byte);
            }
            b'u' | b'U' => {
                let length = if kind == b'u' { 4 } else { 8 };
                let value = self.digits_value(16, length, length, start)?;
                let c = char::from_u32(value).ok_or_else(|| self.bad_escape(start))?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(self.bad_escape(start)),
        }
        Ok(())
    }

    /// The value of `least` to `most` digits that follow.
    fn digits_value(&mut self, radix: u32, least: usize, most: usize, start: usize) -> Lexed<u32> {
        let first = self.at;
        while self.at - first < most && self.peek().is_some_and(|b| char::from(b).is_digit(radix)) {
            self.at += 1;
        }
        let digits = &self.text[first..self.at];
        match u32::from_str_radix(digits, radix) {
            Ok(value) if digits.len() >= least => Ok(value),
            _ => Err(self.bad_escape(start)),
        }
    }

    fn bad_escape(&self, start: usize) -> (Span, Fault) {
        let mut end = self.at;
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        (start..end, Fault::BadEscape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(text);
        let mut all = Vec::new();
        loop {
            match lexer.next_token() {
                Ok((Token::End, _)) => return all,
                Ok((token, _)) => all.push(token),
                Err((span, fault)) => panic!("{span:?} {fault:?} in {text:?}"),
            }
        }
    }

    fn fault(text: &str) -> (Span, Fault) {
        let mut lexer = Lexer::new(text);
        loop {
            match lexer.next_token() {
                Ok((Token::End, _)) => panic!("no fault in {text:?}"),
                Ok(_) => {}
                Err(fault) => return fault,
            }
        }
    }

    #[test]
    fn numbers_keep_their_radix_and_lose_their_f() {
        let int = |digits, radix| Token::Int { digits, radix };
        assert_eq!(
            tokens("20 0x1F 010 0"),
            [int("20", 10), int("1F", 16), int("10", 8), int("0", 10)]
        );
        assert_eq!(
            tokens("1. .5 1e-3 2.5f 2f 1E+4F"),
            [
                Token::Float("1."),
                Token::Float(".5"),
                Token::Float("1e-3"),
                Token::Float("2.5"),
                Token::Float("2"),
                Token::Float("1E+4"),
            ]
        );
        assert_eq!(tokens("20pad"), [int("20", 10), Token::Ident("pad")]);
    }

    #[test]
    fn strings_stand_for_bytes() {
        assert_eq!(
            tokens(r#"'a"b' "\x41\101\n\u00e9\"""#),
            [Token::Str(b"a\"b".to_vec()), Token::Str("AA\né\"".as_bytes().to_vec()),]
        );
    }

    #[test]
    fn comments_and_a_byte_order_mark_are_blank() {
        assert_eq!(tokens("\u{feff}# one\r\na # two\n#three"), [Token::Ident("a")]);
    }

    #[test]
    fn faults_carry_their_place() {
        assert_eq!(fault("a: \"bc\n"), (3..4, Fault::OpenString));
        assert_eq!(fault(r#" "\q""#), (2..4, Fault::BadEscape));
        assert_eq!(fault(r#" "\é""#).1, Fault::BadEscape);
        assert_eq!(fault(r#""\400""#), (1..5, Fault::BadEscape));
        assert_eq!(fault("name = 3"), (5..6, Fault::StrayCharacter { found: '=' }));
        assert_eq!(fault("é"), (0..2, Fault::StrayCharacter { found: 'é' }));
        assert!(matches!(fault("09"), (_, Fault::BadNumber { .. })));
        assert!(matches!(fault("1.5.2"), (_, Fault::BadNumber { .. })));
        assert!(matches!(fault("1e+"), (_, Fault::BadNumber { .. })));
        assert!(matches!(fault("0x"), (_, Fault::BadNumber { .. })));
    }

    #[test]
    fn a_string_over_lines_is_remembered() {
        let mut lexer = Lexer::new("name: 'a\nb'");
        while !matches!(lexer.next_token(), Ok((Token::End, _))) {}
        assert_eq!(lexer.long_string(), Some(6));
    }
}
