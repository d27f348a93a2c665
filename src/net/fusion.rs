//! Layers that do the work of those right behind them, on a CUDA device: a BatchNorm that of a Scale and a
//! ReLU, a convolution that of a ReLU forward and perhaps backward, a sum both. Only where these work in
//! place, so that nobody else sees what is between, and nobody has asked to keep it.

use super::{Net, Node, Pass};
use crate::layers::Behind;

impl Net {
    /// Looks for such layers.
    pub(super) fn fuse_on_device(&mut self) {
        let mut index = 0;
        while index < self.nodes.len() {
            index += match self.nodes[index].def.type_name {
                "BatchNorm" => self.fuse_norm(index),
                _ => self.fuse_relu(index),
            };
        }
    }

    /// A ReLU's forward pass, and perhaps its backward pass, into the layer before it. Returns how many layers have been seen to.
    fn fuse_relu(&mut self, index: usize) -> usize {
        if !self
            .nodes
            .get(index + 1)
            .is_some_and(|next| is_relu(next) && follows(&self.nodes[index], next))
        {
            return 1;
        }
        let backward = self.nodes[index].needs_backward;
        let Some(layer) = self.nodes[index].layer.cuda() else { return 2 };
        if !layer.take_relu() {
            return 2;
        }
        let back = layer.takes_relu_back();
        let turns = &mut self.nodes[index + 1].turns;
        turns[Pass::Forward as usize] = None;
        if back && backward {
            turns[Pass::Backward as usize] = None;
        }
        2
    }

    /// All of a Scale and a ReLU, into the BatchNorm before them.
    fn fuse_norm(&mut self, index: usize) -> usize {
        let Some((behind, layers)) = self.behind_norm(index) else { return 1 };
        if !self.nodes[index].layer.cuda().is_some_and(|layer| layer.take_scale(behind)) {
            return 1;
        }
        let last = index + layers;
        for node in &mut self.nodes[index + 1..=last] {
            node.turns = [None; 2];
        }
        // What a layer gives to the parameters of those behind it has to be there when backward has passed
        // them, not later: so all of backward is done at the turn of the last.
        self.nodes[index].turns[Pass::Backward as usize] = None;
        self.nodes[last].turns[Pass::Backward as usize] = Some(index);
        layers + 1
    }

    /// What is behind a BatchNorm, and in how many layers.
    fn behind_norm(&self, index: usize) -> Option<(Behind, usize)> {
        let (norm, scale) = (&self.nodes[index], self.nodes.get(index + 1)?);
        let param = scale.param.scale_param.as_deref().cloned().unwrap_or_default();
        let axes = self.store.blobs[norm.top[0]].shape.axes();
        let by_channel = param.axis() == 1 && param.num_axes() == 1 && axes >= 2;
        let simple = scale.def.type_name == "Scale" && scale.bottom.len() == 1 && by_channel;
        // Without a gradient to its bottom a BatchNorm has no backward pass to do others' work in.
        let alike = norm.needs_backward == scale.needs_backward
            && norm.propagate_down[0] == norm.needs_backward;
        if !(simple && alike && follows(norm, scale)) {
            return None;
        }
        let relu = self.nodes.get(index + 2).is_some_and(|relu| {
            is_relu(relu) && follows(scale, relu) && relu.needs_backward == norm.needs_backward
        });
        let learns = |i: usize| scale.param_needs_diff.get(i) == Some(&true);
        let behind = Behind {
            scale: scale.params[0],
            bias: scale.params.get(1).copied(),
            learns: [learns(0), learns(1)],
            relu,
        };
        Some((behind, 1 + usize::from(relu)))
    }
}

/// Whether a layer works in place on the only thing that another makes.
fn follows(before: &Node, next: &Node) -> bool {
    let no_loss = before.loss_weight.iter().chain(&next.loss_weight).all(|weight| *weight == 0.0);
    before.top == next.bottom && next.bottom == next.top && no_loss
}

/// Whether it is a ReLU that makes negative values zero.
fn is_relu(node: &Node) -> bool {
    node.def.type_name == "ReLU"
        && node.param.relu_param.as_ref().is_none_or(|param| param.negative_slope() == 0.0)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use caffe_proto::Phase;

    use super::*;
    use crate::device::cuda::CudaDevice;
    use crate::device::cuda::meter::Meter;
    use crate::net::{NetOptions, Origin};

    /// Whose work is done at each layer's turn, forward and backward.
    fn turns(layers: &str, keep_all: bool) -> Vec<[Option<usize>; 2]> {
        let text = format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 4 }} }} }} \
             layer {{ name: 'c' type: 'Convolution' bottom: 'x' top: 'y' convolution_param {{ num_output: 3 \
             kernel_size: 1 }} }} {layers} layer {{ name: 'l' type: 'Reduction' bottom: 'y' top: 'l' loss_weight: 1 }}"
        );
        let options = NetOptions {
            cuda: Some(CudaDevice(Rc::new(Meter::default()))),
            keep_all,
            ..NetOptions::new(Phase::Train)
        };
        let param = caffe_proto::text::parse("net", &text).unwrap();
        let net = Net::new(&param, &Origin::default(), &options).unwrap();
        net.nodes[1..net.nodes.len() - 1].iter().map(|node| node.turns).collect()
    }

    const NORM: &str = "layer { name: 'n' type: 'BatchNorm' bottom: 'y' top: 'y' } \
        layer { name: 's' type: 'Scale' bottom: 'y' top: 'y' } ";
    const RELU: &str = "layer { name: 'r' type: 'ReLU' bottom: 'y' top: 'y' } ";

    #[test]
    fn a_sum_does_all_work_of_a_relu() {
        let sum = "layer { name: 's' type: 'Eltwise' bottom: 'y' bottom: 'x' top: 'z' } \
            layer { name: 'r' type: 'ReLU' bottom: 'z' top: 'z' } \
            layer { name: 'l2' type: 'Reduction' bottom: 'z' top: 'l2' loss_weight: 1 } ";
        // The splits of x and y are layers, too.
        let turns = turns(sum, false);
        assert!(turns.contains(&[None; 2]), "{turns:?}");
        assert!(!turns.iter().any(|turn| turn[0].is_none() != turn[1].is_none()), "{turns:?}");
    }

    #[test]
    fn who_works_when() {
        let own = |i| [Some(i); 2];
        let (first, none) = ([Some(2), None], [None; 2]);
        let last = [None, Some(2)];
        assert_eq!(turns(&[NORM, RELU].concat(), false), [own(1), first, none, last]);
        assert_eq!(turns(NORM, false), [own(1), first, last]);
        assert_eq!(turns(RELU, false), [own(1), [None, Some(2)]]);
        assert_eq!(turns(&[NORM, RELU].concat(), true), [own(1), own(2), own(3), own(4)]);
        // A ReLU behind a ReLU is its own.
        let two = [RELU, &RELU.replace("'r'", "'q'")].concat();
        assert_eq!(turns(&two, false), [own(1), [None, Some(2)], own(3)]);
    }
}
