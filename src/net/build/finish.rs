//! When all layers are there: who needs a gradient, which blobs share memory, first values.

use caffe_proto::NetParameter;

use super::Builder;
use crate::Result;
use crate::blob::{BlobId, BlobInfo, Layout, Slab, Store};
use crate::data::readers::reads_records;
use crate::filler;
use crate::net::on_device::OnDevice;
use crate::net::{Net, gradient_flow, memory};
use crate::params::ParamArena;

impl Builder<'_> {
    pub(super) fn finish(mut self, param: &NetParameter) -> Result<Net> {
        let force = param.force_backward();
        let learns: Vec<bool> =
            self.declared.iter().map(|d| !d.def.statistic && d.spec.lr_mult() != 0.0).collect();
        gradient_flow::decide(&mut self.nodes, self.blobs.len(), &learns, force);

        let mut outputs: Vec<BlobId> = self.available.values().copied().collect();
        outputs.sort_unstable();
        let inputs = self
            .nodes
            .iter()
            .filter(|n| n.def.type_name == "Input")
            .flat_map(|n| n.top.iter().copied())
            .collect();
        let store = self.plan(&outputs, force);
        let learned = self.declared.iter().map(|d| d.def.shape.count());
        let place = self.run.cuda().map(|cuda| &cuda.device);
        let limit = match place.map(|device| device.free_memory()).transpose()?.flatten() {
            Some(free) => free,
            None => self.options.memory,
        };
        let on_device = OnDevice::of(&mut self.nodes, &store, &outputs, place.map(|d| d.kind()));
        let blobs = if place.is_some() { on_device.floats(&store) } else { memory::floats(&store) };
        let parameters: usize = learned.sum();
        let copy = if on_device.has_halves() { parameters.div_ceil(2) } else { 0 };
        memory::check(param.name(), blobs + (2 * parameters + copy) as u128, limit)?;
        let mut params = ParamArena::new(&self.declared);
        if !self.options.blank {
            self.fill(&mut params)?;
        }
        if let Some(cuda) = self.run.cuda() {
            // Now or never: not in the middle of a run.
            on_device.reserve(&store, &cuda.device)?;
            let learns = self.nodes.iter().any(|node| node.needs_backward);
            params.reserve_on(&cuda.device, learns)?;
        }
        let data_layers = self.nodes.iter().enumerate();
        let data_layers = data_layers.filter(|(_, node)| reads_records(node.def.type_name));
        let floats_on_device = on_device.floats(&store) as usize;
        let mut net = Net {
            data_layers: data_layers.map(|(i, _)| i).collect(),
            name: param.name().to_owned(),
            phase: self.options.state.phase(),
            nodes: self.nodes,
            store,
            params,
            run: self.run,
            now: 1,
            inputs,
            outputs,
            loss: Default::default(),
            loss_scale: 1.0,
            places: Default::default(),
            shapes_changed: 0,
            recorder: Default::default(),
            floats_on_device,
        };
        if net.run.cuda().is_some() && !self.options.keep_all {
            net.fuse_on_device();
        }
        Ok(net)
    }

    /// First values: each parameter from its filler, keyed by (seed, layer, blob).
    fn fill(&self, params: &mut ParamArena) -> Result<()> {
        for (id, d) in self.declared.iter().enumerate() {
            let range = params.params()[id].range.clone();
            let key = filler::Key { seed: self.options.seed, layer: d.layer, blob: d.index };
            filler::fill(&d.def.filler, &d.def.shape, key, params.data_in_mut(range)?)
                .map_err(|e| self.nodes[d.layer].blame(e))?;
        }
        Ok(())
    }

    /// Gives alias groups their slabs. Gradients share memory where their lifetimes allow it, and
    /// so do values in a net that has no backward pass.
    fn plan(&self, outputs: &[BlobId], force: bool) -> Store {
        let last = self.nodes.len();
        let mut lives = vec![
            memory::Lifetime { from: usize::MAX, to: 0, len: 0, keep: false };
            self.groups.count
        ];
        let keep_all = self.options.keep_all || force;
        let has_backward = self.nodes.iter().any(|n| n.needs_backward);
        for (i, node) in self.nodes.iter().enumerate() {
            let is_source = node.bottom.is_empty();
            for (&b, is_top) in
                node.bottom.iter().map(|b| (b, false)).chain(node.top.iter().map(|b| (b, true)))
            {
                let data = &mut lives[self.groups.data[b]];
                data.touch(i, self.len_of(b));
                // Sources may write their tops once and for all.
                data.keep |= keep_all || has_backward || (is_top && is_source);
                let diff = &mut lives[self.groups.diff[b]];
                diff.touch(last - i, if has_backward { self.len_of(b) } else { 0 });
                diff.keep |= keep_all;
            }
            for (j, &t) in node.top.iter().enumerate() {
                lives[self.groups.diff[t]].keep |= node.loss_weight[j] != 0.0;
            }
        }
        for &id in outputs {
            lives[self.groups.data[id]].keep = true;
            lives[self.groups.diff[id]].keep = true;
        }
        let (slab_of, slabs) = memory::assign(&lives);
        let blobs = self.blobs.iter().enumerate().map(|(id, (name, shape))| BlobInfo {
            name: name.clone(),
            shape: shape.clone(),
            data: slab_of[self.groups.data[id]],
            diff: slab_of[self.groups.diff[id]],
        });
        Store {
            blobs: blobs.collect(),
            slabs: slabs.into_iter().map(Slab::with_capacity).collect(),
        }
    }

    /// Floats a blob may need in its largest representation; on a device they are all plain.
    fn len_of(&self, id: BlobId) -> usize {
        let shape = &self.blobs[id].1;
        if shape.axes() == 4 && self.run.cuda().is_none() {
            Layout::Blocked16.padded_len(shape.dims())
        } else {
            shape.count()
        }
    }
}
