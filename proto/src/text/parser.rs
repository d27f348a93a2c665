//! Turns tokens into a message, field by field, guided by the message's descriptor.

use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage, Value,
};

use super::{
    error::Fault,
    hints,
    lexer::{Lexer, Span, Token},
};
use crate::limits::{MAX_LAYERS, MAX_PARTS, holds_layers};

/// A fault, its place, and what might help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) span: Span,
    pub(super) fault: Fault,
    pub(super) hints: Vec<String>,
}

type Parsed<T> = Result<T, Failure>;

/// Parses `text` as one message of type `desc`.
pub(super) fn parse(text: &str, desc: &MessageDescriptor) -> Parsed<DynamicMessage> {
    let mut parser =
        Parser { text, lexer: Lexer::new(text), token: Token::End, span: 0..0, messages: 0 };
    let result = parser.advance().and_then(|()| parser.body(desc, None));
    result.map_err(|mut failure| {
        if let Some(opened) = parser.lexer.long_string() {
            failure.hints.push(hints::long_string(text, opened));
        }
        failure
    })
}

/// The bracket that opened a message and where.
struct Opened {
    close: char,
    span: Span,
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token<'a>,
    span: Span,
    /// Messages so far.
    messages: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Parsed<()> {
        let (token, span) = self.lexer.next_token().map_err(|(span, fault)| {
            let hints = hints::for_fault(&fault);
            Failure { span, fault, hints }
        })?;
        self.token = token;
        self.span = span;
        Ok(())
    }

    fn is(&self, punct: char) -> bool {
        self.token == Token::Punct(punct)
    }

