//! Building a net from its prototxt.

mod finish;

use std::collections::HashMap;

use caffe_proto::{LayerParameter, NetParameter, ParamSpec, param_spec};

use super::select::{check_counts, loss_weights, makers, select};
use super::split::{Placed, insert_splits};
use super::{Net, NetOptions, Node, Origin, memory};
use crate::blob::{BlobId, Shape};
use crate::device::Run;
use crate::device::cpu::CpuRun;
use crate::device::cuda::CudaRun;
use crate::layers::{Alias, Count, Layer, LayerDef, Setup, by_type_name};
use crate::params::{Declared, ParamDef, ParamId};
use crate::{Error, Result, bail, ensure};

impl Net {
    /// Builds the net of this prototxt for one state on one device.
    ///
    /// # Errors
    /// Anything wrong with the prototxt, with the layer's name and place.
    pub fn new(param: &NetParameter, origin: &Origin, options: &NetOptions) -> Result<Net> {
        let placed = select(param, &options.state)?;
        ensure!(!placed.is_empty(), "net `{}` has no layers in this phase", param.name());
        let with_blobs = placed.iter().filter(|p| !p.param.blobs.is_empty());
        let given: Vec<LayerParameter> = with_blobs.map(|p| p.param.clone()).collect();
        let mut builder = Builder::new(options, &placed)?;
        for (index, layer) in insert_splits(placed).into_iter().enumerate() {
            builder.add_placed(index, layer, origin)?;
        }
        let mut net = builder.finish(param)?;
        net.copy_trained_from(&NetParameter { layer: given, ..Default::default() })?;
        Ok(net)
    }
}

/// Where the net computes.
fn run_of(options: &NetOptions) -> Result<Run> {
    let host = CpuRun::new(options.threads, options.exact);
    Ok(match &options.cuda {
        Some(device) => Run::Cuda(CudaRun::new(device, host)?),
        None => Run::Cpu(host),
    })
}

/// Alias groups while the net is built: which blobs' values and gradients share memory.
#[derive(Default)]
struct Groups {
    data: Vec<usize>,
    diff: Vec<usize>,
    count: usize,
}

impl Groups {
    fn fresh(&mut self) -> usize {
        self.count += 1;
        self.count - 1
    }
}

pub(super) struct Builder<'a> {
    options: &'a NetOptions,
    run: Run,
    groups: Groups,
    blobs: Vec<(String, Shape)>,
    /// Blobs that no layer has read yet, by name, with order of creation.
    available: HashMap<String, BlobId>,
    nodes: Vec<Node>,
    declared: Vec<Declared>,
    shared: HashMap<String, ParamId>,
    /// Names of the layers that make blobs, anywhere in the net, by blob.
    makers: HashMap<String, String>,
}

impl<'a> Builder<'a> {
    /// A net without layers yet, of which `placed` will come.
    pub(super) fn new(options: &'a NetOptions, placed: &[Placed]) -> Result<Self> {
        Ok(Builder {
            options,
            run: run_of(options)?,
            groups: Groups::default(),
            blobs: Vec::new(),
            available: HashMap::new(),
            nodes: Vec::new(),
            declared: Vec::new(),
            shared: HashMap::new(),
            makers: makers(placed),
        })
    }

