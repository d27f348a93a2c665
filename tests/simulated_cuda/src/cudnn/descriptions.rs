//! Descriptions of arrays and of windows.

use std::ffi::c_int;

use super::{Fault, Status, answer, bad, made, unsupported};
use crate::convolution::{Tensor, Windows};
use crate::numbers::Kind;
use crate::places::{list, put};

/// The entries that make and destroy a description.
macro_rules! description {
    ($create:ident, $destroy:ident, $table:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $create(description: *mut u64) -> Status {
            answer(stringify!($create), |_, library| {
                Ok(put(description, library.$table.add(None))?)
            })
        }

        #[unsafe(no_mangle)]
        extern "C" fn $destroy(description: u64) -> Status {
            answer(stringify!($destroy), |_, library| {
                library.$table.remove(description).map(drop).map_err(bad)
            })
        }
    };
}

description!(cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor, tensors);
description!(cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor, filters);
description!(cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor, windows);

fn kind(number: c_int) -> Result<Kind, Fault> {
    match number {
        0 => Ok(Kind::Float),
        2 => Ok(Kind::Half),
        9 => Ok(Kind::Bfloat),
        _ => Err(unsupported(format!("data type {number}"))),
    }
}

/// A list of numbers of at least `least`.
fn numbers(at: *const c_int, count: c_int, least: c_int) -> Result<Vec<usize>, Fault> {
    let numbers = list(at, usize::try_from(count).unwrap_or(0))?;
    match numbers.iter().all(|number| *number >= least) {
        true => Ok(numbers.into_iter().map(|number| number as usize).collect()),
        false => Err(bad(format!("{numbers:?} has a number below {least}"))),
    }
}

/// What cuDNN takes: four dimensions (its convolutions know no fewer) to eight.
fn dimensions(count: c_int) -> Result<(), Fault> {
    match count {
        4..=8 => Ok(()),
        _ => Err(bad(format!("{count} dimensions"))),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetTensorNdDescriptor(
    tensor: u64,
    of: c_int,
    count: c_int,
    sizes: *const c_int,
    strides: *const c_int,
) -> Status {
    answer("cudnnSetTensorNdDescriptor", |_, library| {
        dimensions(count)?;
        let (sizes, strides) = (numbers(sizes, count, 1)?, numbers(strides, count, 1)?);
        let found = library.tensors.get_mut(tensor).map_err(bad)?;
        *found = Some(Tensor { kind: kind(of)?, sizes, strides });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetFilterNdDescriptor(
    filter: u64,
    of: c_int,
    format: c_int,
    count: c_int,
    sizes: *const c_int,
) -> Status {
    answer("cudnnSetFilterNdDescriptor", |_, library| {
        dimensions(count)?;
        let sizes = numbers(sizes, count, 1)?;
        let tensor = match format {
            0 => Tensor::packed(kind(of)?, sizes),
            1 => Tensor::channels_last(kind(of)?, sizes),
            _ => return Err(unsupported(format!("format {format}"))),
        };
        *library.filters.get_mut(filter).map_err(bad)? = Some(tensor);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionNdDescriptor(
    windows: u64,
    axes: c_int,
    pads: *const c_int,
    strides: *const c_int,
    dilations: *const c_int,
    mode: c_int,
    compute: c_int,
) -> Status {
    answer("cudnnSetConvolutionNdDescriptor", |_, library| {
        if !(2..=3).contains(&axes) || !(0..=1).contains(&mode) {
            return Err(unsupported(format!("{axes} axes in mode {mode}")));
        }
        if kind(compute)? != Kind::Float {
            return Err(unsupported("sums of fewer than 32 bits are not simulated"));
        }
        let made = Windows {
            pads: numbers(pads, axes, 0)?,
            strides: numbers(strides, axes, 1)?,
            dilations: numbers(dilations, axes, 1)?,
            groups: 1,
            mirrored: mode == 0,
            math: 0,
        };
        *library.windows.get_mut(windows).map_err(bad)? = Some(made);
        Ok(())
    })
}

/// Changes a description of windows.
fn change(call: &str, windows: u64, f: impl FnOnce(&mut Windows) -> Result<(), Fault>) -> Status {
    answer(call, |_, library| match library.windows.get_mut(windows).map_err(bad)? {
        Some(windows) => f(windows),
        None => Err(bad("a description that was never set")),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionGroupCount(windows: u64, groups: c_int) -> Status {
    change("cudnnSetConvolutionGroupCount", windows, |windows| {
        windows.groups = usize::try_from(groups)
            .ok()
            .filter(|groups| *groups > 0)
            .ok_or_else(|| bad(format!("{groups} groups")))?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionMathType(windows: u64, math: c_int) -> Status {
    change("cudnnSetConvolutionMathType", windows, |windows| match math {
        0..=3 => {
            windows.math = math;
            Ok(())
        }
        _ => Err(bad(format!("arithmetic {math}"))),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetConvolutionNdForwardOutputDim(
    windows: u64,
    x: u64,
    w: u64,
    count: c_int,
    sizes: *mut c_int,
) -> Status {
    answer("cudnnGetConvolutionNdForwardOutputDim", |_, library| {
        let windows = made(library.windows.get(windows))?;
        let (x, w) = (made(library.tensors.get(x))?, made(library.filters.get(w))?);
        let y = windows.output(x, w).map_err(bad)?;
        if y.len() != count as usize {
            return Err(bad(format!("{count} dimensions asked for, there are {}", y.len())));
        }
        let told = y.iter().enumerate();
        Ok(told.into_iter().try_for_each(|(i, y)| put(sizes.wrapping_add(i), *y as c_int))?)
    })
}
