//! The Caffe file formats: the messages, their prototxt text, their files, and upgrades of old
//! forms.
//!
//! | module | what |
//! |---|---|
//! | (root) | the messages of `caffe.proto`: [`NetParameter`], [`SolverParameter`], [`Datum`], … |
//! | [`text`] | prototxt: parse with places and hints, print in Caffe's style |
//! | [`files`] | whole files, text and binary, with clear errors; atomic writes |
//! | [`limits`] | how much a file may hold |
//! | [`upgrade`] | nets and solvers of older Caffe versions to today's form |
//! | [`net_from_file`], [`model_from_file`], [`solver_from_file`] | all of that in one call |
//!
//! Not here: what a net means. No layer is known by name beyond what the upgrades need, no default
//! is applied but those of the format, nothing is checked that needs a second message to check.
//!
//! ```
//! use caffe_proto::{NetParameter, text};
//!
//! let net: NetParameter = text::parse(
//!     "conv.prototxt",
//!     "layer { name: 'conv' type: 'Convolution' convolution_param { num_output: 32 pad: 2 } }",
//! )?;
//! let Some(conv) = net.layer[0].convolution_param.as_deref() else { unreachable!() };
//! // Fields are public; where the file says nothing, accessors answer the format's default.
//! assert_eq!((conv.num_output(), conv.group(), conv.bias_term()), (32, 1, true));
//! assert_eq!(conv.pad, [2]);
//! # Ok::<(), text::TextError>(())
//! ```

pub mod files;
mod generated;
pub mod limits;
mod load;
pub mod text;
pub mod upgrade;

pub use files::{
    FileError, read_binary_file, read_text_file, write_binary_file_atomic, write_file_atomic,
    write_text_file_atomic,
};
pub use generated::*;
pub use load::{NetFile, SolverFile, model_from_file, net_from_file, solver_from_file};
pub use prost::{self, Message};
