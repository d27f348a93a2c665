//! [`Order`]: how the axes of a blob lie in device memory; [`Form`]: that and the kind of its numbers; and
//! the kernels that change a blob from one form to another in one pass.
//!
//! Only blobs with channels (axis 1) and something behind them have two orders. Where there is one channel,
//! or one place for each, both are the same memory: nothing is converted.
//!
//! ```
//! use caffe::blob::Shape;
//! use caffe::device::cuda::{Form, Kind, Order};
//!
//! let last = Form { kind: Kind::F32, order: Order::ChannelsLast };
//! assert_eq!(last.of(&Shape::from([8, 3, 5, 5])), last);
//! assert_eq!(last.of(&Shape::from([8, 100, 1, 1])), Form::of_kind(Kind::F32));
//! ```

use serde::{Deserialize, Serialize};

use super::backend::{Address, Arg, Backend};
use super::divisor::Divisor;
use super::kind::Kind;
use super::run::{convert, launch, over};
use super::source::Source;
use crate::Result;
use crate::blob::Shape;

/// Which axis of a blob is the fastest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Order {
    /// The last one: images are (N, C, H, W).
    #[default]
    Plain,
    /// Axis 1, behind the others: images are (N, H, W, C).
    ChannelsLast,
}

impl Order {
    /// The order of memory that a blob of this shape has in this order: plain where both are the same.
    pub fn of(self, shape: &Shape) -> Order {
        let [_, channels, pixels] = sizes(shape);
        if channels == 1 || pixels == 1 { Order::Plain } else { self }
    }

    /// The name that users of cuDNN know it by.
    pub fn name(self) -> &'static str {
        match self {
            Order::Plain => "nchw",
            Order::ChannelsLast => "nhwc",
        }
    }

    /// The extents of a shape from the slowest axis to the fastest.
    pub fn extents(self, shape: &Shape) -> Shape {
        match (self, shape.dims()) {
            (Order::ChannelsLast, [images, channels, behind @ ..]) => {
                Shape::new([&[*images], behind, &[*channels]].concat())
            }
            _ => shape.clone(),
        }
    }

    /// Where axis `axis` of a shape of so many axes stands among those extents.
    pub fn place(self, axis: usize, axes: usize) -> usize {
        match (self, axis) {
            (Order::Plain, _) | (_, 0) => axis,
            (Order::ChannelsLast, 1) => axes - 1,
            (Order::ChannelsLast, _) => axis - 1,
        }
    }
}

/// What a blob is in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// What its numbers are.
    pub kind: Kind,
    /// How they lie.
    pub order: Order,
}

impl Form {
    /// Numbers of this kind in plain order.
    pub const fn of_kind(kind: Kind) -> Form {
        Form { kind, order: Order::Plain }
    }

    /// The form of memory that a blob of this shape has in this form.
    pub fn of(self, shape: &Shape) -> Form {
        Form { order: self.order.of(shape), ..self }
    }
}

/// Images, channels and places of each channel in an image.
fn sizes(shape: &Shape) -> [usize; 3] {
    match shape.dims() {
        [images, channels, behind @ ..] => [*images, *channels, behind.iter().product()],
        _ => [shape.count(), 1, 1],
    }
}

/// Rows and columns of the tiles that go through shared memory.
const TILE: usize = 32;
/// Fewest rows and columns of which that is worth while; fewer are picked out of lines that the cache holds.
const NARROW: usize = 16;

/// Between the orders, and perhaps the kinds: x is images of rows × columns, y is images of columns × rows.
pub static KERNELS: Source = Source {
    name: "order",
    text: r#"
#define TILE 32

// A block a tile: both sides are read and written along their rows.
template <typename From, typename To>
static __device__ __forceinline__ void turn_tiles(int64 n, const From* x, To* y, Divisor tiles,
                                                  Divisor across, int rows, int columns) {
  __shared__ float tile[TILE * (TILE + 1)];
  int lane = threadIdx.x % TILE, line = threadIdx.x / TILE;
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    uint32 image = over(b, tiles), t = rest(b, tiles), down = over(t, across);
    int row = TILE * down, column = TILE * (t - down * NUMBER(across));
    int64 first = (int64)image * rows * columns;
    for (int k = line; k < TILE; k += BLOCK / TILE)
      if (row + k < rows && column + lane < columns)
        tile[k * (TILE + 1) + lane] = x[first + (int64)(row + k) * columns + column + lane];
    __syncthreads();
    for (int k = line; k < TILE; k += BLOCK / TILE)
      if (column + k < columns && row + lane < rows)
        y[first + (int64)(column + k) * rows + row + lane] = tile[lane * (TILE + 1) + k];
    __syncthreads();
  }
}
extern "C" __global__ void turn(int64 n, const real* x, real* y, Divisor tiles, Divisor across,
                                int rows, int columns) {
  turn_tiles(n, x, y, tiles, across, rows, columns);
}
extern "C" __global__ void turn_to_real(int64 n, const float* x, real* y, Divisor tiles,
                                        Divisor across, int rows, int columns) {
  turn_tiles(n, x, y, tiles, across, rows, columns);
}
extern "C" __global__ void turn_to_float(int64 n, const real* x, float* y, Divisor tiles,
                                         Divisor across, int rows, int columns) {
  turn_tiles(n, x, y, tiles, across, rows, columns);
}

