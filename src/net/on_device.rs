//! In which kinds a net's slabs will be in device memory: what its layers say they take.

use std::rc::Rc;

use super::Node;
use crate::Result;
use crate::blob::{BlobId, Store};
use crate::device::cuda::Kind;
use crate::device::cuda::backend::Backend;
use crate::layers::{Alias, Reals};

/// For each slab, whether it is needed as f32 and in the device's kind of 16 bits.
pub(super) struct OnDevice {
    kind: Kind,
    needs: Vec<[bool; 2]>,
}

impl OnDevice {
    /// For a device of this kind; `None`: for no device.
    pub(super) fn of(
        nodes: &mut [Node],
        store: &Store,
        outputs: &[BlobId],
        kind: Option<Kind>,
    ) -> OnDevice {
        let mut needs =
            OnDevice { kind: kind.unwrap_or_default(), needs: vec![[false; 2]; store.slabs.len()] };
        if kind.is_some() {
            nodes.iter_mut().for_each(|node| needs.add_node(node, store));
            // They are looked at on the host, which is given f32.
            outputs.iter().for_each(|&id| needs.add(store, id, Kind::F32, false));
        }
        needs
    }

    fn add_node(&mut self, node: &mut Node, store: &Store) {
        let reals = match node.layer.cuda() {
            Some(layer) => layer.reals(),
            // It computes nothing.
            None if node.def.alias == Alias::Both => return,
            // On the host, which the device exchanges f32 with.
            None => Reals::NONE,
        };
        for (i, &id) in node.bottom.iter().enumerate() {
            self.add(store, id, reals.bottom(i, self.kind), node.propagate_down[i]);
        }
        for (i, &id) in node.top.iter().enumerate() {
            let has_diff = node.top_has_diff[i] || node.loss_weight[i] != 0.0;
            self.add(store, id, reals.top(i, self.kind), has_diff);
        }
    }

    fn add(&mut self, store: &Store, id: BlobId, kind: Kind, diff: bool) {
        let blob = &store.blobs[id];
        let place = usize::from(kind != Kind::F32);
        self.needs[blob.data][place] = true;
        self.needs[blob.diff][place] |= diff;
    }

    fn kinds(&self, slab: usize) -> impl Iterator<Item = Kind> {
        let [floats, halves] = self.needs[slab];
        let kinds = [(floats, Kind::F32), (halves, self.kind)];
        kinds.into_iter().filter(|(needed, _)| *needed).map(|(_, kind)| kind)
    }

    /// Whether the device has a kind of 16 bits.
    pub(super) fn has_halves(&self) -> bool {
        self.kind != Kind::F32
    }

    /// Floats of device memory for all slabs together.
    pub(super) fn floats(&self, store: &Store) -> u128 {
        let slab = |(i, capacity): (usize, usize)| {
            self.kinds(i).map(|kind| kind.floats(capacity) as u128).sum::<u128>()
        };
        store.slabs.iter().map(|slab| slab.capacity()).enumerate().map(slab).sum()
    }

    /// Takes that memory.
    ///
    /// # Errors
    /// When there is not enough.
    pub(super) fn reserve(&self, store: &Store, device: &Rc<dyn Backend>) -> Result<()> {
        for (i, slab) in store.slabs.iter().enumerate() {
            self.kinds(i).try_for_each(|kind| slab.reserve_on(device, kind))?;
        }
        Ok(())
    }
}
