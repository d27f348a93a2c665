//! Finds the place where a binary message is broken.
//!
//! Decoding says no more than "failed"; this says which byte, which field, how much is missing. It
//! walks the fields of the wire format along the message's descriptor, and also, before anything is
//! decoded, to refuse files that would take much more memory than they have bytes
//! ([`crate::limits`]).

use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::{
    descriptors,
    limits::{MAX_LAYERS, MAX_NUMBERS, MAX_PARTS, holds_layers},
    text::CaffeMessage,
};

/// Where a binary message is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFault {
    /// Offset of the broken field in the file.
    pub offset: usize,
    /// The path of the field, like `layer.blobs.data`; empty where no field is known.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}", self.offset)?;
        if !self.field.is_empty() {
            write!(f, ", field `{}`", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The first fault of `bytes` as a `T`.
pub(super) fn locate<T: CaffeMessage>(bytes: &[u8]) -> Option<WireFault> {
    walk::<T>(bytes).err().map(|(fault, _)| fault)
}

/// What `bytes` as a `T` have too much of.
pub(super) fn excess<T: CaffeMessage>(bytes: &[u8]) -> Option<WireFault> {
    walk::<T>(bytes).err().filter(|(_, excess)| *excess).map(|(fault, _)| fault)
}

/// Walks over all fields; a fault comes with whether it is one of size.
fn walk<T: CaffeMessage>(bytes: &[u8]) -> Result<(), (WireFault, bool)> {
    let Some(desc) = descriptors().get_message_by_name(&T::full_name()) else { return Ok(()) };
    let mut walk = Walk { bytes, end: bytes.len(), at: 0, parts: 0, layers: 0, excess: false };
    walk.message(&desc, "").map_err(|fault| (fault, walk.excess))
}

struct Walk<'a> {
    bytes: &'a [u8],
    /// Where the message walked over ends.
    end: usize,
    at: usize,
    /// Messages and strings so far, and layers of a net.
    parts: usize,
    layers: usize,
    /// Whether one of [`crate::limits`] was hit.
    excess: bool,
}

type Step<T> = Result<T, String>;

impl Walk<'_> {
    fn message(&mut self, desc: &MessageDescriptor, path: &str) -> Result<(), WireFault> {
        while self.at < self.end {
            let offset = self.at;
            let fault = |field: &str, reason| WireFault { offset, field: field.to_owned(), reason };
            let key = self.varint().map_err(|reason| fault(path, reason))?;
            let field = u32::try_from(key >> 3).ok().and_then(|number| desc.get_field(number));
            let name = match (&field, path) {
                (Some(field), "") => field.name().to_owned(),
                (Some(field), _) => format!("{path}.{}", field.name()),
                (None, _) => path.to_owned(),
            };
            let content = self.content(key, field.as_ref()).map_err(|r| fault(&name, r))?;
            let (Some(field), Some(length)) = (field, content) else { continue };
            let end = self.at + length;
            self.count(desc, &field, length).map_err(|r| fault(&name, r))?;
            match field.kind() {
                Kind::Message(inner) => {
                    let outer = std::mem::replace(&mut self.end, end);
                    self.message(&inner, &name)?;
                    self.end = outer;
                }
                Kind::String if std::str::from_utf8(&self.bytes[self.at..end]).is_err() => {
                    return Err(fault(&name, "the string is not valid UTF-8".to_owned()));
                }
                _ => {}
            }
            self.at = end;
        }
        Ok(())
    }

    /// Counts a field that has a length against the limits.
    fn count(
        &mut self,
        desc: &MessageDescriptor,
        field: &FieldDescriptor,
        length: usize,
    ) -> Step<()> {
        self.parts += 1;
        self.layers += usize::from(holds_layers(desc.name(), field.name()));
        let numbers = match wire_type_of(&field.kind()) {
            0 => length,
            _ => 0,
        };
        let limits = [
            (self.layers, MAX_LAYERS, "layers in one net"),
            (self.parts, MAX_PARTS, "messages and strings in one file"),
            (numbers, MAX_NUMBERS, "bytes in one list of whole numbers"),
        ];
        match limits.into_iter().find(|(count, most, _)| count > most) {
            None => Ok(()),
            Some((_, most, what)) => {
                self.excess = true;
                Err(format!("more than {most} {what}"))
            }
        }
    }

    /// Steps over a field's value, or, where it has a length, up to its first byte and answers the
    /// length.
    fn content(&mut self, key: u64, field: Option<&FieldDescriptor>) -> Step<Option<usize>> {
        let wire_type = key & 7;
        if key >> 3 == 0 || !matches!(wire_type, 0 | 1 | 2 | 5) {
            return Err(format!("byte {:#04x} begins no field", key & 0xff));
        }
        if let Some(field) = field {
            let own = wire_type_of(&field.kind());
            if wire_type != own && !(wire_type == 2 && field.is_list() && own != 2) {
                return Err(format!("wire type {wire_type} where the field has {own}"));
            }
        }
        let fixed = match wire_type {
            0 => return self.varint().map(|_| None),
            1 => 8,
            5 => 4,
            _ => {
                let length = self.varint()?;
                return self.room(length).map(Some);
            }
        };
        self.at += self.room(fixed)?;
        Ok(None)
    }

    /// `length` if so many bytes are left.
    fn room(&self, length: u64) -> Step<usize> {
        let left = self.end - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left => Ok(length),
            _ => Err(format!("it has {length} bytes, but {left} are left")),
        }
    }

    fn varint(&mut self) -> Step<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes[..self.end].get(self.at) else {
                return Err("the data ends within a number".to_owned());
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than ten bytes".to_owned())
    }
}

fn wire_type_of(kind: &Kind) -> u64 {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
        Kind::String | Kind::Bytes | Kind::Message(_) => 2,
        _ => 0,
    }
}
