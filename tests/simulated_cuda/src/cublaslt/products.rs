//! Products: what descriptions add up to, an algorithm for it, and its call.

use std::ffi::c_int;

use cudarc::cublaslt::sys::{
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulHeuristicResult_t as Heuristic,
};

use super::descriptions::{kind, number, value};
use super::{Attributes, Fault, Library, Status, answer, invalid, unsupported};
use crate::matmul::{Epilogue, Matrix, Product};
use crate::numbers::Kind;
use crate::places::{get, put};
use crate::stream::Op;
use crate::world::World;

/// What the preference says of pointers unless it is told.
const ALIGNMENT: u32 = 256;
/// Schemes that add parts of sums up in the output's format: in place, and out of place.
const OUTPUT: u32 = 1 | 4;
/// What an algorithm's bytes begin with.
const MAGIC: u64 = 0x5349_4d41_4c47_4f31;

impl Library {
    /// The product that descriptions describe, without places and factors.
    fn product(&self, product: u64, layouts: [u64; 4]) -> Result<Product, Fault> {
        let ([compute, _], attributes) = self.products.get(product).map_err(invalid)?;
        let mut matrices = Vec::new();
        for layout in layouts {
            matrices.push(self.layouts.get(layout).map_err(invalid)?.0);
        }
        let matrices: [Matrix; 4] = matrices.try_into().map_err(|_| invalid("four layouts"))?;
        let [a, b, c, d] = matrices.map(|matrix| matrix.kind);
        if a != b || c != d || (d != a && d != Kind::Float) {
            return Err(unsupported(format!("types {a:?}, {b:?}, {c:?}, {d:?}")));
        }
        let tf32 = *compute == 77 && a == Kind::Float;
        let transposed = [3, 4].map(|which| number(attributes, which, 0));
        if transposed.iter().any(|op| !(0..=1).contains(op)) || number(attributes, 2, 0) != 0 {
            return Err(unsupported("a conjugate, or factors in device memory"));
        }
        let transposed = transposed.map(|op| op == 1);
        Product::sizes(transposed, &matrices).map_err(invalid)?;
        let epilogue = match number(attributes, 7, 1) {
            1 => Epilogue::default(),
            2 => Epilogue { relu: true, bias: None },
            both @ (4 | 6) => {
                let at = value(attributes, 8).map(u64::from_ne_bytes).filter(|at| *at != 0);
                let at = at.ok_or_else(|| invalid("an epilogue with a bias, and no bias"))?;
                let of = value(attributes, 26).map(c_int::from_ne_bytes);
                let of = of.map_or(Ok(d), kind)?;
                Epilogue { relu: both == 6, bias: Some((at, of)) }
            }
            other => return Err(unsupported(format!("epilogue {other}"))),
        };
        let (at, workspace) = ([0; 4], (0, 0));
        let (alpha, beta, parts) = (1.0, 0.0, false);
        Ok(Product { transposed, matrices, at, alpha, beta, tf32, parts, epilogue, workspace })
    }
}

/// An algorithm for a product, with what it was promised: alignments of the four places. Where the preference
/// does not forbid it, it adds parts of sums up in the result's format.
fn algorithm(product: &Product, preference: &Attributes) -> Heuristic {
    let most = value(preference, 1).map_or(0, u64::from_ne_bytes);
    // Long sums are split, where there is memory for the parts.
    let [_, n, k] = Product::sizes(product.transposed, &product.matrices).unwrap_or_default();
    let wanted = if k >= 8 { 4096 * (1 + n as u64 % 3) } else { 0 };
    let workspace = if wanted <= most { wanted } else { 0 };
    let aligned = |which| value(preference, which).map_or(ALIGNMENT, u32::from_ne_bytes);
    let mut data = [0; 8];
    data[0] = MAGIC;
    data[1] = workspace;
    for (place, which) in data[2..6].iter_mut().zip(5..) {
        *place = u64::from(aligned(which));
    }
    data[6] = shape_hash(product);
    data[7] = u64::from(value(preference, 3).map_or(u32::MAX, u32::from_ne_bytes) & OUTPUT != 0);
    Heuristic {
        algo: Algorithm { data },
        workspaceSize: workspace as usize,
        state: Status::CUBLAS_STATUS_SUCCESS,
        wavesCount: 1.0,
        reserved: [0; 4],
    }
}

/// A number that differs for products of other descriptions.
fn shape_hash(product: &Product) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    let epilogue = (product.epilogue.relu, product.epilogue.bias.is_some());
    format!("{:?} {:?} {epilogue:?}", product.transposed, product.matrices).hash(&mut hash);
    hash.finish()
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: u64,
    product: u64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    preference: u64,
    requested: c_int,
    results: *mut Heuristic,
    returned: *mut c_int,
) -> Status {
    answer("cublasLtMatmulAlgoGetHeuristic", |_, library| {
        library.handles.get(handle).map_err(invalid)?;
        if requested < 1 {
            return Err(invalid("no algorithm asked for"));
        }
        let product = library.product(product, [a, b, c, d])?;
        let preference = library.preferences.get(preference).map_err(invalid)?;
        put(results, algorithm(&product, preference))?;
        Ok(put(returned, 1)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtMatmul(
    handle: u64,
    product: u64,
    alpha: *const f32,
    a: u64,
    a_layout: u64,
    b: u64,
    b_layout: u64,
    beta: *const f32,
    c: u64,
    c_layout: u64,
    d: u64,
    d_layout: u64,
    algorithm: *const Algorithm,
    workspace: u64,
    bytes: usize,
    stream: u64,
) -> Status {
    answer("cublasLtMatmul", |world, library| {
        let device = world.current()?;
        if *library.handles.get(handle).map_err(invalid)? != device {
            return Err(invalid("the handle was made for another device"));
        }
        let described = library.product(product, [a_layout, b_layout, c_layout, d_layout])?;
        let at = [a, b, c, d];
        let (alpha, beta) = (get(alpha)?, get(beta)?);
        let mut product = Product { at, alpha, beta, workspace: (workspace, bytes), ..described };
        if !algorithm.is_null() {
            let data = get(algorithm)?.data;
            promised(&product, &data)?;
            product.parts = data[7] != 0;
        }
        if bytes == 0 {
            product.workspace = (d, 0);
        } else if !workspace.is_multiple_of(16) {
            return Err(invalid("the workspace is not aligned to 16 bytes"));
        }
        product.check(&world.memory).map_err(|fault| invalid(fault.why))?;
        let work = move |world: &mut World| product.run(&world.memory);
        Ok(world.ask(stream, Op::new("cublasLtMatmul", work))?)
    })
}

/// Whether a product keeps what its algorithm was chosen for.
fn promised(product: &Product, data: &[u64; 8]) -> Result<(), Fault> {
    if data[0] != MAGIC {
        return Err(invalid("the algorithm is none that a heuristic gave"));
    }
    if data[6] != shape_hash(product) {
        return Err(unsupported("the algorithm was chosen for another product"));
    }
    if product.workspace.1 < data[1] as usize {
        let why =
            format!("{} bytes of workspace, the algorithm needs {}", product.workspace.1, data[1]);
        return Err(invalid(why));
    }
    for (i, (at, aligned)) in product.at.iter().zip(&data[2..6]).enumerate() {
        if *aligned > 0 && !at.is_multiple_of(*aligned) {
            return Err(unsupported(format!(
                "{} at {at:#x} is not aligned to the {aligned} bytes that the preference promised",
                ["A", "B", "C", "D"][i]
            )));
        }
    }
    Ok(())
}
