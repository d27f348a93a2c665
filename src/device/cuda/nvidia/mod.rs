//! A GPU of NVIDIA's, through its driver: memory, kernels, cuBLASLt and cuDNN on one stream, copies on two
//! others.
//!
//! Not yet run on a device: it is tested on simulated libraries (`tests/simulated_cuda`), and its kernels
//! are compiled for three architectures.

mod algorithm;
mod backend;
mod block;
mod choosing;
mod convolution;
mod graphs;
mod kernels;
pub mod nccl;
mod product;
mod queues;

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::fmt::Display;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, result};

use self::block::Block;
use self::convolution::Convolutions;
use self::kernels::Kernels;
use self::nccl::Member;
use self::product::Products;
use self::queues::Queues;
use super::algorithms::{Direction, Setup};
use super::backend::{Address, Backend, Correlation, WORKSPACE};
use super::library::Library;
use super::work::{COPIED_IN, Notes, Work};
use super::{Kind, Math, Order};
use crate::{Error, Result, ensure};

/// What addresses of arrays in working memory are multiples of.
const ALIGNED: usize = 256;

/// The first compute capability with bfloat16.
const BF16: (i32, i32) = (8, 0);

/// The device.
pub struct Nvidia {
    name: String,
    kind: Kind,
    order: Order,
    kernels: RefCell<Kernels>,
    products: RefCell<Products>,
    convolutions: RefCell<Convolutions>,
    workspace: RefCell<Workspace>,
    block: RefCell<Option<Block>>,
    /// Its part in a clique.
    member: RefCell<Option<Member>>,
    /// Bytes that were free when it was opened.
    free: usize,
    notes: Notes,
    frees: Cell<u64>,
    queues: Queues,
    /// Dropped last: the others live in it.
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// Memory that grows to what is asked for; one user at a time, as there is one stream.
#[derive(Default)]
struct Workspace {
    at: u64,
    bytes: usize,
}

/// A failed call as an error that names it.
fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Invalid(format!("CUDA: {what} failed: {error}"))
}

/// The driver's errors have no words of their own without a device.
fn driver(what: &'static str) -> impl Fn(cudarc::driver::DriverError) -> Error {
    move |error| Error::Invalid(format!("CUDA: {what} failed: {:?}", error.0))
}

impl Nvidia {
    /// Device number `id`, as `caffe device_query` counts. `exact`: the same sums in every run.
    ///
    /// # Errors
    /// A library that is missing, with what to install; a device that is not there or refuses.
    pub fn new(id: usize, math: Math, exact: bool) -> Result<Nvidia> {
        let missing = |missing: super::library::Missing| Error::Invalid(missing.to_string());
        for library in [Library::Driver, Library::Nvrtc, Library::CublasLt, Library::Cudnn] {
            library.open().map_err(missing)?;
        }
        let context = CudaContext::new(id).map_err(driver("opening the device"))?;
        // Else the first stream waits for all of the context, which must not be while another replica on the
        // same device captures a graph.
        // SAFETY: none of cudarc's arrays, which it would keep in order, is used.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver("making a stream"))?;
        let name = context.name().map_err(driver("asking for the device's name"))?;
        let capability =
            context.compute_capability().map_err(driver("asking for the device's capability"))?;
        ensure!(
            math != Math::Bf16 || capability >= BF16,
            "CUDA device {id} ({name}) has compute capability {}.{}; bf16 needs 8.0 or later: take \
             --precision=fp16 or f32",
            capability.0,
            capability.1
        );
        ensure!(
            context.has_async_alloc(),
            "CUDA device {id} ({name}) has no memory pools (cuMemAllocAsync), as some virtual GPUs have not; \
             take another device"
        );
        let (free, _) = context.mem_get_info().map_err(driver("asking for the free memory"))?;
        let cudnn = cudarc::cudnn::result::get_version();
        let setup = Setup { device: name.clone(), capability, cudnn, math };
        let (notes, frees) = Default::default();
        Ok(Nvidia {
            name: match math {
                Math::F32 => format!("CUDA device {id} ({name})"),
                math => format!("CUDA device {id} ({name}) in {}", math.name()),
            },
            kind: math.kind(),
            order: math.order(),
            kernels: RefCell::new(Kernels::new(capability)?),
            products: RefCell::new(Products::new(math)?),
            convolutions: RefCell::new(Convolutions::new(&stream, setup, exact)?),
            workspace: RefCell::default(),
            block: RefCell::default(),
            member: RefCell::default(),
            free,
            notes,
            frees,
            queues: Queues::new(&context, &stream)?,
            stream,
            context,
        })
    }

    /// The same with activations in this order, whatever its convolutions do best with.
    pub fn ordered(mut self, order: Order) -> Nvidia {
        self.order = order;
        self
    }

    /// Waits for sums of the clique, but not for a member that has gone.
    fn wait_for_members(&self) -> Result<()> {
        self.member.borrow_mut().as_mut().map_or(Ok(()), Member::wait)
    }

    /// Copies from the host before anybody changes what is there. Even of memory that is not locked the
    /// driver need not have its own copy when the call returns: some devices read it in its place.
    fn upload_now<T>(&self, from: &[T], to: Address) -> Result<()> {
        self.notes.spoil(COPIED_IN);
        // SAFETY: `to` has room for `from`, by the caller's word; the wait below ends the borrow.
        unsafe { result::memcpy_htod_async(to.0, from, self.stream.cu_stream()) }
            .map_err(driver("copying to the device"))?;
        self.finish()
    }

    /// So many bytes from the driver.
    fn take(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the context is current on this thread, which made it.
        unsafe { result::malloc_async(self.stream.cu_stream(), bytes) }.map_err(|error| {
            let (free, total) = self.context.mem_get_info().unwrap_or_default();
            Error::Invalid(format!(
                "{} has no memory for {:.1} MB ({:.1} of {:.1} MB are free): {:?}; take a smaller batch, \
                 or another device",
                self.name,
                bytes as f64 / 1e6,
                free as f64 / 1e6,
                total as f64 / 1e6,
                error.0
            ))
        })
    }

    /// Gives back what [`take`](Nvidia::take) gave, all of it.
    fn free_all(&self, at: u64) {
        self.frees.set(self.frees.get() + 1);
        // SAFETY: from `take`, and given back once; in stream order, so after its last use.
        let _ = unsafe { result::free_async(at, self.stream.cu_stream()) };
    }

    fn note_correlation(
        &self,
        direction: Direction,
        shape: &Correlation,
        kind: Kind,
        at: [Address; 3],
    ) {
        self.notes.add(|| Work::Correlate(direction, shape.clone(), kind, at));
    }

    /// At least so many bytes of working memory.
    fn workspace(&self, bytes: usize) -> Result<*mut c_void> {
        let mut workspace = self.workspace.borrow_mut();
        if workspace.bytes < bytes {
            if workspace.bytes > 0 {
                self.free_all(workspace.at);
                *workspace = Workspace::default();
            }
            let at = self.take(bytes)?;
            *workspace = Workspace { at, bytes };
        }
        Ok(workspace.at as *mut c_void)
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // What still runs uses memory and handles that go now; a device that failed has said so.
        self.member.take();
        self.queues.drain();
        let Workspace { at, bytes } = std::mem::take(self.workspace.get_mut());
        // The context outlives this object where another replica has it, too.
        if bytes > 0 {
            self.free_all(at);
        }
        if let Some(block) = self.block.take() {
            self.free_all(block.at());
        }
    }
}
