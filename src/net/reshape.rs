//! Shapes that change after the net was built: because the caller wants another batch size, because
//! records differ in size (ImageData), or because a layer's tops depend on values (Filter).
//!
//! Memory follows by itself: slabs grow when a blob needs more than ever before. The plan of who
//! shares memory with whom stays, since it depends on lifetimes alone.

use super::Net;
use crate::Result;
use crate::blob::{BlobId, Shape};
use crate::data::Batch;

impl Net {
    /// Gives an input blob another shape and reshapes every layer behind it.
    ///
    /// # Errors
    /// When a layer cannot take the new shapes.
    pub fn reshape_input(&mut self, id: BlobId, shape: Shape) -> Result<()> {
        self.store.blobs[id].shape = shape;
        self.reshape()
    }

    /// Recomputes every shape from the inputs on.
    ///
    /// # Errors
    /// When a layer cannot take its bottoms' shapes.
    pub fn reshape(&mut self) -> Result<()> {
        self.reshape_behind(0, vec![true; self.store.blobs.len()])
    }

    /// Takes the shapes of the batches to come, one for each data layer, and reshapes what depends
    /// on them.
    pub(super) fn follow_batches(&mut self, batches: &[Batch]) -> Result<()> {
        // Nearly always none, and then nothing is allocated.
        let mut changed = Vec::new();
        for (&layer, batch) in self.data_layers.iter().zip(batches) {
            for (&top, dims) in self.nodes[layer].top.iter().zip(&batch.shapes) {
                let shape = &mut self.store.blobs[top].shape;
                if shape.dims() != dims {
                    *shape = Shape::new(dims.clone());
                    changed.resize(self.store.blobs.len(), false);
                    changed[top] = true;
                }
            }
        }
        if changed.is_empty() { Ok(()) } else { self.reshape_behind(0, changed) }
    }

    /// Takes the shapes that a layer's bottoms give its tops by their values, before the layer's
    /// forward pass, and reshapes what depends on them.
    pub(super) fn follow_values(&mut self, index: usize) -> Result<()> {
        let Some(shapes) = self.with_layer(index, |layer, _, io| layer.top_shapes(&io))? else {
            return Ok(());
        };
        let tops = &self.nodes[index].top;
        if tops.iter().zip(&shapes).all(|(&id, shape)| self.store.blobs[id].shape == *shape) {
            return Ok(());
        }
        let mut changed = vec![false; self.store.blobs.len()];
        for (&id, shape) in tops.iter().zip(shapes) {
            changed[id] = self.store.blobs[id].shape != shape;
            self.store.blobs[id].shape = shape;
        }
        self.reshape_behind(index + 1, changed)
    }

    /// Reshapes, from layer `first` on, the layers with a changed bottom.
    fn reshape_behind(&mut self, first: usize, mut changed: Vec<bool>) -> Result<()> {
        self.shapes_changed += 1;
        for node in &mut self.nodes[first..] {
            if !node.bottom.iter().any(|&b| changed[b]) {
                continue;
            }
            let bottoms: Vec<Shape> =
                node.bottom.iter().map(|&b| self.store.blobs[b].shape.clone()).collect();
            let tops = match node.layer.reshape(&mut self.run, &bottoms) {
                Ok(tops) => tops,
                Err(e) => return Err(node.blame(e)),
            };
            for (&id, shape) in node.top.iter().zip(tops) {
                changed[id] |= self.store.blobs[id].shape != shape;
                self.store.blobs[id].shape = shape;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, values};
    use crate::net::Net;

    /// A hidden layer and a loss on the records that the selector lets through.
    fn filtered(selector: [f32; 4]) -> (f32, Net) {
        let text = "force_backward: true \
             layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 4 dim: 3 } } } \
             layer { name: 'l' type: 'Input' top: 'l' input_param { shape { dim: 4 } } } \
             layer { name: 's' type: 'Input' top: 's' input_param { shape { dim: 4 } } } \
             layer { name: 'f' type: 'Filter' bottom: 'x' bottom: 'l' bottom: 's' top: 'fx' top: 'fl' } \
             layer { name: 'a' type: 'InnerProduct' bottom: 'fx' top: 'a' inner_product_param { \
                     num_output: 5 weight_filler { type: 'gaussian' std: 1 } } } \
             layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'a' } \
             layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' inner_product_param { \
                     num_output: 2 weight_filler { type: 'gaussian' std: 1 } } } \
             layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'b' bottom: 'fl' top: 'loss' }";
        let mut net = net(text, Phase::Train);
        let x: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
        set(&mut net, "x", &x);
        set(&mut net, "l", &[0.0, 1.0, 1.0, 0.0]);
        // Other numbers of records before: nothing of them may be left.
        for before in [[1.0; 4], [0.0; 4], selector] {
            set(&mut net, "s", &before);
            net.forward().unwrap();
        }
        let loss = net.forward().unwrap();
        net.clear_param_diffs();
        net.backward().unwrap();
        (loss, net)
    }

    #[test]
    fn layers_behind_a_filter_work_on_what_is_there() {
        let (one, mut first) = filtered([0.0, 1.0, 0.0, 0.0]);
        let (other, mut second) = filtered([0.0, 0.0, 0.0, 1.0]);
        let (both, mut net) = filtered([0.0, 1.0, 0.0, 1.0]);
        assert!((both - (one + other) / 2.0).abs() < 1e-6, "{both} of {one} and {other}");
        assert_eq!(values(&mut net, "fl"), [1.0, 0.0]);
        let [dx, first, second] = [&mut net, &mut first, &mut second].map(|net| gradient(net, "x"));
        assert_eq!((&dx[..3], &dx[6..9]), (&[0.0; 3][..], &[0.0; 3][..]));
        for i in [3, 4, 5, 9, 10, 11] {
            assert!((dx[i] - (first[i] + second[i]) / 2.0).abs() < 1e-6, "{i}");
        }
        assert!(dx[3].abs() > 1e-4 && dx[9].abs() > 1e-4);
    }

    #[test]
    fn a_batch_without_records_costs_nothing() {
        let (loss, mut net) = filtered([0.0; 4]);
        assert_eq!(loss, 0.0);
        assert!(values(&mut net, "b").is_empty());
        assert_eq!(gradient(&mut net, "x"), [0.0; 12]);
        assert!(net.params().diff().unwrap().iter().all(|d| *d == 0.0));
    }
}
