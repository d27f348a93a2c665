//! A convolution from its descriptions: any strides, one to three axes in space, groups, dilation.

use cudarc::driver::sys::CUresult;

use crate::memory::Memory;
use crate::numbers::{Kind, tf32};
use crate::places::fill;
use crate::world::Fault;

/// An array of any number of axes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub kind: Kind,
    pub sizes: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Tensor {
    /// One without gaps, its last axis the fastest.
    pub fn packed(kind: Kind, sizes: Vec<usize>) -> Tensor {
        let mut strides = vec![1; sizes.len()];
        for i in (1..sizes.len()).rev() {
            strides[i - 1] = strides[i] * sizes[i];
        }
        Tensor { kind, sizes, strides }
    }

    /// One without gaps, its channels (axis 1) the fastest, then the axes in space.
    pub fn channels_last(kind: Kind, sizes: Vec<usize>) -> Tensor {
        let moved = [&sizes[..1], &sizes[2..], &sizes[1..2]].concat();
        let mut strides = Tensor::packed(kind, moved).strides;
        if let Some(last) = strides.pop() {
            strides.insert(1, last);
        }
        Tensor { kind, sizes, strides }
    }

    /// Bytes from the first element to the last.
    pub fn bytes(&self) -> usize {
        let steps = self.sizes.iter().zip(&self.strides);
        let last: usize = steps.map(|(size, stride)| (size.max(&1) - 1) * stride).sum();
        if self.sizes.contains(&0) { 0 } else { (last + 1) * self.kind.bytes() }
    }

    fn count(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Index in memory of the element that is the i-th in plain order.
    fn index(&self, mut i: usize) -> usize {
        let mut index = 0;
        for (size, stride) in self.sizes.iter().zip(&self.strides).rev() {
            (index, i) = (index + i % size * stride, i / size);
        }
        index
    }

    fn read(&self, at: u64, round: bool) -> Result<Vec<f32>, Fault> {
        let value = |i| {
            let value = self.kind.read(at, self.index(i))?;
            Ok(if round { tf32(value) } else { value })
        };
        (0..self.count()).map(value).collect()
    }
}

/// Windows: for each axis in space pad, stride, dilation; groups; whether kernels are mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    pub pads: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub groups: usize,
    pub mirrored: bool,
    /// The number of `cudnnMathType_t`.
    pub math: i32,
}

impl Windows {
    /// Sizes of y, or what does not fit.
    pub fn output(&self, x: &Tensor, w: &Tensor) -> Result<Vec<usize>, String> {
        let axes = self.pads.len();
        if x.sizes.len() != axes + 2 || w.sizes.len() != axes + 2 {
            return Err(format!("{axes} axes for {:?} and {:?}", x.sizes, w.sizes));
        }
        if w.sizes[1] * self.groups != x.sizes[1] || !w.sizes[0].is_multiple_of(self.groups) {
            let why = format!("{} groups of {:?} for {:?}", self.groups, w.sizes, x.sizes);
            return Err(why);
        }
        let mut y = vec![x.sizes[0], w.sizes[0]];
        for axis in 0..axes {
            let kernel = (w.sizes[axis + 2] - 1) * self.dilations[axis] + 1;
            let image = x.sizes[axis + 2] + 2 * self.pads[axis];
            let room = image.checked_sub(kernel).ok_or("a kernel larger than its image")?;
            y.push(room / self.strides[axis] + 1);
        }
        Ok(y)
    }
}

/// What is computed: y from x and w, dx from w and dy, dw from x and dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Data,
    Filter,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Convolution {
    pub direction: Direction,
    pub windows: Windows,
    /// x, w, y or their gradients.
    pub tensors: [Tensor; 3],
    pub at: [u64; 3],
    pub alpha: f32,
    pub beta: f32,
    pub workspace: (u64, usize),
}

impl Convolution {
    /// Which of the three is the result.
    fn result(&self) -> usize {
        match self.direction {
            Direction::Forward => 2,
            Direction::Data => 0,
            Direction::Filter => 1,
        }
    }

