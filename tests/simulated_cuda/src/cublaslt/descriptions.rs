//! Descriptions of matrices, of products, and of what an algorithm may need.

use std::ffi::{c_int, c_void};

use super::{Attributes, Fault, Status, answer, invalid, unsupported};
use crate::matmul::Matrix;
use crate::numbers::Kind;
use crate::places::put;

pub fn kind(number: c_int) -> Result<Kind, Fault> {
    match number {
        0 => Ok(Kind::Float),
        2 => Ok(Kind::Half),
        14 => Ok(Kind::Bfloat),
        _ => Err(unsupported(format!("data type {number}"))),
    }
}

pub fn value<const N: usize>(attributes: &Attributes, which: c_int) -> Option<[u8; N]> {
    let (_, bytes) = attributes.iter().rev().find(|(known, _)| *known == which)?;
    bytes.as_slice().try_into().ok()
}

pub fn number(attributes: &Attributes, which: c_int, default: c_int) -> c_int {
    value(attributes, which).map_or(default, c_int::from_ne_bytes)
}

/// Notes an attribute; `sizes` has the bytes of each that there is.
fn set(
    attributes: &mut Attributes,
    sizes: &[(c_int, usize)],
    which: c_int,
    bytes: *const c_void,
    size: usize,
) -> Result<(), Fault> {
    match sizes.iter().find(|(known, _)| *known == which) {
        Some((_, wanted)) if *wanted == size => {
            attributes.push((which, crate::places::list(bytes.cast(), size)?));
            Ok(())
        }
        Some((_, wanted)) => {
            Err(invalid(format!("attribute {which} with {size} bytes in place of {wanted}")))
        }
        None => Err(invalid(format!("attribute {which} is unknown, or not simulated"))),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut u64,
    of: c_int,
    rows: u64,
    columns: u64,
    ld: i64,
) -> Status {
    answer("cublasLtMatrixLayoutCreate", |_, library| {
        let ld = usize::try_from(ld).map_err(|_| invalid("a negative leading dimension"))?;
        let (rows, columns) = (rows as usize, columns as usize);
        let (row_major, batch, step) = (false, 1, 0);
        let matrix = Matrix { kind: kind(of)?, rows, columns, ld, row_major, batch, step };
        Ok(put(layout, library.layouts.add((matrix, Vec::new())))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: u64,
    which: c_int,
    bytes: *const c_void,
    size: usize,
) -> Status {
    answer("cublasLtMatrixLayoutSetAttribute", |_, library| {
        // Order, number of matrices, distance of two.
        let sizes = [(1, 4), (5, 4), (6, 8)];
        let (matrix, attributes) = library.layouts.get_mut(layout).map_err(invalid)?;
        set(attributes, &sizes, which, bytes, size)?;
        match number(attributes, 1, 0) {
            order @ 0..=1 => matrix.row_major = order == 1,
            order => return Err(unsupported(format!("order {order}"))),
        }
        matrix.batch = number(attributes, 5, 1).max(0) as usize;
        matrix.step = value(attributes, 6).map_or(0, i64::from_ne_bytes).max(0) as usize;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatrixLayoutDestroy(layout: u64) -> Status {
    answer("cublasLtMatrixLayoutDestroy", |_, library| {
        library.layouts.remove(layout).map(drop).map_err(invalid)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescCreate(product: *mut u64, compute: c_int, scale: c_int) -> Status {
    answer("cublasLtMatmulDescCreate", |_, library| {
        // 32-bit sums, plain or pedantic or from TF32 factors, with 32-bit alpha and beta.
        if ![68, 69, 77].contains(&compute) || scale != 0 {
            return Err(unsupported(format!("arithmetic {compute} with scale type {scale}")));
        }
        Ok(put(product, library.products.add(([compute, scale], Vec::new())))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescSetAttribute(
    product: u64,
    which: c_int,
    bytes: *const c_void,
    size: usize,
) -> Status {
    answer("cublasLtMatmulDescSetAttribute", |_, library| {
        // Pointer mode, A and B transposed, epilogue, bias and its type.
        let sizes = [(2, 4), (3, 4), (4, 4), (7, 4), (8, 8), (26, 4)];
        let (_, attributes) = library.products.get_mut(product).map_err(invalid)?;
        set(attributes, &sizes, which, bytes, size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulDescDestroy(product: u64) -> Status {
    answer("cublasLtMatmulDescDestroy", |_, library| {
        library.products.remove(product).map(drop).map_err(invalid)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut u64) -> Status {
    answer("cublasLtMatmulPreferenceCreate", |_, library| {
        Ok(put(preference, library.preferences.add(Vec::new()))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: u64,
    which: c_int,
    bytes: *const c_void,
    size: usize,
) -> Status {
    answer("cublasLtMatmulPreferenceSetAttribute", |_, library| {
        // Search mode, workspace, reduction schemes, alignment of A, B, C, D.
        let sizes = [(0, 4), (1, 8), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4)];
        let attributes = library.preferences.get_mut(preference).map_err(invalid)?;
        set(attributes, &sizes, which, bytes, size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulPreferenceDestroy(preference: u64) -> Status {
    answer("cublasLtMatmulPreferenceDestroy", |_, library| {
        library.preferences.remove(preference).map(drop).map_err(invalid)
    })
}
