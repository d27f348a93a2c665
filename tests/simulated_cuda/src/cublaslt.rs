//! cuBLASLt's entries.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::sys::{
    cublasLtMatmulAlgo_t as Algorithm, cublasLtMatmulHeuristicResult_t as Heuristic,
    cublasStatus_t as Status,
};

use crate::driver::property;
use crate::matmul::{Epilogue, Matrix, Product};
use crate::numbers::Kind;
use crate::places::{Null, get, put};
use crate::stream::Op;
use crate::world::{self, Table, World};

const VERSION: [c_int; 3] = [13, 0, 0];
/// What the preference says of pointers unless it is told.
const ALIGNMENT: u32 = 256;
/// What an algorithm's bytes begin with.
const MAGIC: u64 = 0x5349_4d41_4c47_4f31;

struct Fault(Status, String);

impl From<Null> for Fault {
    fn from(_: Null) -> Fault {
        Fault(Status::CUBLAS_STATUS_INVALID_VALUE, "a pointer is null".into())
    }
}

impl From<world::Fault> for Fault {
    fn from(fault: world::Fault) -> Fault {
        Fault(Status::CUBLAS_STATUS_EXECUTION_FAILED, fault.why)
    }
}

fn invalid(why: impl Into<String>) -> Fault {
    Fault(Status::CUBLAS_STATUS_INVALID_VALUE, why.into())
}

fn unsupported(why: impl Into<String>) -> Fault {
    Fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, why.into())
}

/// Bytes of attributes, by number, in the order in which they were set.
type Attributes = Vec<(c_int, Vec<u8>)>;

/// Descriptions: all attributes that were set, and what they were made with.
struct Library {
    handles: Table<usize>,
    layouts: Table<(Matrix, Attributes)>,
    products: Table<([c_int; 2], Attributes)>,
    preferences: Table<Attributes>,
}

static LIBRARY: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    Mutex::new(Library {
        handles: Table::new("cuBLASLt handle"),
        layouts: Table::new("matrix layout"),
        products: Table::new("matmul description"),
        preferences: Table::new("matmul preference"),
    })
});

/// The driver's lock is always taken first.
fn library() -> MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left of a device's; descriptions belong to none, and are left when no handle is.
pub fn left(device: usize) -> Vec<(&'static str, usize)> {
    let mut library = library();
    let handles = library.handles.retire(|of| *of == device);
    let mut left = vec![("cuBLASLt handles", handles)];
    if library.handles.len() == 0 {
        let library = &library;
        left.push(("matrix layouts", library.layouts.len()));
        left.push(("matmul descriptions", library.products.len()));
        left.push(("matmul preferences", library.preferences.len()));
    }
    left
}

fn answer(call: &str, body: impl FnOnce(&mut World, &mut Library) -> Result<(), Fault>) -> Status {
    let mut world = world::lock();
    let done = body(&mut world, &mut library());
    match done {
        Ok(()) => Status::CUBLAS_STATUS_SUCCESS,
        Err(Fault(code, why)) => {
            world.report(call, &why, true);
            code
        }
    }
}

fn kind(number: c_int) -> Result<Kind, Fault> {
    match number {
        0 => Ok(Kind::Float),
        2 => Ok(Kind::Half),
        14 => Ok(Kind::Bfloat),
        _ => Err(unsupported(format!("data type {number}"))),
    }
}

fn value<const N: usize>(attributes: &Attributes, which: c_int) -> Option<[u8; N]> {
    let (_, bytes) = attributes.iter().rev().find(|(known, _)| *known == which)?;
    bytes.as_slice().try_into().ok()
}

fn number(attributes: &Attributes, which: c_int, default: c_int) -> c_int {
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
extern "C" fn cublasLtCreate(handle: *mut u64) -> Status {
    answer("cublasLtCreate", |world, library| {
        let device = world.current()?;
        Ok(put(handle, library.handles.add(device))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: u64) -> Status {
    answer("cublasLtDestroy", |_, library| {
        library.handles.remove(handle).map(drop).map_err(invalid)
    })
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
        let (alpha, beta) = (1.0, 0.0);
        Ok(Product { transposed, matrices, at, alpha, beta, tf32, epilogue, workspace })
    }
}

/// An algorithm for a product, with what it was promised: alignments of the four places.
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
            promised(&product, &get(algorithm)?.data)?;
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

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetProperty(which: c_int, value: *mut c_int) -> Status {
    match property(which, value, VERSION) {
        true => Status::CUBLAS_STATUS_SUCCESS,
        false => Status::CUBLAS_STATUS_INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetProperty(which: c_int, value: *mut c_int) -> Status {
    cublasLtGetProperty(which, value)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(_code: c_int) -> *const c_char {
    c"a status of the simulated cuBLASLt".as_ptr()
}
