//! Weights between Caffe's order and the formats of the kernels.

use super::super::context::Context;
use super::super::error::{Result, check_len};
use super::super::primitive::{Md, PostOp, md_len};
use super::super::reorder::Reorder;
use super::config::ConvConfig;
use crate::device::cpu::aligned::AlignedBuf;

/// Rows of plain weights and the same rows with padding channels.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    count: usize,
    len: usize,
    padded_count: usize,
    padded_len: usize,
}

impl Rows {
    pub(super) fn new(config: &ConvConfig, padded: &ConvConfig) -> Self {
        let (count, len) = (config.oc, config.row_len());
        Self { count, len, padded_count: padded.oc, padded_len: padded.row_len() }
    }

    fn is_padded(self) -> bool {
        self.count != self.padded_count || self.len != self.padded_len
    }

    fn check(self, argument: &'static str, found: usize) -> Result<()> {
        check_len(argument, found, self.count * self.len, || "a convolution".to_owned())
    }

    /// Elements of a plain buffer with padding channels; 0 where there are none.
    fn staged_len(self) -> usize {
        if self.is_padded() { self.padded_count * self.padded_len } else { 0 }
    }
}

/// Weights in the format of one kernel.
pub(super) struct Packed {
    reorder: Reorder,
    rows: Rows,
    pub(super) values: AlignedBuf,
}

impl Packed {
    pub(super) fn new(cx: &Context, rows: Rows, plain: &Md, packed: &Md) -> Result<Self> {
        let reorder = Reorder::new(cx, plain, packed, PostOp::None)?;
        Ok(Self { reorder, rows, values: AlignedBuf::zeroed(md_len(cx, packed)) })
    }

    /// Takes weights in Caffe's order.
    pub(super) fn pack(&mut self, cx: &Context, weights: &[f32]) -> Result<()> {
        let rows = self.rows;
        rows.check("weights", weights.len())?;
        if !rows.is_padded() {
            return self.reorder.run(weights, &mut self.values);
        }
        let mut staging = cx.staging();
        let len = rows.staged_len();
        staging.reserve(len);
        staging[..len].fill(0.0);
        let padded = staging[..len].chunks_mut(rows.padded_len);
        for (to, from) in padded.zip(weights.chunks(rows.len)) {
            to[..rows.len].copy_from_slice(from);
        }
        self.reorder.run(&staging[..len], &mut self.values)
    }
}

/// The gradient of weights on its way from a kernel's format to Caffe's order.
pub(super) struct Unpack {
    reorder: Reorder,
    rows: Rows,
    packed_len: usize,
}

impl Unpack {
    pub(super) fn new(cx: &Context, rows: Rows, packed: &Md, plain: &Md) -> Result<Self> {
        // Padded rows go through a plain copy, and only its addition accumulates.
        let post_op = if rows.is_padded() { PostOp::None } else { PostOp::Accumulate };
        let reorder = Reorder::new(cx, packed, plain, post_op)?;
        let packed_len = md_len(cx, packed);
        cx.staging().reserve(packed_len.next_multiple_of(16) + rows.staged_len());
        Ok(Self { reorder, rows, packed_len })
    }

    /// Lets `fill` write the packed gradient to a buffer, then adds it to `gradient`.
    pub(super) fn add(
        &self,
        cx: &Context,
        gradient: &mut [f32],
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let rows = self.rows;
        rows.check("weight gradient", gradient.len())?;
        let mut staging = cx.staging();
        let (packed, rest) = staging.split_at_mut(self.packed_len.next_multiple_of(16));
        let packed = &mut packed[..self.packed_len];
        fill(packed)?;
        if !rows.is_padded() {
            return self.reorder.run_from_own(packed, gradient);
        }
        let plain = &mut rest[..rows.staged_len()];
        self.reorder.run_from_own(packed, plain)?;
        for (to, from) in gradient.chunks_mut(rows.len).zip(plain.chunks(rows.padded_len)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        Ok(())
    }
}
