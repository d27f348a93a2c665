//! The asynchronous machine.