    /// Steps over `punct` if it is next.
    fn accept(&mut self, punct: char) -> Parsed<bool> {
        let found = self.is(punct);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Refuses more than `most` of something.
    fn at_most(&self, count: usize, what: &'static str, most: usize) -> Parsed<()> {
        if count <= most {
            return Ok(());
        }
        let (span, fault) = (self.span.clone(), Fault::TooMany { what, most });
        Err(Failure { span, fault, hints: Vec::new() })
    }

    /// A failure at the current token.
    fn unexpected(&self, expected: &str) -> Failure {
        let found = match &self.token {
            Token::End => "the end of the text".to_owned(),
            Token::Str(_) => "a string".to_owned(),
            _ => format!("`{}`", &self.text[self.span.clone()]),
        };
        let fault = Fault::Unexpected { expected: expected.to_owned(), found };
        Failure { span: self.span.clone(), fault, hints: Vec::new() }
    }

    /// The fields of a message up to its closing bracket, which is consumed, or the end of the
    /// text for the outermost one.
    fn body(&mut self, desc: &MessageDescriptor, opened: Option<Opened>) -> Parsed<DynamicMessage> {
        let mut message = DynamicMessage::new(desc.clone());
        let mut seen: Vec<(u32, usize)> = Vec::new();
        loop {
            match (&self.token, &opened) {
                (Token::Ident(_), _) => self.field(&mut message, &mut seen)?,
                (Token::End, None) => break,
                (Token::End, Some(opened)) => {
                    let message = desc.name().to_owned();
                    let fault = Fault::OpenMessage { message, close: opened.close };
                    return Err(Failure { span: opened.span.clone(), fault, hints: Vec::new() });
                }
                (Token::Punct(found), Some(opened)) if *found == opened.close => break,
                (Token::Punct('['), _) => {
                    let mut failure = self.unexpected("a field name");
                    failure.hints.push("extensions are no part of the Caffe format".to_owned());
                    return Err(failure);
                }
                (_, None) => return Err(self.unexpected("a field name")),
                (_, Some(opened)) => {
                    return Err(self.unexpected(&format!("a field name or `{}`", opened.close)));
                }
            }
        }
        let missing = desc
            .fields()
            .find(|f| f.cardinality() == Cardinality::Required && !message.has_field(f));
        if let Some(field) = missing {
            let span = opened.map_or(self.span.clone(), |opened| opened.span);
            let (field, message) = (field.name().to_owned(), desc.name().to_owned());
            let fault = Fault::MissingField { field, message };
            return Err(Failure { span, fault, hints: Vec::new() });
        }
        if opened.is_some() {
            self.advance()?;
        }
        Ok(message)
    }

    /// One `name: value`, `name { … }` or `name: [ … ]` and the separator behind it.
    fn field(&mut self, message: &mut DynamicMessage, seen: &mut Vec<(u32, usize)>) -> Parsed<()> {
        let Token::Ident(name) = self.token else {
            return Err(self.unexpected("a field name"));
        };
        let span = self.span.clone();
        let desc = message.descriptor();
        let Some(field) = desc.get_field_by_name(name) else {
            let hints = hints::for_field(&desc, name);
            let (field, message) = (name.to_owned(), desc.name().to_owned());
            return Err(Failure { span, fault: Fault::UnknownField { field, message }, hints });
        };
        if !field.is_list() {
            if let Some((_, first)) = seen.iter().find(|(number, _)| *number == field.number()) {
                let first_line = super::error::position(self.text, *first).0;
                let fault = Fault::SetTwice { field: name.to_owned(), first_line };
                return Err(Failure { span, fault, hints: Vec::new() });
            }
            seen.push((field.number(), span.start));
        }
        self.advance()?;

        let is_message = matches!(field.kind(), Kind::Message(_));
        if !self.accept(':')? && !is_message {
            return Err(self.unexpected(&format!("`:` behind `{name}`")));
        }
        if !field.is_list() {
            let value = self.value(&field)?;
            message.set_field(&field, value);
        } else if self.is('[') {
            let mut values = self.list(&field)?;
            if let Some(all) = message.get_field_mut(&field).as_list_mut() {
                all.append(&mut values);
            }
        } else {
            let value = self.value(&field)?;
            if let Some(all) = message.get_field_mut(&field).as_list_mut() {
                all.push(value);
                if holds_layers(desc.name(), field.name()) {
                    self.at_most(all.len(), "layers", MAX_LAYERS)?;
                }
            }
        }
        if !self.accept(',')? {
            self.accept(';')?;
        }
        Ok(())
    }

    /// `[a, b, c]`; the current token is the opening bracket.
    fn list(&mut self, field: &FieldDescriptor) -> Parsed<Vec<Value>> {
        self.advance()?;
        let mut values = Vec::new();
        if self.accept(']')? {
            return Ok(values);
        }
        loop {
            values.push(self.value(field)?);
            if holds_layers(field.parent_message().name(), field.name()) {
                self.at_most(values.len(), "layers", MAX_LAYERS)?;
            }
            if self.accept(']')? {
                return Ok(values);
            }
            if !self.accept(',')? {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    /// One value of the field's type.
    fn value(&mut self, field: &FieldDescriptor) -> Parsed<Value> {
        match field.kind() {
            Kind::Message(desc) => self.message(&desc),
            Kind::Enum(desc) => self.enumeration(&desc),
            Kind::Bool => self.boolean(),
            Kind::String => self.string(field),
            Kind::Bytes => Ok(Value::Bytes(self.quoted(field)?.0.into())),
            // Rounded to the field's precision as protobuf does it: by way of a double.
            Kind::Float => Ok(Value::F32(self.float()? as f32)),
            Kind::Double => Ok(Value::F64(self.float()?)),
            Kind::Uint32 | Kind::Fixed32 => {
                Ok(Value::U32(self.whole(0, u64::from(u32::MAX), |v| u32::try_from(v).ok())?))
            }
            Kind::Uint64 | Kind::Fixed64 => {
                Ok(Value::U64(self.whole(0, u64::MAX, |v| u64::try_from(v).ok())?))
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                let (min, max) = (i64::from(i32::MIN), i32::MAX.unsigned_abs().into());
                Ok(Value::I32(self.whole(min, max, |v| i32::try_from(v).ok())?))
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                let max = i64::MAX.unsigned_abs();
                Ok(Value::I64(self.whole(i64::MIN, max, |v| i64::try_from(v).ok())?))
            }
        }
    }

    fn message(&mut self, desc: &MessageDescriptor) -> Parsed<Value> {
        let close = match self.token {
            Token::Punct('{') => '}',
            Token::Punct('<') => '>',
            _ => return Err(self.unexpected(&format!("`{{` ({} is a message)", desc.name()))),
        };
        let opened = Opened { close, span: self.span.clone() };
        self.messages += 1;
        self.at_most(self.messages, "messages", MAX_PARTS)?;
        self.advance()?;
        Ok(Value::Message(self.body(desc, Some(opened))?))
    }

    fn enumeration(&mut self, desc: &EnumDescriptor) -> Parsed<Value> {
        let start = self.span.start;
        let (number, value) = match self.token {
            Token::Ident(name) => {
                let value = desc.get_value_by_name(name).map(|value| value.number());
                (value, name.to_owned())
            }
            Token::Punct('-') | Token::Int { .. } => {
                let negative = self.accept('-')?;
                let value = self.magnitude("the number of an enum value")?;
                let value = if negative { -value } else { value };
                let number = i32::try_from(value).ok();
                (number.filter(|&n| desc.get_value(n).is_some()), value.to_string())
            }
            _ => {
                let mut failure = self.unexpected(&format!("a value of {}", desc.name()));
                failure.hints = hints::for_enum_token(desc, &self.token);
                return Err(failure);
            }
        };
        let Some(number) = number else {
            let hints = hints::for_enum_value(desc, &value);
            let enumeration = desc.name().to_owned();
            let fault = Fault::UnknownEnumValue { value, enumeration };
            return Err(Failure { span: start..self.span.end, fault, hints });
        };
        self.advance()?;
        Ok(Value::EnumNumber(number))
    }

    fn boolean(&mut self) -> Parsed<Value> {
        let value = match self.token {
            Token::Ident("true" | "True" | "t") => true,
            Token::Ident("false" | "False" | "f") => false,
            Token::Int { digits, radix } => match u64::from_str_radix(digits, radix) {
                Ok(0) => false,
                Ok(1) => true,
                _ => return Err(self.unexpected("`true` or `false`")),
            },
            _ => return Err(self.unexpected("`true` or `false`")),
        };
        self.advance()?;
        Ok(Value::Bool(value))
    }

    fn string(&mut self, field: &FieldDescriptor) -> Parsed<Value> {
        let (bytes, span) = self.quoted(field)?;
        match String::from_utf8(bytes) {
            Ok(string) => Ok(Value::String(string)),
            Err(_) => Err(Failure { span, fault: Fault::NotUtf8, hints: Vec::new() }),
        }
    }

    /// One or more quoted strings in a row, which make one.
    fn quoted(&mut self, field: &FieldDescriptor) -> Parsed<(Vec<u8>, Span)> {
        let mut span = self.span.clone();
        let mut bytes: Option<Vec<u8>> = None;
        while let Token::Str(piece) = &mut self.token {
            bytes.get_or_insert_default().append(piece);
            span.end = self.span.end;
            self.advance()?;
        }
        bytes.map(|bytes| (bytes, span)).ok_or_else(|| {
            let mut failure = self.unexpected("a string");
            failure.hints = hints::for_string(field, &self.token);
            failure
        })
    }

    fn float(&mut self) -> Parsed<f64> {
        let negative = self.accept('-')?;
        let value = match self.token {
            Token::Float(digits) | Token::Int { digits, radix: 10 } => {
                digits.parse().map_err(|_| self.unexpected("a number"))?
            }
            Token::Ident(name) => match name.to_ascii_lowercase().as_str() {
                "inf" | "infinity" => f64::INFINITY,
                "nan" => f64::NAN,
                _ => return Err(self.unexpected("a number")),
            },
            Token::Int { .. } => return Err(self.unexpected("a decimal number")),
            _ => return Err(self.unexpected("a number")),
        };
        self.advance()?;
        Ok(if negative { -value } else { value })
    }

    /// A whole number from `min` to `max`, the range of the type that `convert` makes.
    fn whole<T>(&mut self, min: i64, max: u64, convert: fn(i128) -> Option<T>) -> Parsed<T> {
        let start = self.span.start;
        let negative = self.accept('-')?;
        let value = self.magnitude("a whole number")?;
        let value = if negative { -value } else { value };
        // `-0` is no unsigned number in protobuf's reading.
        let number = convert(value).filter(|_| !(negative && min == 0));
        let Some(number) = number else {
            let span = start..self.span.end;
            let value = self.text[span.clone()].to_owned();
            let fault = Fault::OutOfRange { value, min, max };
            return Err(Failure { span, fault, hints: Vec::new() });
        };
        self.advance()?;
        Ok(number)
    }

    /// The value of the current token, an integer without sign. The token is not consumed.
    fn magnitude(&self, expected: &str) -> Parsed<i128> {
        let Token::Int { digits, radix } = self.token else {
            return Err(self.unexpected(expected));
        };
        // What does not fit is out of every range, as the caller will say.
        Ok(i128::from_str_radix(digits, radix).unwrap_or(i128::MAX))
    }
}
