//! A GPU of NVIDIA's, through its driver: memory, kernels, cuBLASLt and cuDNN on one stream, copies on two
//! others.
//!
//! Not yet run on a device: it is tested on simulated libraries (`tests/simulated_cuda`), and its kernels
//! are compiled for three architectures.

mod algorithm;
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

use cudarc::driver::{CudaContext, CudaStream, result, sys};

use self::block::Block;
use self::convolution::Convolutions;
use self::kernels::Kernels;
use self::nccl::Member;
use self::product::Products;
use self::queues::Queues;
use super::algorithms::{Direction, Record, Settled, Setup, Table, Wanted};
use super::backend::{Address, Arg, Backend, Correlation, Event, Queue, WORKSPACE};
use super::clique::Clique;
use super::library::Library;
use super::order::add_to_plain;
use super::source::{BLOCK, Source};
use super::work::{COPIED_IN, COPIED_OUT, Graph, Notes, Work};
use super::{Kind, Math, Order, add_to_f32};
use crate::device::cpu::gemm::Gemm;
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

impl Backend for Nvidia {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn order(&self) -> Order {
        self.order
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        let (free, _) =
            self.context.mem_get_info().map_err(driver("asking for the free memory"))?;
        // What is left of the block is taken from the driver, but nobody's.
        let left = self.block.borrow().as_ref().map_or(0, Block::left);
        Ok(Some(free as u64 + left))
    }

    fn reserve(&self, bytes: u64) -> Result<()> {
        let mut block = self.block.borrow_mut();
        if block.is_none() && bytes > 0 {
            *block = Some(Block::new(self.take(bytes as usize)?, bytes));
        }
        Ok(())
    }

    fn taken(&self) -> Option<u64> {
        let (free, _) = self.context.mem_get_info().ok()?;
        Some(self.free.saturating_sub(free) as u64)
    }

    fn allocate(&self, floats: usize) -> Result<Address> {
        let bytes = floats.max(1) * size_of::<f32>();
        let place = self.block.borrow_mut().as_mut().and_then(|block| block.take(bytes));
        place.map_or_else(|| self.take(bytes), Ok).map(Address)
    }

    fn free(&self, at: Address) {
        match self.block.borrow_mut().as_mut().is_some_and(|block| block.give(at.0)) {
            true => self.frees.set(self.frees.get() + 1),
            false => self.free_all(at.0),
        }
    }

    fn frees(&self) -> u64 {
        self.frees.get()
    }

    fn upload(&self, from: &[f32], to: Address) -> Result<()> {
        self.upload_now(from, to)
    }

    fn upload_bytes(&self, from: &[u8], to: Address) -> Result<()> {
        self.upload_now(from, to)
    }

    fn download(&self, from: Address, to: &mut [f32]) -> Result<()> {
        self.notes.spoil(COPIED_OUT);
        // SAFETY: `from` has as many floats; the wait below ends the borrow of `to`.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream.cu_stream()) }
            .map_err(driver("copying from the device"))?;
        self.finish()
    }

    fn finish(&self) -> Result<()> {
        self.wait_for_members()?;
        self.stream.synchronize().map_err(driver("what was asked for"))
    }

    fn event(&self) -> Result<Event> {
        self.queues.event()
    }

    fn set(&self, event: Event, queue: Queue) -> Result<()> {
        self.queues.set(event, queue)
    }

    fn follow(&self, queue: Queue, event: Event) -> Result<()> {
        self.queues.follow(queue, event)
    }

    fn passed(&self, event: Event) -> Result<bool> {
        self.queues.passed(event)
    }

    fn wait(&self, event: Event) -> Result<()> {
        // It may stand behind a sum that waits for a member for ever, or before a sum that nobody needs yet.
        if !self.queues.passed(event)? {
            self.wait_for_members()?;
        }
        self.queues.wait(event)
    }

    unsafe fn lock(&self, at: *mut u8, bytes: usize) -> bool {
        let portable = sys::CU_MEMHOSTREGISTER_PORTABLE;
        // SAFETY: the caller's word; the context is current on this thread, which made it.
        unsafe { sys::cuMemHostRegister_v2(at.cast(), bytes, portable) }.result().is_ok()
    }

    fn unlock(&self, at: *mut u8) {
        // SAFETY: locked by `lock`, by the caller's word, and not yet given back.
        let _ = unsafe { sys::cuMemHostUnregister(at.cast()) };
    }

    unsafe fn upload_in(
        &self,
        queue: Queue,
        from: *const u8,
        bytes: usize,
        to: Address,
    ) -> Result<()> {
        self.notes.spoil(COPIED_IN);
        let stream = self.queues.stream(queue).cu_stream();
        // SAFETY: the caller's word; `to` has room for as many.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from.cast(), bytes, stream) }
            .result()
            .map_err(driver("copying to the device"))
    }

    unsafe fn download_in(
        &self,
        queue: Queue,
        from: Address,
        to: *mut f32,
        floats: usize,
    ) -> Result<()> {
        self.notes.spoil(COPIED_OUT);
        let (stream, bytes) = (self.queues.stream(queue).cu_stream(), floats * size_of::<f32>());
        // SAFETY: the caller's word; `from` has as many.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from.0, bytes, stream) }
            .result()
            .map_err(driver("copying from the device"))
    }

    fn note(&self) {
        self.notes.begin();
    }