    /// Whether all of it lies in memory, and the workspace on nothing else.
    pub fn check(&self, memory: &Memory) -> Result<(), Fault> {
        let (at, bytes) = self.workspace;
        if bytes > 0 {
            memory.check(at, bytes)?;
        }
        for ((tensor, place), name) in self.tensors.iter().zip(self.at).zip(["x", "w", "y"]) {
            let size = tensor.bytes();
            memory
                .check(place, size)
                .map_err(|fault| Fault { why: format!("{name}: {}", fault.why), ..fault })?;
            if bytes > 0 && at < place + size as u64 && place < at + bytes as u64 {
                let why = format!("the workspace lies on {name}");
                return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why));
            }
        }
        Ok(())
    }

    /// Computes it.
    pub fn run(&self, memory: &Memory) -> Result<(), Fault> {
        self.check(memory)?;
        if self.workspace.1 > 0 {
            // Working memory holds nothing for whoever comes next.
            fill(self.workspace.0, 0xff, self.workspace.1);
        }
        let result = self.result();
        // Factors are rounded where tensor cores may be used for 32 bits.
        let round = self.windows.math != 3;
        let mut values: [Vec<f32>; 3] = Default::default();
        for (i, values) in values.iter_mut().enumerate().filter(|(i, _)| *i != result) {
            let tensor = &self.tensors[i];
            *values = tensor.read(self.at[i], round && tensor.kind == Kind::Float)?;
        }
        let [x, w, y] = &values;
        let mut sums = vec![0.0f64; self.tensors[result].count()];
        let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
        match self.direction {
            Direction::Forward => self.each(|i, j, k| sums[k] += product(x[i], w[j])),
            Direction::Data => self.each(|i, j, k| sums[i] += product(w[j], y[k])),
            Direction::Filter => self.each(|i, j, k| sums[j] += product(x[i], y[k])),
        }
        self.store(&sums)?;
        memory.intact(self.at[result])
    }

    fn store(&self, sums: &[f64]) -> Result<(), Fault> {
        let (tensor, at) = (&self.tensors[self.result()], self.at[self.result()]);
        for (i, sum) in sums.iter().enumerate() {
            let mut value = f64::from(self.alpha) * sum;
            if self.beta != 0.0 {
                value += f64::from(self.beta) * f64::from(tensor.kind.read(at, tensor.index(i))?);
            }
            tensor.kind.write(at, tensor.index(i), value as f32)?;
        }
        Ok(())
    }

    /// Calls `f` with the places in x, w and y, in plain order, of every product of the definition.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [x, w, y] = &self.tensors;
        let space = |tensor: &Tensor| tensor.sizes[2..].iter().product::<usize>();
        let (image, kernel, positions) = (space(x), space(w), space(y));
        let taps = self.taps(kernel, positions);
        let (inputs, outputs) = (w.sizes[1], w.sizes[0] / self.windows.groups);
        for n in 0..x.sizes[0] {
            for o in 0..w.sizes[0] {
                let y_plane = (n * w.sizes[0] + o) * positions;
                for c in 0..inputs {
                    let x_plane = (n * x.sizes[1] + o / outputs * inputs + c) * image;
                    let w_plane = (o * inputs + c) * kernel;
                    for (i, j, k) in &taps {
                        f(x_plane + i, w_plane + j, y_plane + k);
                    }
                }
            }
        }
    }

    /// Of one plane: the image element, the kernel element and the position of every product.
    fn taps(&self, kernel: usize, positions: usize) -> Vec<(usize, usize, usize)> {
        let under = |position: usize, element: usize| {
            let (mut position, mut element) = (position, element);
            let (mut index, mut scale) = (0, 1);
            for axis in (0..self.windows.pads.len()).rev() {
                let [image, size, count] =
                    [0, 1, 2].map(|tensor: usize| self.tensors[tensor].sizes[axis + 2]);
                let at = position % count * self.windows.strides[axis];
                let at = at + element % size * self.windows.dilations[axis];
                let at = at.checked_sub(self.windows.pads[axis]).filter(|at| *at < image)?;
                index += at * scale;
                (position, element, scale) = (position / count, element / size, scale * image);
            }
            Some(index)
        };
        let mut taps = Vec::new();
        for position in 0..positions {
            for element in 0..kernel {
                if let Some(index) = under(position, element) {
                    let stored = if self.windows.mirrored { kernel - 1 - element } else { element };
                    taps.push((index, stored, position));
                }
            }
        }
        taps
    }
}
