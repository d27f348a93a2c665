//! What a GPU does for the engine, as [`Backend`] has it.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::nccl::Member;
use super::{ALIGNED, Block, Nvidia, driver};
use crate::device::cpu::gemm::Gemm;
use crate::device::cuda::algorithms::{Direction, Record, Settled, Table, Wanted};
use crate::device::cuda::backend::{Address, Arg, Backend, Correlation, Event, Queue};
use crate::device::cuda::clique::Clique;
use crate::device::cuda::order::add_to_plain;
use crate::device::cuda::source::{BLOCK, Source};
use crate::device::cuda::work::{COPIED_IN, COPIED_OUT, Graph, Work};
use crate::device::cuda::{Kind, Order, add_to_f32};
use crate::{Error, Result};

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
