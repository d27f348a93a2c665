//! The layers. One layer is one file (or folder): formula and prototxt example, struct,
//! `impl Layer`, [`LayerDef`], tests.
//!
//! A layer is built from its prototxt and the shapes of its bottoms, declares its parameters, says
//! the shapes of its tops, and then computes on whatever device and in whatever layout [`Io`] and
//! [`Run`] offer. It never sees the net, the solver or another layer. Adding a layer: its own file
//! and one line in [`LAYERS`].

mod abs_val;
mod accuracy;
mod arg_max;
mod batch_norm;
mod batch_reindex;
mod bias;
mod bnll;
mod chosen;
mod clip;
mod concat;
mod contrastive_loss;
mod convolution;
mod crop;
mod cuda;
mod data;
pub mod dims;
mod dropout;
mod dummy_data;
pub mod elementwise;
mod eltwise;
mod elu;
mod embed;
mod euclidean_loss;
mod exp;
mod filter;
mod flatten;
mod hdf5_data;
mod hdf5_output;
mod hinge_loss;
mod im2col;
mod image_data;
mod infogain_loss;
mod inner_product;
mod input;
mod io;
mod log;
mod loss;
mod lrn;
mod memory_data;
mod multinomial_logistic_loss;
mod mvn;
mod parameter;
mod parts;
mod per_channel;
mod pooling;
mod power;
mod prelu;
mod python;
mod recurrent;
mod reduction;
mod registry;
mod relu;
mod reshape;
mod scale;
mod sigmoid;
mod sigmoid_cross_entropy_loss;
mod silence;
mod slice;
mod softmax;
mod softmax_loss;
mod split;
mod spp;
mod swish;
mod tanh;
#[cfg(test)]
pub(crate) mod testing;
mod threshold;
mod tile;
mod window_data;

pub(crate) use convolution::geometry::settings as convolution_settings;
pub use cuda::{Behind, CudaLayer, DeviceIo, Reals, Which};
pub use io::Io;
pub(crate) use pooling::Kernel;
pub use registry::{LAYERS, by_type_name};

use caffe_proto::{LayerParameter, Phase};

use crate::Result;
use crate::blob::Shape;
use crate::data::Batch;
use crate::device::Run;
use crate::device::cuda::source::Source;
use crate::params::ParamDef;

/// What a layer may know of its surroundings when it is built.
pub struct Setup<'a> {
    /// The layer's own prototxt.
    pub param: &'a LayerParameter,
    /// Phase of the net.
    pub phase: Phase,
    /// Number of the layer in the net; keys its random numbers.
    pub index: usize,
    /// Seed of the job; keys all random numbers together with `index`.
    pub seed: u64,
    /// Number of tops in the prototxt.
    pub tops: usize,
    /// The net is to tell what it needs, and leaves nothing behind: no files.
    pub blank: bool,
}

/// A layer of a net on one device.
pub trait Layer {
    /// The parameter blobs, in Caffe's order. Asked once, after construction.
    fn params(&self) -> Vec<ParamDef> {
        Vec::new()
    }

    /// Shapes of the tops for these bottoms. Called at setup and whenever a bottom's shape changes;
    /// prepares everything that depends on shapes, so that the passes allocate nothing.
    ///
    /// # Errors
    /// When the bottoms do not fit; the message names both shapes.
    fn reshape(&mut self, run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>>;

    /// Shapes of the tops of the coming forward pass, for layers whose tops depend on the *values*
    /// of their bottoms (Filter); `None` for all others: `reshape` has said it. Asked before each
    /// forward pass; where an answer is new, the layers behind are reshaped before they run.
    ///
    /// # Errors
    /// Bad values in the data.
    fn top_shapes(&mut self, _io: &Io<'_>) -> Result<Option<Vec<Shape>>> {
        Ok(None)
    }

    /// Computes the tops from the bottoms.
    ///
    /// # Errors
    /// Bad values in the data (a label out of range), or a device that failed.
    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()>;

    /// Overwrites the diffs of those bottoms that [`Io::propagate_down`] names, and adds to the
    /// diffs of those parameters that [`Io::param_needs_diff`] names.
    ///
    /// # Errors
    /// As `forward`, or when the layer has no backward pass for what is asked.
    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()>;

    /// Its code for a CUDA device; `None` when it has none.
    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        None
    }

    /// Layers that read records take their next batch here (contents are swapped, not copied where
    /// the memory allows); others ignore it.
    fn feed(&mut self, _batch: &mut Batch) {}

    /// The batch it was fed last, if it is a layer that reads records.
    fn fed(&self) -> Option<&Batch> {
        None
    }

