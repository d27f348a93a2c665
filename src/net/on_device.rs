//! In which forms a net's slabs will be in device memory: what its layers say they take, and the order in which
//! those work that take whatever they get.

use std::rc::Rc;

use smallvec::SmallVec;

use super::Node;
use crate::Result;
use crate::blob::{BlobId, Store};
use crate::device::cuda::backend::Backend;
use crate::device::cuda::{Form, Kind, Order};
use crate::layers::{Alias, Orders, Reals};
use crate::params::{ParamArena, ParamId};

/// For each slab, whether it is needed as f32 and in the device's kind of 16 bits; both in plain order, then
/// both with channels last.
pub(super) struct OnDevice {
    form: Form,
    needs: Vec<[bool; 4]>,
    /// The same of those who read the values of a slab's blobs.
    reads: Vec<[bool; 4]>,
    /// The order of each blob where it was written last.
    orders: Vec<Order>,
    /// Weights that are wanted with their channels last.
    turned: Vec<ParamId>,
}

/// Where a form stands among the four.
fn place(form: Form) -> usize {
    let [halves, last] = [form.kind != Kind::F32, form.order == Order::ChannelsLast];
    usize::from(halves) + 2 * usize::from(last)
}

impl OnDevice {
    /// For a device of this kind whose convolutions want this order; `None`: for no device. Tells the layers
    /// their orders.
    pub(super) fn of(
        nodes: &mut [Node],
        store: &Store,
        outputs: &[BlobId],
        form: Option<Form>,
    ) -> OnDevice {
        let present = form.unwrap_or_default();
        let mut needs = OnDevice {
            form: present,
            needs: vec![[false; 4]; store.slabs.len()],
            reads: vec![[false; 4]; store.slabs.len()],
            // What the host makes has none on the device yet: it gets the one that convolutions want.
            orders: vec![present.order; store.blobs.len()],
            turned: Vec::new(),
        };
        if form.is_some() {
            let (sources, others): (Vec<_>, Vec<_>) =
                nodes.iter_mut().partition(|node| node.bottom.is_empty());
            others.into_iter().for_each(|node| needs.add_node(node, store));
            // They are looked at on the host, which is given f32.
            outputs.iter().for_each(|&id| {
                needs.add(store, id, Form::default(), false);
                needs.reads[store.blobs[id].data][0] = true;
            });
            sources.into_iter().for_each(|node| needs.add_source(node, store));
            // Layers may share weights.
            needs.turned.sort_unstable();
            needs.turned.dedup();
        }
        needs
    }

    /// A layer without bottoms, when all who read its tops are known: it may make what they read.
    fn add_source(&mut self, node: &mut Node, store: &Store) {
        if let (Some(layer), Some(&id)) = (node.layer.cuda(), node.top.first()) {
            let reads =
                self.forms_of(self.reads[store.blobs[id].data]).collect::<SmallVec<[Form; 4]>>();
            if let [only] = *reads {
                layer.first_top_is_read_as(only);
            }
        }
        self.add_node(node, store);
    }

    fn add_node(&mut self, node: &mut Node, store: &Store) {
        let host = node.bottom.is_empty();
        let reals = match node.layer.cuda() {
            Some(layer) => {
                node.order = match (layer.orders(), node.bottom.first()) {
                    (Orders::Only(order), _) => order,
                    (Orders::Bottoms, first) => first.map_or(Order::Plain, |&id| self.orders[id]),
                };
                if layer.turns_weights() {
                    self.turned.extend(node.params.first());
                }
                layer.reals()
            }
            // It computes nothing; another shape is read through plain order.
            None if node.def.alias == Alias::Both => {
                node.bottom.iter().for_each(|&id| self.reads[store.blobs[id].data][0] = true);
                node.top.iter().for_each(|&id| self.orders[id] = Order::Plain);
                return;
            }
            // On the host, which the device exchanges f32 with.
            None => Reals::NONE,
        };
        let form = Form { order: node.order, ..self.form };
        for (i, &id) in node.bottom.iter().enumerate() {
            let form = reals.bottom(i, form).of(&store.blobs[id].shape);
            self.add(store, id, form, node.propagate_down[i]);
            // Where tops are the bottom's values those who read the tops count.
            self.reads[store.blobs[id].data][place(form)] |= node.def.alias == Alias::None;
        }
        for (i, &id) in node.top.iter().enumerate() {
            let has_diff = node.top_has_diff[i] || node.loss_weight[i] != 0.0;
            let form = reals.top(i, form);
            self.add(store, id, form, has_diff);
            self.orders[id] = if host { self.form.order } else { form.order };
        }
    }

    fn add(&mut self, store: &Store, id: BlobId, form: Form, diff: bool) {
        let blob = &store.blobs[id];
        let place = place(form.of(&blob.shape));
        self.needs[blob.data][place] = true;
        self.needs[blob.diff][place] |= diff;
    }

    fn forms(&self, slab: usize) -> impl Iterator<Item = Form> {
        self.forms_of(self.needs[slab])
    }

    fn forms_of(&self, needed: [bool; 4]) -> impl Iterator<Item = Form> + use<> {
        let orders = [Order::Plain, Order::ChannelsLast];
        let forms =
            orders.map(|order| [Kind::F32, self.form.kind].map(|kind| Form { kind, order }));
        let needed = needed.into_iter().zip(forms.into_iter().flatten());
        needed.filter(|(needed, _)| *needed).map(|(_, form)| form)
    }

    /// Floats of device memory for all slabs together.
    pub(super) fn floats(&self, store: &Store) -> u128 {
        let slab = |(i, capacity): (usize, usize)| {
            self.forms(i).map(|form| form.kind.floats(capacity) as u128).sum::<u128>()
        };
        store.slabs.iter().map(|slab| slab.capacity()).enumerate().map(slab).sum()
    }

    /// Floats of device memory for copies of parameters: all in 16 bits, and weights with channels last.
    pub(super) fn copies(&self, params: &ParamArena) -> usize {
        let kind = self.form.kind;
        let halves = if kind == Kind::F32 { 0 } else { kind.floats(params.floats()) };
        let turned = self.turned.iter().map(|&id| kind.floats(params.params()[id].range.len()));
        halves + turned.sum::<usize>()
    }

    /// Takes the memory of the slabs.
    ///
    /// # Errors
    /// When there is not enough.
    pub(super) fn reserve(&self, store: &Store, device: &Rc<dyn Backend>) -> Result<()> {
        for (i, slab) in store.slabs.iter().enumerate() {
            self.forms(i).try_for_each(|form| slab.reserve_on(device, form))?;
        }
        Ok(())
    }

    /// Takes the memory of the weights that have their channels last.
    ///
    /// # Errors
    /// When there is not enough.
    pub(super) fn reserve_turned(
        &self,
        params: &ParamArena,
        device: &Rc<dyn Backend>,
    ) -> Result<()> {
        self.turned.iter().try_for_each(|&id| params.reserve_turned_on(id, device))
    }
}