    /// The next layer; its errors name it and its place.
    pub(super) fn add_placed(
        &mut self,
        index: usize,
        layer: Placed,
        origin: &Origin,
    ) -> Result<()> {
        let place = origin.place(layer.block);
        let (name, kind) = (layer.param.name().to_owned(), layer.param.r#type().to_owned());
        self.add(index, layer.param, place.clone()).map_err(|e| match e {
            e @ Error::Layer { .. } => e,
            e => Error::Layer { name, type_name: kind, place, source: Box::new(e) },
        })
    }

    fn add(&mut self, index: usize, param: LayerParameter, place: Option<String>) -> Result<()> {
        ensure!(!param.r#type().is_empty(), "the layer has no `type`");
        let def = by_type_name(param.r#type())?;
        check_counts(&param, def)?;
        let bottom = self.take_bottoms(&param)?;
        let shapes: Vec<Shape> = bottom.iter().map(|&b| self.blobs[b].1.clone()).collect();
        let setup = Setup {
            param: &param,
            phase: param.phase(),
            index,
            seed: self.options.seed,
            tops: param.top.len(),
            blank: self.options.blank,
        };
        let mut layer = (def.build)(&setup, &shapes)?;
        self.check_device(&mut *layer, def)?;
        // Before the layer itself needs memory in proportion to them.
        let defs = layer.params();
        let limit = self.options.memory;
        defs.iter().try_for_each(|def| memory::check_blob(&def.shape, limit))?;
        let tops = layer.reshape(&mut self.run, &shapes)?;
        tops.iter().try_for_each(|shape| memory::check_blob(shape, limit))?;
        ensure!(
            tops.len() == param.top.len(),
            "makes {} tops here, but the prototxt names {}",
            tops.len(),
            param.top.len()
        );
        let top = self.place_tops(&param, def, &bottom, tops)?;
        let loss_weight = loss_weights(&param)?;
        let params = self.place_params(index, &param, defs)?;
        self.fuse(index, &mut layer, def, &param, &bottom);
        self.nodes.push(Node {
            layer,
            def,
            param: LayerParameter { blobs: Vec::new(), ..param },
            place,
            bottom,
            top,
            params,
            propagate_down: Vec::new(),
            param_needs_diff: Vec::new(),
            top_has_diff: Vec::new(),
            needs_backward: false,
            loss_weight,
            turns: [Some(self.nodes.len()); 2],
        });
        Ok(())
    }

    fn take_bottoms(&mut self, param: &LayerParameter) -> Result<Vec<BlobId>> {
        let mut bottom = Vec::with_capacity(param.bottom.len());
        for name in &param.bottom {
            match self.available.remove(name) {
                Some(id) => bottom.push(id),
                None => return Err(self.unknown_bottom(name, param.name())),
            }
        }
        Ok(bottom)
    }

    fn unknown_bottom(&self, name: &str, reader: &str) -> Error {
        if let Some(maker) = self.makers.get(name).filter(|maker| *maker != reader) {
            return Error::Invalid(format!(
                "reads blob `{name}` before layer `{maker}` makes it: layers run in the order of the \
                 file; move `{maker}` up, or, if each needs the other, break the cycle"
            ));
        }
        let near = self
            .blobs
            .iter()
            .map(|(known, _)| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(d, known)| *d <= known.len().div_ceil(3) && !known.contains("_split"))
            .min();
        let hint = near.map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?"));
        Error::Invalid(format!("unknown bottom blob `{name}`: no layer above makes it{hint}"))
    }

    fn place_tops(
        &mut self,
        param: &LayerParameter,
        def: &LayerDef,
        bottom: &[BlobId],
        shapes: Vec<Shape>,
    ) -> Result<Vec<BlobId>> {
        let mut top = Vec::with_capacity(shapes.len());
        for (j, (name, shape)) in param.top.iter().zip(shapes).enumerate() {
            let same_name = param.bottom.get(j) == Some(name);
            let id = if same_name && def.in_place && j == 0 {
                ensure!(self.blobs[bottom[0]].1 == shape, "changes the shape of `{name}` in place");
                bottom[0]
            } else if same_name {
                bail!("type {} cannot work in place; give the top another name", def.type_name)
            } else if self.blobs.iter().any(|(n, _)| n == name) {
                bail!("top blob `{name}` is already made by another layer; choose another name")
            } else {
                self.new_blob(name, shape, def.alias, bottom)
            };
            self.available.insert(name.clone(), id);
            top.push(id);
        }
        Ok(top)
    }

    fn new_blob(&mut self, name: &str, shape: Shape, alias: Alias, bottom: &[BlobId]) -> BlobId {
        let source = bottom.first().filter(|_| alias != Alias::None);
        let data = match source {
            Some(&b) => self.groups.data[b],
            None => self.groups.fresh(),
        };
        let diff = match source {
            Some(&b) if alias == Alias::Both => self.groups.diff[b],
            _ => self.groups.fresh(),
        };
        self.groups.data.push(data);
        self.groups.diff.push(diff);
        self.blobs.push((name.to_owned(), shape));
        self.blobs.len() - 1
    }

    /// Gives every declared blob a number: a new one, or the owner's when shared by name.
    fn place_params(
        &mut self,
        layer: usize,
        param: &LayerParameter,
        defs: Vec<ParamDef>,
    ) -> Result<Vec<ParamId>> {
        ensure!(
            param.param.len() <= defs.len(),
            "has {} `param` blocks, but only {} parameters",
            param.param.len(),
            defs.len()
        );
        let mut ids = Vec::with_capacity(defs.len());
        for (index, def) in defs.into_iter().enumerate() {
            let spec = param.param.get(index).cloned().unwrap_or_default();
            let owner = self.shared.get(spec.name()).copied().filter(|_| !spec.name().is_empty());
            let id = match owner {
                Some(owner) => {
                    self.share(owner, &spec, &def.shape)?;
                    owner
                }
                None => {
                    let id = self.declared.len();
                    if !spec.name().is_empty() {
                        self.shared.insert(spec.name().to_owned(), id);
                    }
                    self.declared.push(Declared { spec, layer, index, def });
                    id
                }
            };
            ids.push(id);
        }
        Ok(ids)
    }

    /// Checks a sharer against its owner and merges what they say about learning rates.
    fn share(&mut self, owner: ParamId, spec: &ParamSpec, shape: &Shape) -> Result<()> {
        let owned = &mut self.declared[owner];
        let permissive = spec.share_mode() == param_spec::DimCheckMode::Permissive;
        let fits = if permissive {
            owned.def.shape.count() == shape.count()
        } else {
            owned.def.shape == *shape
        };
        ensure!(
            fits,
            "parameter `{}` is shared with layer number {}, whose shape is {}, not {shape}",
            spec.name(),
            owned.layer,
            owned.def.shape
        );
        let merge = |what: &str, mine: &mut Option<f32>, theirs: Option<f32>| match (*mine, theirs)
        {
            (Some(a), Some(b)) if a != b => {
                bail!("shared parameter `{}` has two {what}: {a} and {b}", spec.name())
            }
            (None, Some(b)) => {
                *mine = Some(b);
                Ok(())
            }
            _ => Ok(()),
        };
        merge("lr_mult", &mut owned.spec.lr_mult, spec.lr_mult)?;
        merge("decay_mult", &mut owned.spec.decay_mult, spec.decay_mult)
    }

    /// Refuses a layer that would have to leave the net's device, unless that is allowed.
    fn check_device(&self, layer: &mut dyn Layer, def: &LayerDef) -> Result<()> {
        // What it makes of nothing is made on the host, like records; an alias computes nothing.
        let at_home = def.bottoms == Count::Exactly(0) || def.tops == Count::Exactly(0);
        let fits = self.run.cuda().is_none() || at_home || def.alias == Alias::Both;
        ensure!(
            fits || self.options.cpu_fallback || layer.cuda().is_some(),
            "type {} has no CUDA code; --allow-cpu-fallback lets it compute on the host",
            def.type_name
        );
        Ok(())
    }

    /// Offers an in-place ReLU's forward pass to the convolution right before it.
    fn fuse(
        &mut self,
        index: usize,
        layer: &mut Box<dyn Layer>,
        def: &LayerDef,
        param: &LayerParameter,
        bottom: &[BlobId],
    ) {
        let plain_relu = def.type_name == "ReLU"
            && param.bottom.first() == param.top.first()
            && param.relu_param.as_ref().is_none_or(|p| p.negative_slope() == 0.0);
        let on_host = self.run.cuda().is_none();
        if !plain_relu || index == 0 || self.options.keep_all || !on_host {
            return;
        }
        let before = &mut self.nodes[index - 1];
        if before.top.as_slice() == bottom && before.layer.fuse_relu() {
            layer.set_fused();
        }
    }
}