    /// After a pass on a device that has met something it cannot use, such as a label that is no class: says
    /// what, if it was this layer.
    ///
    /// # Errors
    /// When it was.
    fn explain(&mut self, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    /// A batch of zeros as it expects its batches, if it is a layer that reads records.
    fn blank(&self) -> Option<Batch> {
        None
    }

    /// Tells a convolution that the in-place ReLU behind it is its own work from now on. Returns
    /// whether it took the offer; the ReLU then only works backward.
    fn fuse_relu(&mut self) -> bool {
        false
    }

    /// Names of the compiled kernels it runs, by direction; empty where it runs loops of its own.
    /// Known after the first forward pass.
    fn kernels(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Tells a ReLU that the layer before it has taken its forward pass.
    fn set_fused(&mut self) {}
}

/// How many bottoms or tops a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Exactly so many.
    Exactly(usize),
    /// At least the first, at most the second.
    Between(usize, usize),
    /// So many or more.
    AtLeast(usize),
    /// As many tops as bottoms, at least one.
    SameAsBottoms,
}

impl Count {
    /// Whether `n` blobs will do, for a layer with `bottoms` bottoms.
    pub fn allows(self, n: usize, bottoms: usize) -> bool {
        match self {
            Count::Exactly(k) => n == k,
            Count::Between(low, high) => (low..=high).contains(&n),
            Count::AtLeast(k) => n >= k,
            Count::SameAsBottoms => n == bottoms && n > 0,
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Count::Exactly(k) => write!(f, "{k}"),
            Count::Between(low, high) => write!(f, "{low} to {high}"),
            Count::AtLeast(k) => write!(f, "at least {k}"),
            Count::SameAsBottoms => write!(f, "as many as bottoms"),
        }
    }
}

/// What the bottoms and tops of a layer share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// Nothing.
    None,
    /// All tops are the bottom's values, each with a gradient of its own (`Split`).
    Values,
    /// The top is the bottom in another shape, values and gradient (`Flatten`, `Reshape`).
    Both,
}

/// Which bottoms can get a gradient; labels, indices and selectors cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differentiable {
    /// Every one.
    All,
    /// The first so many.
    First(usize),
    /// All but the one of this number.
    AllBut(usize),
    /// All but the last one.
    AllButLast,
}

impl Differentiable {
    /// Whether bottom number `bottom` of `bottoms` can.
    pub fn contains(self, bottom: usize, bottoms: usize) -> bool {
        match self {
            Differentiable::All => true,
            Differentiable::First(n) => bottom < n,
            Differentiable::AllBut(other) => bottom != other,
            Differentiable::AllButLast => bottom + 1 != bottoms,
        }
    }
}

/// Builds a layer.
pub type Build = fn(&Setup<'_>, &[Shape]) -> Result<Box<dyn Layer>>;

/// What the net, `caffe layers` and the docs know about a layer type.
pub struct LayerDef {
    /// Caffe's type name.
    pub type_name: &'static str,
    /// One line: what it computes.
    pub doc: &'static str,
    /// Bottoms it takes.
    pub bottoms: Count,
    /// Tops it makes.
    pub tops: Count,
    /// May write its first top over its first bottom (same name in the prototxt).
    pub in_place: bool,
    /// Memory that tops and bottoms share.
    pub alias: Alias,
    /// A loss: loss_weight 1 on the first top unless the prototxt says otherwise, tops may be left
    /// out of the prototxt.
    pub is_loss: bool,
    /// Bottoms that can get a gradient.
    pub differentiable: Differentiable,
    /// Constructor.
    pub build: Build,
    /// Text of its CUDA kernels.
    pub kernels: &'static [&'static Source],
}

impl LayerDef {
    /// A definition with the commonest answers: one bottom, one top, a gradient for every bottom.
    pub const fn new(type_name: &'static str, doc: &'static str, build: Build) -> Self {
        LayerDef {
            type_name,
            doc,
            bottoms: Count::Exactly(1),
            tops: Count::Exactly(1),
            in_place: false,
            alias: Alias::None,
            is_loss: false,
            differentiable: Differentiable::All,
            build,
            kernels: &[],
        }
    }

    /// With these CUDA kernels.
    pub const fn kernels(mut self, kernels: &'static [&'static Source]) -> Self {
        self.kernels = kernels;
        self
    }

    /// With these numbers of bottoms and tops.
    pub const fn counts(mut self, bottoms: Count, tops: Count) -> Self {
        self.bottoms = bottoms;
        self.tops = tops;
        self
    }

    /// May work in place.
    pub const fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    /// With tops that share memory with the bottom.
    pub const fn aliasing(mut self, alias: Alias) -> Self {
        self.alias = alias;
        self
    }

    /// A loss on bottoms 0..`gradient_bottoms`.
    pub const fn loss(mut self, gradient_bottoms: usize) -> Self {
        self.is_loss = true;
        self.gradient_bottoms(gradient_bottoms)
    }

    /// Bottoms from `n` on get no gradient.
    pub const fn gradient_bottoms(self, n: usize) -> Self {
        self.differentiable(Differentiable::First(n))
    }

    /// Only these bottoms can get a gradient.
    pub const fn differentiable(mut self, bottoms: Differentiable) -> Self {
        self.differentiable = bottoms;
        self
    }
}
