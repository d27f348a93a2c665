//! The face of [`super`] in a program without libhdf5: files are told apart, none is read or
//! written.

use std::path::Path;

use caffe_proto::files::Pending;

use super::check_signature;
use crate::{Error, Result};

fn none<T>(path: &Path) -> Result<T> {
    Err(Error::Invalid(format!(
        "{}: this program was built without HDF5; build it with `--features hdf5` (needs libhdf5)",
        path.display()
    )))
}

/// Never there: [`Reader::open`] fails.
pub enum Reader {}

impl Reader {
    /// Refuses, once it is clear that the file is HDF5.
    ///
    /// # Errors
    /// Always.
    pub fn open(path: &Path) -> Result<Self> {
        check_signature(path)?;
        none(path)
    }

    /// Whether there is such a dataset.
    pub fn has(&self, _name: &str) -> bool {
        match *self {}
    }

    /// Extents of a dataset.
    ///
    /// # Errors
    /// None: there is no reader.
    pub fn shape(&self, _name: &str) -> Result<Vec<usize>> {
        match *self {}
    }

    /// Extents and values of a dataset.
    ///
    /// # Errors
    /// None: there is no reader.
    pub fn floats(&self, _name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        match *self {}
    }

    /// A whole number.
    ///
    /// # Errors
    /// None: there is no reader.
    pub fn integer(&self, _name: &str) -> Result<i64> {
        match *self {}
    }

    /// A text.
    ///
    /// # Errors
    /// None: there is no reader.
    pub fn text(&self, _name: &str) -> Result<String> {
        match *self {}
    }

    /// Paths of all datasets under a group.
    ///
    /// # Errors
    /// None: there is no reader.
    pub fn datasets(&self, _group: &str) -> Result<Vec<String>> {
        match *self {}
    }
}

/// Never there: [`Writer::create`] fails.
pub enum Writer {}

impl Writer {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn create(path: &Path) -> Result<Self> {
        none(path)
    }

    /// Makes a group.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn group(&mut self, _name: &str) -> Result<()> {
        match *self {}
    }

    /// Writes a dataset of floats.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn floats(&mut self, _name: &str, _shape: &[usize], _values: &[f32]) -> Result<()> {
        match *self {}
    }

    /// Writes a whole number.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn integer(&mut self, _name: &str, _value: i32) -> Result<()> {
        match *self {}
    }

    /// Writes a text.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn text(&mut self, _name: &str, _value: &str) -> Result<()> {
        match *self {}
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn finish(self) -> Result<()> {
        match self {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None: there is no writer.
    pub fn close(self) -> Result<Pending> {
        match self {}
    }
}

/// Never there: [`Appender::create`] fails.
pub enum Appender {}

impl Appender {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn create(path: &Path) -> Result<Self> {
        none(path)
    }

    /// Adds rows to a dataset.
    ///
    /// # Errors
    /// None: there is no file.
    pub fn append(&mut self, _name: &str, _shape: &[usize], _values: &[f32]) -> Result<()> {
        match *self {}
    }

    /// Brings what was added to disk.
    ///
    /// # Errors
    /// None: there is no file.
    pub fn flush(&mut self) -> Result<()> {
        match *self {}
    }
}
