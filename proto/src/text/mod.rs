//! The text form of messages: prototxt.
//!
//! [`parse`] reads what protobuf's own C++ parser reads and refuses what it refuses, but says
//! where: file, line, column, the line itself, and what was probably meant. [`print()`] writes in the
//! style of Caffe's own files. [`LayerLines`] finds the lines of a net's layers, so that later
//! stages can name them too.
//!
//! Text is for definitions. Weights travel in binary files (see [`crate::read_binary_file`]):
//! printing a message goes through a generic form that takes some 16 times its size.
//!
//! ```
//! use caffe_proto::{NetParameter, text};
//!
//! let net: NetParameter = text::parse("tiny.prototxt", "layer { name: 'in' type: 'Input' }")?;
//! assert_eq!(text::print(&net), "layer {\n  name: \"in\"\n  type: \"Input\"\n}\n");
//!
//! let error = text::parse::<NetParameter>("tiny.prototxt", "layer { nmae: 'in' }").unwrap_err();
//! assert_eq!((error.line(), error.column()), (1, 9));
//! assert_eq!(error.hints(), ["did you mean `name`?"]);
//! # Ok::<(), text::TextError>(())
//! ```

mod error;
mod hints;
mod lexer;
mod lines;
mod number;
mod parser;
mod printer;

use prost::{Message, Name};
use prost_reflect::DynamicMessage;

pub use self::{
    error::{Fault, TextError},
    hints::closest,
    lines::LayerLines,
};
use crate::descriptors;
use crate::limits::MAX_TEXT;

/// Any message of the format.
pub trait CaffeMessage: Message + Name + Default {}

impl<T: Message + Name + Default> CaffeMessage for T {}

/// Parses `text` as a message of type `T`.
///
/// `origin` is the name by which errors call the text: a path, as a rule.
///
/// Read: fields by name, messages in `{ }` or `< >` with or without `:` before them, lists in
/// `[ ]`, `,` or `;` behind a field, `#` comments, strings in either quote with C escapes (adjacent
/// ones are joined), numbers in the spellings of C, `inf` and `nan`, enums by name or number, a
/// byte order mark.
///
/// # Errors
/// The first fault, with its place: see [`Fault`]. Fields set twice, missing required fields and
/// unknown enum numbers are faults too.
pub fn parse<T: CaffeMessage>(origin: &str, text: &str) -> Result<T, TextError> {
    let fail = |span, fault, hints| TextError::new(origin, text, span, fault, hints);
    if text.len() > MAX_TEXT {
        let fault = Fault::TooMany { what: "bytes of text", most: MAX_TEXT };
        return Err(TextError::new(origin, "", 0..0, fault, Vec::new()));
    }
    let name = T::full_name();
    let Some(desc) = descriptors().get_message_by_name(&name) else {
        return Err(fail(0..0, Fault::UnknownMessage { message: name }, Vec::new()));
    };
    let message = parser::parse(text, &desc)
        .map_err(|failure| fail(failure.span, failure.fault, failure.hints))?;
    message
        .transcode_to()
        .map_err(|error| fail(0..0, Fault::Transcode { reason: error.to_string() }, Vec::new()))
}

/// Writes a message in the style of Caffe's own files: one field a line, messages as
/// `name { … }` indented by two, fields in the order of their numbers, enums by name.
///
/// The text parses back to an equal message (but for the payload of a NaN). Meant for definitions;
/// do not print nets with weights.
pub fn print<T: CaffeMessage>(message: &T) -> String {
    let dynamic = descriptors().get_message_by_name(&T::full_name()).and_then(|desc| {
        let mut dynamic = DynamicMessage::new(desc);
        dynamic.transcode_from(message).ok()?;
        Some(dynamic)
    });
    match dynamic {
        Some(dynamic) => printer::print(&dynamic),
        // Only a foreign type that happens to satisfy the bounds comes here.
        None => format!("# {} is no message of the Caffe format\n", T::full_name()),
    }
}
