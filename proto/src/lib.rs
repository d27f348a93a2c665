//! The Caffe file formats.
