//! Writes a message as text in Caffe's style.

use std::fmt::Write;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

use super::number;

/// The text of all fields of `message`, each line ended.
pub(super) fn print(message: &DynamicMessage) -> String {
    let mut out = String::new();
    fields(&mut out, message, 0);
    out
}

fn fields(out: &mut String, message: &DynamicMessage, depth: usize) {
    let mut set: Vec<_> = message.fields().collect();
    set.sort_by_key(|(field, _)| field.number());
    for (field, value) in set {
        match value {
            Value::List(values) => {
                values.iter().for_each(|value| one(out, &field, value, depth));
            }
            value => one(out, &field, value, depth),
        }
    }
}

fn one(out: &mut String, field: &FieldDescriptor, value: &Value, depth: usize) {
    let indent = 2 * depth;
    let name = field.name();
    // Writing to a String does not fail.
    let _ = match value {
        Value::Message(message) => {
            let _ = writeln!(out, "{:indent$}{name} {{", "");
            fields(out, message, depth + 1);
            writeln!(out, "{:indent$}}}", "")
        }
        value => writeln!(out, "{:indent$}{name}: {}", "", scalar(field, value)),
    };
}

fn scalar(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::F32(value) => number::float(*value),
        Value::F64(value) => number::double(*value),
        Value::String(value) => quote_text(value),
        Value::Bytes(value) => quote_bytes(value),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(desc) => {
                desc.get_value(*number).map_or(number.to_string(), |value| value.name().to_owned())
            }
            _ => number.to_string(),
        },
        value => value.to_string(),
    }
}

/// Text in double quotes. Letters of all scripts stay readable; control characters are escaped.
fn quote_text(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        if c.is_ascii() || c.is_control() {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape(&mut out, byte));
        } else {
            out.push(c);
        }
    }
    out.push('"');
    out
}

/// Bytes in double quotes, all that is not printable ASCII as three octal digits.
fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::from('"');
    bytes.iter().for_each(|&byte| escape(&mut out, byte));
    out.push('"');
    out
}

fn escape(out: &mut String, byte: u8) {
    match byte {
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        b'"' => out.push_str("\\\""),
        b'\'' => out.push_str("\\'"),
        b'\\' => out.push_str("\\\\"),
        b' '..=b'~' => out.push(char::from(byte)),
        _ => {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_readable_and_bytes_are_escaped() {
        assert_eq!(quote_text("a\"b\\c\né'\u{7}\u{85}"), r#""a\"b\\c\né\'\007\302\205""#);
        assert_eq!(quote_bytes("é\0".as_bytes()), r#""\303\251\000""#);
    }
}
