//! MemoryData: batches out of arrays that the program gives it, image after image.
//!
//! ```text
//! layer { name: "data" type: "MemoryData" top: "data" top: "label"
//!         memory_data_param { batch_size: 8 channels: 3 height: 32 width: 32 } }
//! ```
//! A program that uses this library hands the images over with [`crate::net::Net::set_memory_data`];
//! every forward pass takes the next batch, and after the last one the first. The values are taken as
//! they are: there is no `transform_param`. Nothing feeds such a layer under `caffe train`.

use super::{Count, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::data::Batch;
use crate::device::Run;
use crate::{Result, bail, ensure};

/// The layer.
struct MemoryData {
    /// Of a batch of images.
    shape: Shape,
    /// All images, and their labels; a whole number of batches.
    images: Vec<f32>,
    labels: Vec<f32>,
    /// First record of the next batch.
    next: usize,
}

impl Layer for MemoryData {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![self.shape.clone(), Shape::from([self.shape[0]])])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let batch = self.shape[0];
        let Some(labels) = self.labels.get(self.next..self.next + batch) else {
            bail!("has no data: give it some with Net::set_memory_data before the first pass");
        };
        io.top_mut(1)?.copy_from_slice(labels);
        let len = self.shape.count_from(1);
        io.top_mut(0)?.copy_from_slice(&self.images[self.next * len..][..batch * len]);
        self.next = (self.next + batch) % self.labels.len();
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    /// Takes images and labels, whose numbers the net has checked.
    fn feed(&mut self, batch: &mut Batch) {
        if let [images, labels] = &mut batch.tops[..] {
            std::mem::swap(&mut self.images, images);
            std::mem::swap(&mut self.labels, labels);
            self.next = 0;
        }
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.memory_data_param.as_deref().cloned().unwrap_or_default();
    let extents = [param.batch_size(), param.channels(), param.height(), param.width()];
    ensure!(
        !extents.contains(&0),
        "memory_data_param needs batch_size, channels, height and width, all positive; they are \
         {}, {}, {} and {}",
        extents[0],
        extents[1],
        extents[2],
        extents[3]
    );
    ensure!(
        setup.param.transform_param.is_none(),
        "takes values as they are: remove transform_param and transform them before they are handed \
         over"
    );
    let shape = Shape::from(extents.map(|e| e as usize));
    Ok(Box::new(MemoryData { shape, images: Vec::new(), labels: Vec::new(), next: 0 }))
}

/// `MemoryData`.
pub static DEF: LayerDef =
    LayerDef::new("MemoryData", "batches out of arrays that the program gives", build)
        .counts(Count::Exactly(0), Count::Exactly(2));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::try_net;

    #[test]
    fn sizes_are_needed_and_transforms_refused() {
        for (param, said) in [
            ("memory_data_param { batch_size: 2 channels: 3 height: 4 }", "2, 3, 4 and 0"),
            (
                "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 4 } \
                 transform_param { scale: 2 }",
                "remove transform_param",
            ),
        ] {
            let text = format!(
                "layer {{ name: 'd' type: 'MemoryData' top: 'data' top: 'label' {param} }}"
            );
            let message = try_net(&text, Phase::Test).err().unwrap().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
