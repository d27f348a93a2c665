//! Places that a caller of the C interface names: where results go and texts come from.
//!
//! Every entry reads and writes its pointers here, so that null is refused in one place. That a pointer
//! which is not null is good is the caller's word; nothing can check it.

use std::ffi::{CStr, c_char, c_void};

/// A null pointer where there must not be one.
pub struct Null;

/// Writes a result.
pub fn put<T>(at: *mut T, value: T) -> Result<(), Null> {
    if at.is_null() {
        return Err(Null);
    }
    // SAFETY: not null; the caller of the interface gives room for a `T`, aligned or not.
    unsafe { at.write_unaligned(value) };
    Ok(())
}

/// Reads a value.
pub fn get<T: Copy>(at: *const T) -> Result<T, Null> {
    if at.is_null() {
        return Err(Null);
    }
    // SAFETY: not null; the caller of the interface gives a readable `T`.
    Ok(unsafe { at.read_unaligned() })
}

/// Reads a list.
pub fn list<T: Copy>(at: *const T, count: usize) -> Result<Vec<T>, Null> {
    // Additions of addresses wrap, so that no count makes them undefined.
    (0..count).map(|i| if at.is_null() { Err(Null) } else { get(at.wrapping_add(i)) }).collect()
}

/// Reads a text.
pub fn text(at: *const c_char) -> Result<String, Null> {
    if at.is_null() {
        return Err(Null);
    }
    // SAFETY: not null; the caller of the interface gives a text that ends with a zero.
    Ok(unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}

/// Copies bytes between places that the caller vouches for.
pub fn copy(from: *const c_void, to: *mut c_void, bytes: usize) -> Result<(), Null> {
    if from.is_null() || to.is_null() {
        return if bytes == 0 { Ok(()) } else { Err(Null) };
    }
    // SAFETY: device memory is checked before, host memory is the caller's word; `copy` allows overlap.
    unsafe { std::ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes) };
    Ok(())
}

/// Sets bytes of memory that was checked before.
pub fn fill(at: u64, value: u8, bytes: usize) {
    // SAFETY: the callers have asked `Memory::check` for this range.
    unsafe { std::ptr::write_bytes(at as *mut u8, value, bytes) };
}
