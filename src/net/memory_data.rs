//! Records that a program hands to a `MemoryData` layer.

use super::Net;
use crate::data::Batch;
use crate::{Error, Result, ensure};

impl Net {
    /// Gives the `MemoryData` layer called `layer` its records: `data` holds the images (channels,
    /// height, width) one behind the other, `labels` a number for each. They must fill whole
    /// batches. Forward passes take batch after batch, and begin again after the last one.
    ///
    /// ```
    /// use caffe::net::{Net, NetOptions, Origin};
    /// use caffe_proto::Phase;
    ///
    /// let text = "layer { name: 'data' type: 'MemoryData' top: 'data' top: 'label' \
    ///             memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }";
    /// let param = caffe_proto::text::parse("example", text)?;
    /// let mut net = Net::new(&param, &Origin::default(), &NetOptions::new(Phase::Test))?;
    /// net.set_memory_data("data", (0..12).map(|i| i as f32).collect(), vec![0.0, 1.0, 2.0, 3.0])?;
    /// net.forward()?;
    /// net.forward()?;
    /// let label = net.blob("label")?;
    /// assert_eq!(net.data(label)?, [2.0, 3.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When there is no such layer, it has another type, or the numbers do not fit its shape.
    pub fn set_memory_data(&mut self, layer: &str, data: Vec<f32>, labels: Vec<f32>) -> Result<()> {
        let index = self.layer(layer)?;
        let blame = |e: Error| self.nodes[index].blame(e);
        self.check_memory_data(index, data.len(), labels.len()).map_err(blame)?;
        let mut records = Batch { tops: vec![data, labels], ..Batch::default() };
        self.nodes[index].layer.feed(&mut records);
        Ok(())
    }

    fn check_memory_data(&self, index: usize, values: usize, labels: usize) -> Result<()> {
        let node = &self.nodes[index];
        ensure!(
            node.def.type_name == "MemoryData",
            "takes no records: only layers of type MemoryData do"
        );
        let shape = &self.store.blobs[node.top[0]].shape;
        let (batch, len) = (shape[0], shape.count_from(1));
        ensure!(
            labels > 0 && labels.is_multiple_of(batch),
            "{labels} labels do not fill whole batches of {batch}"
        );
        ensure!(
            labels.checked_mul(len) == Some(values),
            "{labels} records of a batch shape {shape} need {len} values each, but there are {values}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, values};

    const TEXT: &str = "layer { name: 'd' type: 'MemoryData' top: 'data' top: 'label' \
                        memory_data_param { batch_size: 2 channels: 1 height: 1 width: 2 } } \
                        layer { name: 'p' type: 'Power' bottom: 'data' top: 'y' }";

    #[test]
    fn batches_follow_each_other_and_begin_again() {
        let mut net = net(TEXT, Phase::Test);
        assert!(net.forward().unwrap_err().to_string().contains("has no data"));
        let data: Vec<f32> = (0..8).map(|i| i as f32).collect();
        net.set_memory_data("d", data, vec![5.0, 6.0, 7.0, 8.0]).unwrap();
        for (y, label) in [
            ([0.0, 1.0, 2.0, 3.0], [5.0, 6.0]),
            ([4.0, 5.0, 6.0, 7.0], [7.0, 8.0]),
            ([0.0, 1.0, 2.0, 3.0], [5.0, 6.0]),
        ] {
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), y);
            assert_eq!(values(&mut net, "label"), label);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        let mut net = net(TEXT, Phase::Test);
        for (layer, data, labels, said) in [
            ("d", 6, 3, "3 labels do not fill whole batches of 2"),
            ("d", 0, 0, "0 labels"),
            (
                "d",
                7,
                4,
                "4 records of a batch shape 2 1 1 2 (4) need 2 values each, but there are 7",
            ),
            ("p", 4, 2, "layer `p` (Power): takes no records"),
            ("q", 4, 2, "no layer called `q`"),
        ] {
            let result = net.set_memory_data(layer, vec![0.0; data], vec![0.0; labels]);
            let message = result.unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
