//! Reading and writing whole files: prototxt text, and binary models, states and means.
//!
//! Binary files go straight into their typed messages, weights and all; nothing generic is in
//! between. Files are written beside their final name, synced and renamed, so that a reader, or the
//! next start after a power cut, finds the old file or the new one and never half of it.
//!
//! Nets and solvers should be read with [`crate::net_from_file`] and its companions, which also
//! upgrade old forms; this module reads what is there.

mod atomic;
mod error;
mod wire;

use std::{fs, io, path::Path};

pub use self::{
    atomic::{Pending, write_file_atomic},
    error::FileError,
    wire::WireFault,
};
use crate::text::{self, CaffeMessage};

/// Reads a prototxt file as a message of type `T`, as it stands.
///
/// # Errors
/// A missing or unreadable file, one that is not UTF-8, and all faults of [`text::parse`].
pub fn read_text_file<T: CaffeMessage>(path: impl AsRef<Path>) -> Result<T, FileError> {
    let path = path.as_ref();
    Ok(text::parse(&path.display().to_string(), &read_text(path)?)?)
}

/// Reads a binary file (caffemodel, solverstate, binaryproto) as a message of type `T`, as it
/// stands.
///
/// # Errors
/// A missing or unreadable file; an empty, truncated or damaged one, with the byte offset; and a
/// file of another kind, with what it looks like.
pub fn read_binary_file<T: CaffeMessage>(path: impl AsRef<Path>) -> Result<T, FileError> {
    let path = path.as_ref();
    let bytes = fs::read(path).map_err(|source| FileError::reading(path, source))?;
    decode(path, &bytes)
}

/// Writes a message as a binary file, whole or not at all.
///
/// # Errors
/// Whatever keeps the file from being written; the old one, if any, is then still there.
pub fn write_binary_file_atomic<T: CaffeMessage>(
    path: impl AsRef<Path>,
    message: &T,
) -> Result<(), FileError> {
    write_file_atomic(path, &message.encode_to_vec())
}

/// Writes a message as prototxt, whole or not at all.
///
/// # Errors
/// Whatever keeps the file from being written; the old one, if any, is then still there.
pub fn write_text_file_atomic<T: CaffeMessage>(
    path: impl AsRef<Path>,
    message: &T,
) -> Result<(), FileError> {
    write_file_atomic(path, text::print(message).as_bytes())
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    let bytes = fs::read(path).map_err(|source| FileError::reading(path, source))?;
    String::from_utf8(bytes).map_err(|error| {
        let (offset, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let path = path.to_owned();
        match foreign_kind(bytes) {
            Some(looks_like) => FileError::Foreign { path, expected: "prototxt text", looks_like },
            None => {
                let line = bytes[..offset].iter().filter(|&&b| b == b'\n').count() + 1;
                FileError::NotUtf8 { path, line, offset }
            }
        }
    })
}

/// Reads the bytes of a binary file, as it stands; `path` is for errors.
///
/// # Errors
/// As [`read_binary_file`], the file apart.
pub fn decode<T: CaffeMessage>(path: &Path, bytes: &[u8]) -> Result<T, FileError> {
    if bytes.is_empty() {
        return Err(FileError::Empty { path: path.to_owned(), message: T::NAME });
    }
    if let Some(fault) = wire::excess::<T>(bytes) {
        return Err(FileError::TooLarge { path: path.to_owned(), message: T::NAME, fault });
    }
    // Unknown fields are skipped on decoding; a file that has no others holds something else.
    match T::decode(bytes) {
        Ok(message) if message.encoded_len() > 0 => Ok(message),
        Ok(_) => Err(foreign::<T>(path, bytes, "a message of another type")),
        Err(error) => {
            if let Some(looks_like) = looks_like(bytes) {
                return Err(foreign::<T>(path, bytes, looks_like));
            }
            let fault = wire::locate::<T>(bytes).unwrap_or_else(|| WireFault {
                offset: 0,
                field: String::new(),
                reason: error.to_string(),
            });
            Err(FileError::Damaged { path: path.to_owned(), message: T::NAME, fault })
        }
    }
}

fn foreign<T: CaffeMessage>(path: &Path, bytes: &[u8], otherwise: &'static str) -> FileError {
    let looks_like = foreign_kind(bytes).unwrap_or(otherwise);
    FileError::Foreign { path: path.to_owned(), expected: T::NAME, looks_like }
}

/// File kinds that people mistake for Caffe's binary ones, by their first bytes.
fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 5] = [
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"PK\x03\x04", "a zip archive (a PyTorch or NumPy file?)"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x80\x02", "a Python pickle"),
    ];
    KINDS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind)
}

/// What a file that begins with these bytes seems to be, where it is none of Caffe's own.
pub fn looks_like(head: &[u8]) -> Option<&'static str> {
    foreign_kind(head).or_else(|| looks_like_text(head))
}

fn looks_like_text(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(512)];
    let printable = |b: &u8| matches!(b, b'\n' | b'\r' | b'\t' | b' '..=b'~');
    // A few bytes of a cut binary file may all be printable by chance.
    let text = head.len() >= 16 && head.iter().all(printable);
    if head.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer: the file itself was not downloaded")
    } else if text && head.iter().any(|b| matches!(b, b'{' | b':')) {
        Some("text (a prototxt?)")
    } else if text {
        Some("text")
    } else {
        None
    }
}

/// `NotFound` and all others, told apart once.
fn is_missing(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
