//! DummyData: blobs from fillers, for tests and timing.
//!
//! ```text
//! layer { name: "data" type: "DummyData" top: "data" top: "label"
//!         dummy_data_param { shape { dim: 32 dim: 3 dim: 224 dim: 224 } shape { dim: 32 }
//!                            data_filler { type: "gaussian" std: 1 } data_filler { value: 3 } } }
//! ```
//! One shape or filler serves all tops; without a filler tops are zero. Constant tops are filled
//! once, random ones anew for every step.

use caffe_proto::{DummyDataParameter, FillerParameter};

use super::{Count, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::{Run, Step};
use crate::filler::{self, Key};
use crate::{Result, ensure};

/// The layer.
struct DummyData {
    shapes: Vec<Shape>,
    fillers: Vec<FillerParameter>,
    seed: u64,
    layer: usize,
    filled: bool,
}

impl DummyData {
    /// The random numbers of a top in a step.
    fn key(&self, top: usize, step: Step) -> Key {
        // Two large odd factors keep the seeds of neighbouring steps and records apart.
        let seed = self
            .seed
            .wrapping_add(step.iter.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_add(step.first_record.wrapping_mul(0xD1B5_4A32_D192_ED03));
        Key { seed, layer: self.layer, blob: top }
    }
}

impl Layer for DummyData {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        for (i, filler) in self.fillers.iter().enumerate() {
            if !self.filled || filler.r#type() != "constant" {
                filler::fill(filler, &self.shapes[i], self.key(i, run.step()), io.top_mut(i)?)?;
            }
        }
        self.filled = true;
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }
}

/// The shape of every top, as given today or in the old four lists, each of which has one element
/// or one for each top.
fn shapes(param: &DummyDataParameter, tops: usize) -> Result<Vec<Shape>> {
    let old = [
        (&param.num, "`num`"),
        (&param.channels, "`channels`"),
        (&param.height, "`height`"),
        (&param.width, "`width`"),
    ];
    if old.iter().all(|(list, _)| list.is_empty()) {
        let shapes = param.shape.iter().map(dims::of_message).collect::<Result<Vec<_>>>()?;
        return for_each_top(shapes, tops, "`shape`");
    }
    ensure!(
        param.shape.is_empty(),
        "dummy_data_param has `shape` and the older num, channels, height and width; keep one form"
    );
    let mut shapes = vec![Shape::from([0; 4]); tops];
    for (axis, (list, what)) in old.into_iter().enumerate() {
        for (shape, extent) in shapes.iter_mut().zip(for_each_top(list.clone(), tops, what)?) {
            *shape = shape.with(axis, extent as usize);
        }
    }
    Ok(shapes)
}

/// Repeats the only element for `tops` tops.
fn for_each_top<T: Clone>(mut given: Vec<T>, tops: usize, what: &str) -> Result<Vec<T>> {
    ensure!(
        given.len() == 1 || given.len() == tops,
        "dummy_data_param needs one {what}, or one for each of the {tops} tops; it has {}",
        given.len()
    );
    if given.len() < tops {
        given = vec![given[0].clone(); tops];
    }
    Ok(given)
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.dummy_data_param.as_deref().cloned().unwrap_or_default();
    let shapes = shapes(&param, setup.tops)?;
    let mut fillers = param.data_filler;
    if fillers.is_empty() {
        fillers.push(FillerParameter::default());
    }
    let fillers = for_each_top(fillers, setup.tops, "`data_filler`")?;
    let (seed, layer) = (setup.seed, setup.index);
    Ok(Box::new(DummyData { shapes, fillers, seed, layer, filled: false }))
}

/// `DummyData`.
pub static DEF: LayerDef = LayerDef::new("DummyData", "blobs from fillers", build)
    .counts(Count::Exactly(0), Count::AtLeast(1));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::device::Step;
    use crate::layers::testing::{message, net};

    const TEXT: &str = "layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' \
        dummy_data_param { num: 2 channels: 3 height: 1 width: 2 \
        data_filler { type: 'uniform' max: 1 } data_filler { value: 7 } } }";

    #[test]
    fn random_tops_follow_the_step_and_constant_ones_stay() {
        let mut net = net(TEXT, Phase::Train);
        let mut random = Vec::new();
        for iter in [1, 2, 1] {
            net.set_step(Step { iter, first_record: 0 });
            net.forward().unwrap();
            let (a, b) = (net.blob("a").unwrap(), net.blob("b").unwrap());
            random.push(net.data(a).unwrap().to_vec());
            assert_eq!(net.data(b).unwrap(), &[7.0; 12]);
        }
        assert_ne!(random[0], random[1]);
        assert_eq!(random[0], random[2]);
    }

    #[test]
    fn old_sizes_serve_one_top_or_all() {
        let text = |param: &str| {
            format!(
                "layer {{ name: 'd' type: 'DummyData' top: 'a' top: 'b' dummy_data_param {{ {param} }} }}"
            )
        };
        let net = net(&text("num: 2 num: 4 channels: 3 height: 1 width: 5 width: 6"), Phase::Train);
        let shapes =
            ["a", "b"].map(|name| net.store().blobs[net.blob(name).unwrap()].shape.clone());
        assert_eq!(shapes.each_ref().map(|s| s.dims()), [&[2, 3, 1, 5], &[4, 3, 1, 6]]);
        for (param, what) in [
            ("num: 2 channels: 3 height: 1", "`width`"),
            ("num: 2 num: 2 num: 2 channels: 3 height: 1 width: 1", "`num`"),
            ("shape { dim: 2 } num: 2 channels: 3 height: 1 width: 1", "keep one form"),
            ("", "`shape`"),
        ] {
            let message = message(&text(param));
            assert!(message.contains(what), "{param}: {message}");
        }
    }
}
