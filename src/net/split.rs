//! Automatic splits: a blob that several layers read gets a `Split` layer, so that every blob has
//! one reader and gradients have one place to be summed. Names follow Caffe's pattern
//! (`data_conv1_0_split_1`), since people meet them in logs and in pycaffe.

use std::collections::HashMap;

use caffe_proto::LayerParameter;

/// Where a blob is made: layer and place among its tops.
type Made = (usize, usize);

/// A layer of the net with its place in the prototxt file (inserted splits have their maker's).
#[derive(Clone)]
pub struct Placed {
    /// The layer's prototxt.
    pub param: LayerParameter,
    /// Number of the `layer` block in the file.
    pub block: usize,
}

/// Inserts `Split` layers behind every blob with more than one reader. A top that carries a loss
/// weight counts as read once more.
pub fn insert_splits(layers: Vec<Placed>) -> Vec<Placed> {
    let mut readers: HashMap<Made, usize> = HashMap::new();
    let mut reads: HashMap<(usize, usize), Made> = HashMap::new();
    let mut latest: HashMap<String, Made> = HashMap::new();
    for (i, Placed { param, .. }) in layers.iter().enumerate() {
        for (j, bottom) in param.bottom.iter().enumerate() {
            // An unknown bottom is reported by the net builder, with its place.
            if let Some(&made) = latest.get(bottom) {
                *readers.entry(made).or_default() += 1;
                reads.insert((i, j), made);
            }
        }
        for (j, top) in param.top.iter().enumerate() {
            latest.insert(top.clone(), (i, j));
            if loss_weight(param, j) != 0.0 {
                *readers.entry((i, j)).or_default() += 1;
            }
        }
    }

    let mut next: HashMap<Made, usize> = HashMap::new();
    let mut out = Vec::with_capacity(layers.len());
    let names: Vec<(String, Vec<String>)> =
        layers.iter().map(|l| (l.param.name().to_owned(), l.param.top.clone())).collect();
    for (i, mut placed) in layers.into_iter().enumerate() {
        for j in 0..placed.param.bottom.len() {
            let Some(&made) = reads.get(&(i, j)) else { continue };
            if readers[&made] > 1 {
                let k = next.entry(made).or_default();
                let (layer, tops) = &names[made.0];
                placed.param.bottom[j] = split_top(&tops[made.1], layer, made.1, *k);
                *k += 1;
            }
        }
        let block = placed.block;
        let tops = placed.param.top.clone();
        let splits: Vec<Placed> = (0..tops.len())
            .filter(|&j| readers.get(&(i, j)).is_some_and(|&n| n > 1))
            .map(|j| {
                let weight = loss_weight(&placed.param, j);
                if weight != 0.0 {
                    // The loss moves to the split's first top.
                    placed.param.loss_weight[j] = 0.0;
                    next.insert((i, j), 1);
                }
                let param = split_layer(placed.param.name(), &tops[j], j, readers[&(i, j)], weight);
                Placed { param, block }
            })
            .collect();
        out.push(placed);
        out.extend(splits);
    }
    out
}

fn loss_weight(param: &LayerParameter, top: usize) -> f32 {
    param.loss_weight.get(top).copied().unwrap_or(0.0)
}

fn split_top(blob: &str, layer: &str, top: usize, k: usize) -> String {
    format!("{blob}_{layer}_{top}_split_{k}")
}

fn split_layer(layer: &str, blob: &str, top: usize, n: usize, loss_weight: f32) -> LayerParameter {
    let mut weights = Vec::new();
    if loss_weight != 0.0 {
        weights = vec![0.0; n];
        weights[0] = loss_weight;
    }
    LayerParameter {
        name: Some(format!("{blob}_{layer}_{top}_split")),
        r#type: Some("Split".into()),
        bottom: vec![blob.to_owned()],
        top: (0..n).map(|k| split_top(blob, layer, top, k)).collect(),
        loss_weight: weights,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caffe_proto::NetParameter;

    fn split(text: &str) -> Vec<LayerParameter> {
        let net: NetParameter = caffe_proto::text::parse("test", text).unwrap();
        let placed = net.layer.into_iter().enumerate();
        let placed = placed.map(|(block, param)| Placed { param, block }).collect();
        insert_splits(placed).into_iter().map(|p| p.param).collect()
    }

    #[test]
    fn one_reader_needs_no_split() {
        let layers = split(
            "layer { name: 'd' type: 'Input' top: 'x' } layer { name: 'a' type: 'ReLU' bottom: 'x' top: 'x' }",
        );
        assert_eq!(layers.len(), 2);
    }

    #[test]
    fn two_readers_get_two_tops_with_caffes_names() {
        let layers = split(
            "layer { name: 'd' type: 'Input' top: 'x' } \
             layer { name: 'a' type: 'ReLU' bottom: 'x' top: 'y' } \
             layer { name: 'b' type: 'ReLU' bottom: 'x' top: 'z' }",
        );
        assert_eq!(layers[1].name(), "x_d_0_split");
        assert_eq!(layers[1].top, ["x_d_0_split_0", "x_d_0_split_1"]);
        assert_eq!(layers[2].bottom, ["x_d_0_split_0"]);
        assert_eq!(layers[3].bottom, ["x_d_0_split_1"]);
    }

    #[test]
    fn an_in_place_layer_makes_the_blob_anew() {
        let layers = split(
            "layer { name: 'd' type: 'Input' top: 'x' } \
             layer { name: 'r' type: 'ReLU' bottom: 'x' top: 'x' } \
             layer { name: 'a' type: 'ReLU' bottom: 'x' top: 'y' } \
             layer { name: 'b' type: 'ReLU' bottom: 'x' top: 'z' }",
        );
        assert_eq!(layers.len(), 5);
        assert_eq!(layers[2].name(), "x_r_0_split");
    }

    #[test]
    fn a_loss_that_is_read_keeps_its_weight_on_the_split() {
        let layers = split(
            "layer { name: 'l' type: 'EuclideanLoss' top: 'loss' loss_weight: 2 } \
             layer { name: 'p' type: 'Power' bottom: 'loss' top: 'y' }",
        );
        assert_eq!(layers[1].loss_weight, [2.0, 0.0]);
        assert_eq!(layers[0].loss_weight, [0.0]);
        assert_eq!(layers[2].bottom, ["loss_l_0_split_1"]);
    }
}
