//! Parts of a blob along an axis: the copies of Concat and Slice.
//!
//! In plain order a part is contiguous within one index of the axes before. Along the channels of
//! blocked images it is one, too, where it starts on a block; other parts are copied pixel by pixel.

use super::dims::first_blocked;
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::cpu::channels::{self, Images};
use crate::device::cpu::threads::Threads;
use crate::device::cuda::backend::Address;
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;
use crate::device::cuda::{CudaRun, Order};

/// How a blob is cut.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Extents along the axis, and their sum.
    extents: Vec<usize>,
    whole: usize,
    /// Elements at one index of the axis and the axes before.
    inner: usize,
    /// Indices of the axes before.
    outer: usize,
    /// `outer` and `inner` on a device where the channels are last.
    last: [usize; 2],
    /// Whether the axis is the channel axis of images.
    of_images: bool,
}

impl Parts {
    /// Blobs of these shapes, one behind the other along `axis`.
    pub fn new(axis: usize, shapes: &[Shape]) -> Parts {
        let extents: Vec<usize> = shapes.iter().map(|s| s[axis]).collect();
        let (extents_last, place) = (
            Order::ChannelsLast.extents(&shapes[0]),
            Order::ChannelsLast.place(axis, shapes[0].axes()),
        );
        Parts {
            last: [extents_last.count_to(place), extents_last.count_from(place + 1)],
            whole: extents.iter().sum(),
            extents,
            inner: shapes[0].count_from(axis + 1),
            outer: shapes[0].count_to(axis),
            of_images: axis == 1 && shapes[0].axes() == 4,
        }
    }

    /// The layout to work in when the blobs to be read are in these: a blocked one, if one of them
    /// is and the parts are channels.
    pub fn layout(&self, there: impl IntoIterator<Item = Layout>) -> Layout {
        if self.of_images { first_blocked(there) } else { Layout::Plain }
    }

    /// A plain blob is a batch of images whose channels are the axis.
    fn images(&self, layout: Layout) -> Images {
        Images { n: self.outer, pixels: self.inner, layout }
    }

    fn first(&self, i: usize) -> usize {
        self.extents[..i].iter().sum()
    }

    /// Part `i` of the whole ← source. Parts come in order.
    pub fn place(
        &self,
        threads: Threads,
        layout: Layout,
        i: usize,
        source: &[f32],
        whole: &mut [f32],
    ) {
        let (part, whole) = ((source, self.extents[i]), (whole, self.whole));
        channels::place(threads, self.images(layout), part, whole, self.first(i));
    }

    /// part ← part `i` of the whole.
    pub fn cut(&self, threads: Threads, layout: Layout, i: usize, whole: &[f32], part: &mut [f32]) {
        let (whole, part) = ((whole, self.whole), (part, self.extents[i]));
        channels::slice(threads, self.images(layout), whole, part, self.first(i));
    }
}

/// Kernels of Concat and Slice.
pub static KERNELS: Source = Source {
    name: "parts",
    text: r#"
// Rows of `row` elements of a part, which lie at `offset` in rows of `whole_row` of the whole.
template <int W>
static __device__ __forceinline__ void copy_rows(int64 n, const real* from, real* to, Divisor row,
                                                 int64 whole_row, int64 offset, bool place) {
  KERNEL_LOOP(p, n / W) {
    int64 i = p * W, at = over(i, row) * whole_row + offset + rest(i, row);
    put(to, place ? at : i, pack<W>(from, place ? i : at));
  }
}
static __device__ __forceinline__ void copy_part(int64 n, const real* from, real* to, Divisor row,
                                                 int64 whole_row, int64 offset, bool place) {
  if (packed(from, to) && (NUMBER(row) | whole_row | offset) % PACK == 0)
    copy_rows<PACK>(n, from, to, row, whole_row, offset, place);
  else
    copy_rows<1>(n, from, to, row, whole_row, offset, place);
}

extern "C" __global__ void place_part(int64 n, const real* part, real* whole, Divisor row,
                                      int64 whole_row, int64 offset) {
  copy_part(n, part, whole, row, whole_row, offset, true);
}

extern "C" __global__ void cut_part(int64 n, const real* whole, real* part, Divisor row,
                                    int64 whole_row, int64 offset) {
  copy_part(n, whole, part, row, whole_row, offset, false);
}
"#,
    functions: &["place_part", "cut_part"],
};

/// On a CUDA device.
impl Parts {
    /// The part into its place in the whole.
    ///
    /// # Errors
    /// A device that failed.
    pub fn place_on(
        &self,
        (cuda, order): (&CudaRun, Order),
        i: usize,
        part: Address,
        whole: Address,
    ) -> Result<()> {
        self.copy_on((cuda, order), "place_part", i, part, whole)
    }

    /// The part out of its place in the whole.
    ///
    /// # Errors
    /// A device that failed.
    pub fn cut_on(
        &self,
        (cuda, order): (&CudaRun, Order),
        i: usize,
        whole: Address,
        part: Address,
    ) -> Result<()> {
        self.copy_on((cuda, order), "cut_part", i, whole, part)
    }

    fn copy_on(
        &self,
        (cuda, order): (&CudaRun, Order),
        function: &'static str,
        i: usize,
        from: Address,
        to: Address,
    ) -> Result<()> {
        let [outer, inner] = match order {
            Order::Plain => [self.outer, self.inner],
            Order::ChannelsLast => self.last,
        };
        let row = self.extents[i] * inner;
        let offset = self.extents[..i].iter().sum::<usize>() * inner;
        let whole = self.whole * inner;
        let args = [from.into(), to.into(), Divisor::new(row).into(), whole.into(), offset.into()];
        cuda.packs(&KERNELS, function, outer * row, &args)
    }
}