    fn noted(&self) -> std::result::Result<Vec<Work>, &'static str> {
        self.notes.end()
    }

    fn spoil(&self, why: &'static str) {
        self.notes.spoil(why);
    }

    fn graph(&self, works: &[Work]) -> Result<Box<dyn Graph>> {
        self.capture(works)
    }

    fn copy(&self, from: Address, to: Address, floats: usize) -> Result<()> {
        self.notes.add(|| Work::Copy(from, to, floats));
        let bytes = floats * size_of::<f32>();
        // SAFETY: both are memory of this device, of that length by the caller's word.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream()) }
            .map_err(driver("copying on the device"))
    }

    fn zero(&self, at: Address, floats: usize) -> Result<()> {
        self.notes.add(|| Work::Zero(at, floats));
        let bytes = floats * size_of::<f32>();
        // SAFETY: as in `copy`.
        unsafe { result::memset_d8_async(at.0, 0, bytes, self.stream.cu_stream()) }
            .map_err(driver("clearing memory"))
    }

    fn launch(
        &self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
        blocks: usize,
        args: &[Arg],
    ) -> Result<()> {
        self.notes.add(|| Work::Launch(source, kind, function, blocks, args.to_vec()));
        let kernel = self.kernels.borrow_mut().get(source, kind, function)?;
        let mut words: smallvec::SmallVec<[u64; 20]> = args.iter().map(|arg| arg.word()).collect();
        let mut pointers: smallvec::SmallVec<[*mut c_void; 20]> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let grid = (blocks as u32, 1, 1);
        let block = (BLOCK as u32, 1, 1);
        // SAFETY: the arguments are those that the kernel declares, a small one at the start of its
        // word; their addresses are this device's. The driver copies them before it returns.
        unsafe {
            result::launch_kernel(kernel, grid, block, 0, self.stream.cu_stream(), &mut pointers)
        }
        .map_err(|error| {
            Error::Invalid(format!("{}: kernel {function} failed: {:?}", self.name, error.0))
        })
    }

    fn join(&self, clique: &Arc<Clique>, member: usize) -> Result<()> {
        *self.member.borrow_mut() = Some(Member::join(clique, member, &self.context)?);
        Ok(())
    }

    fn sum_into_first(&self, at: Address, floats: usize) -> Result<()> {
        self.notes.spoil("gradients are added up with other devices in the middle of a pass");
        match &mut *self.member.borrow_mut() {
            Some(member) => member.sum_into_first(at, floats, &self.stream),
            None => crate::bail!("internal: {} has not joined others", self.name),
        }
    }

    fn product(&self, g: Gemm, kinds: [Kind; 2], a: Address, b: Address, c: Address) -> Result<()> {
        self.notes.add(|| Work::Product(g, kinds, [a, b, c]));
        let mut products = self.products.borrow_mut();
        let plan = products.plan(&g, kinds, [a, b, c])?;
        let workspace = self.workspace(plan.workspace())?;
        products.run(&g, plan, [a, b, c], workspace, &self.stream)
    }

    fn settle(&self, wanted: &[Wanted], recorded: &[Record]) -> Result<Settled> {
        self.convolutions.borrow_mut().settle(wanted, recorded)
    }

    fn algorithms(&self) -> Option<Table> {
        self.convolutions.borrow().table()
    }

    fn correlate(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        w: Address,
        y: Address,
    ) -> Result<()> {
        self.note_correlation(Direction::Forward, shape, kind, [x, w, y]);
        let mut convolutions = self.convolutions.borrow_mut();
        let choice = convolutions.choose(shape, kind)?;
        convolutions.forward(choice, [x, w, y], self.workspace(choice.1.bytes)?)
    }

    fn correlate_back(
        &self,
        shape: &Correlation,
        kind: Kind,
        w: Address,
        dy: Address,
        dx: Address,
    ) -> Result<()> {
        self.note_correlation(Direction::Back, shape, kind, [w, dy, dx]);
        let mut convolutions = self.convolutions.borrow_mut();
        let choice = convolutions.choose(shape, kind)?;
        convolutions.back(choice, [w, dy, dx], self.workspace(choice.1.bytes)?)
    }

    fn correlate_weights(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        dy: Address,
        dw: Address,
    ) -> Result<()> {
        self.note_correlation(Direction::Weights, shape, kind, [x, dy, dw]);
        let mut convolutions = self.convolutions.borrow_mut();
        let choice = convolutions.choose(shape, kind)?;
        let bytes = choice.1.bytes;
        let turns = shape.turns_weights();
        if kind == Kind::F32 && !turns {
            return convolutions.weights(choice, [x, dy, dw], self.workspace(bytes)?, true);
        }
        // cuDNN's gradient has the factors' kind and order: into working memory, behind the algorithm's own.
        let own = bytes.next_multiple_of(ALIGNED);
        let weights = shape.weights();
        let workspace = self.workspace(own + weights * kind.bytes())?;
        let scratch = Address(workspace as u64 + own as u64);
        convolutions.weights(choice, [x, dy, scratch], workspace, false)?;
        let works = self.notes.pause();
        let added = match turns {
            true => add_to_plain(self, &shape.weights_shape(), (kind, scratch), dw),
            false => add_to_f32(self, (kind, scratch), dw, weights),
        };
        self.notes.go_on(works);
        added
    }
}