// Where the element of x lies that is element i of y.
static __device__ __forceinline__ uint32 turned(uint32 i, Divisor rows, Divisor columns) {
  uint32 line = over(i, rows), image = over(line, columns);
  return (image * NUMBER(rows) + (i - line * NUMBER(rows))) * NUMBER(columns) +
         (line - image * NUMBER(columns));
}
extern "C" __global__ void pick(int64 n, const real* x, real* y, Divisor rows, Divisor columns) {
  KERNEL_LOOP(i, n) { y[i] = (float)x[turned(i, rows, columns)]; }
}
extern "C" __global__ void pick_to_real(int64 n, const float* x, real* y, Divisor rows,
                                        Divisor columns) {
  KERNEL_LOOP(i, n) { y[i] = x[turned(i, rows, columns)]; }
}
extern "C" __global__ void pick_to_float(int64 n, const real* x, float* y, Divisor rows,
                                         Divisor columns) {
  KERNEL_LOOP(i, n) { y[i] = x[turned(i, rows, columns)]; }
}

extern "C" __global__ void add_turned(int64 n, const real* x, float* y, Divisor rows,
                                      Divisor columns) {
  KERNEL_LOOP(i, n) { y[i] += x[turned(i, rows, columns)]; }
}
"#,
    functions: &[
        "turn",
        "turn_to_real",
        "turn_to_float",
        "pick",
        "pick_to_real",
        "pick_to_float",
        "add_turned",
    ],
};

/// to ← from, a blob of this shape. The kinds are f32 and `device.kind()`; the forms are those of the
/// shape ([`Form::of`]), and differ.
///
/// # Errors
/// A device that failed.
pub fn change(
    device: &dyn Backend,
    shape: &Shape,
    from: (Form, Address),
    to: (Form, Address),
) -> Result<()> {
    let n = shape.count();
    if from.0.order == to.0.order {
        return convert(device, (from.0.kind, from.1), to.1, n);
    }
    let [images, channels, pixels] = sizes(shape);
    let [rows, columns] = match to.0.order {
        Order::ChannelsLast => [channels, pixels],
        Order::Plain => [pixels, channels],
    };
    let tiles = rows.min(columns) >= NARROW;
    let (kind, function) = match (from.0.kind, to.0.kind) {
        (a, b) if a == b => (a, if tiles { "turn" } else { "pick" }),
        (Kind::F32, kind) => (kind, if tiles { "turn_to_real" } else { "pick_to_real" }),
        (kind, _) => (kind, if tiles { "turn_to_float" } else { "pick_to_float" }),
    };
    let [x, y] = [from.1, to.1].map(Arg::from);
    if !tiles {
        let [rows, columns] = [rows, columns].map(|extent| Divisor::new(extent).into());
        return over(device, &KERNELS, kind, function, n, &[x, y, rows, columns]);
    }
    let [down, across] = [rows, columns].map(|extent| extent.div_ceil(TILE));
    let blocks = images * down * across;
    if blocks == 0 {
        return Ok(());
    }
    let [tiles, across] = [down * across, across].map(|extent| Divisor::new(extent).into());
    let [rows, columns] = [rows, columns].map(|extent| Arg::Int(extent as i32));
    let args = [x, y, tiles, across, rows, columns];
    launch(device, &KERNELS, kind, (function, blocks), blocks, &args)
}

/// to ← to + from, where `from` is a blob of this shape in channels last and of this kind, and `to` is plain
/// and f32.
///
/// # Errors
/// A device that failed.
pub fn add_to_plain(
    device: &dyn Backend,
    shape: &Shape,
    (kind, from): (Kind, Address),
    to: Address,
) -> Result<()> {
    let [_, channels, pixels] = sizes(shape);
    let [rows, columns] = [pixels, channels].map(|extent| Divisor::new(extent).into());
    let args = [from.into(), to.into(), rows, columns];
    over(device, &KERNELS, kind, "add_turned", shape.count(), &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_stand_behind_the_others() {
        let shape = Shape::from([2, 3, 4, 5]);
        assert_eq!(Order::ChannelsLast.extents(&shape), Shape::from([2, 4, 5, 3]));
        assert_eq!([0, 1, 2, 3].map(|axis| Order::ChannelsLast.place(axis, 4)), [0, 3, 1, 2]);
        assert_eq!(Order::Plain.extents(&shape), shape);
        for same in [vec![2, 1, 4, 5], vec![2, 3, 1, 1], vec![2, 3], vec![7], vec![]] {
            assert_eq!(Order::ChannelsLast.of(&Shape::new(same)), Order::Plain);
        }
        assert_eq!(Order::ChannelsLast.of(&Shape::from([2, 3, 4])), Order::ChannelsLast);
    }
}
