//! What each layer type is in ONNX; layers with windows are in [`super::windows`].

use caffe_proto::eltwise_parameter::EltwiseOp;
use caffe_proto::lrn_parameter::NormRegion;

use super::View;
use super::graph::{Graph, Value, float, int};
use super::windows;
use crate::blob::Shape;
use crate::layers::dims;
use crate::{Result, bail, ensure};

/// Whether layers of this type hand their bottom on as it is, in the TEST phase.
pub fn passes(kind: &str) -> bool {
    matches!(kind, "Split" | "Dropout" | "Silence")
}

/// Adds a layer to the graph.
pub fn translate(kind: &str, view: &View, graph: &mut Graph) -> Result<()> {
    match kind {
        "Data" | "HDF5Data" | "ImageData" | "WindowData" | "MemoryData" | "DummyData" => bail!(
            "an exported net has no data layers; export the net's deploy form, with an Input layer"
        ),
        "Input" => view.tops.iter().for_each(|top| graph.input(top)),
        "Convolution" | "Deconvolution" => return windows::convolution(kind, view, graph),
        "Pooling" => return windows::pooling(view, graph),
        "InnerProduct" => return inner_product(view, graph),
        "LRN" => return lrn(view, graph),
        "BatchNorm" => return batch_norm(view, graph),
        "Scale" => return scale(view, graph),
        "Bias" => return bias(view, graph),
        "Concat" => return concat(view, graph),
        "Slice" => return slice(view, graph),
        "Eltwise" => return eltwise(view, graph),
        "Flatten" | "Reshape" => reshape(&view.bottoms[0].name, &view.tops[0], graph),
        "Softmax" => {
            let axis = view.param.softmax_param.as_deref().map_or(1, |p| p.axis());
            unary("Softmax", view, graph, vec![int("axis", axis.into())]);
        }
        _ => return activation(kind, view, graph),
    }
    Ok(())
}

fn unary(
    kind: &str,
    view: &View,
    graph: &mut Graph,
    settings: Vec<caffe_proto::onnx::AttributeProto>,
) {
    graph.node(kind, &[&view.bottoms[0].name], &[&view.tops[0].name], settings);
}

fn activation(kind: &str, view: &View, graph: &mut Graph) -> Result<()> {
    let (x, y) = match (view.bottoms.first(), view.tops.first()) {
        (Some(bottom), Some(top)) => (bottom.name.as_str(), top.name.as_str()),
        _ => bail!("ONNX export knows no layers of this type"),
    };
    match kind {
        "ReLU" => match view.param.relu_param.as_deref().map_or(0.0, |p| p.negative_slope()) {
            0.0 => unary("Relu", view, graph, Vec::new()),
            slope => unary("LeakyRelu", view, graph, vec![float("alpha", slope)]),
        },
        "PReLU" => {
            let mut shape = view.weights[0].shape.clone();
            let trailing = view.bottoms[0].shape.len().saturating_sub(2);
            if view.weights[0].values.len() > 1 {
                shape.extend(std::iter::repeat_n(1, trailing));
            }
            let slope = graph.floats(&view.weights[0].name, &shape, &view.weights[0].values);
            graph.node("PRelu", &[x, &slope], &[y], Vec::new());
        }
        "Sigmoid" => unary("Sigmoid", view, graph, Vec::new()),
        "TanH" => unary("Tanh", view, graph, Vec::new()),
        "AbsVal" => unary("Abs", view, graph, Vec::new()),
        "BNLL" => unary("Softplus", view, graph, Vec::new()),
        "ELU" => {
            let alpha = view.param.elu_param.as_deref().map_or(1.0, |p| p.alpha());
            unary("Elu", view, graph, vec![float("alpha", alpha)]);
        }
        _ => return composed(kind, view, graph),
    }
    Ok(())
}

/// Functions that take several operators.
fn composed(kind: &str, view: &View, graph: &mut Graph) -> Result<()> {
    let name = view.param.name();
    let (x, y) = (view.bottoms[0].name.as_str(), view.tops[0].name.as_str());
    match kind {
        "Swish" => {
            let beta = view.param.swish_param.as_deref().map_or(1.0, |p| p.beta());
            let scaled = linear(graph, x, beta, 0.0, name);
            let gate = graph.step("Sigmoid", &[&scaled], &format!("{name}#gate"));
            graph.node("Mul", &[x, &gate], &[y], Vec::new());
        }
        "Clip" => {
            let (min, max) =
                view.param.clip_param.as_deref().map_or((0.0, 0.0), |p| (p.min, p.max));
            let min = graph.scalar(&format!("{name}#min"), min);
            let max = graph.scalar(&format!("{name}#max"), max);
            graph.node("Clip", &[x, &min, &max], &[y], Vec::new());
        }
        "Power" => {
            let p = view.param.power_param.as_deref().cloned().unwrap_or_default();
            let inner = linear(graph, x, p.scale(), p.shift(), name);
            if p.power() == 1.0 {
                graph.node("Identity", &[&inner], &[y], Vec::new());
            } else {
                let power = graph.scalar(&format!("{name}#power"), p.power());
                graph.node("Pow", &[&inner, &power], &[y], Vec::new());
            }
        }
        "Exp" => {
            let p = view.param.exp_param.as_deref().cloned().unwrap_or_default();
            let ln = ln_of_base(p.base())?;
            let inner = linear(graph, x, p.scale() * ln, p.shift() * ln, name);
            graph.node("Exp", &[&inner], &[y], Vec::new());
        }
        "Log" => {
            let p = view.param.log_param.as_deref().cloned().unwrap_or_default();
            let factor = graph.scalar(&format!("{name}#factor"), 1.0 / ln_of_base(p.base())?);
            let inner = linear(graph, x, p.scale(), p.shift(), name);
            let log = graph.step("Log", &[&inner], &format!("{name}#ln"));
            graph.node("Mul", &[&log, &factor], &[y], Vec::new());
        }
        _ => bail!(
            "ONNX export knows no layers of this type; export the net's deploy form, without \
             losses and the like"
        ),
    }
    Ok(())
}

fn ln_of_base(base: f32) -> Result<f32> {
    ensure!(base == -1.0 || base > 0.0, "base {base} must be positive, or -1 for e");
    Ok(if base == -1.0 { 1.0 } else { base.ln() })
}

/// scale · x + shift; returns the name of the result, x itself where there is nothing to do.
fn linear(graph: &mut Graph, x: &str, scale: f32, shift: f32, name: &str) -> String {
    let mut x = x.to_owned();
    if scale != 1.0 {
        let scale = graph.scalar(&format!("{name}#scale"), scale);
        x = graph.step("Mul", &[&x, &scale], &format!("{name}#scaled"));
    }
    if shift != 0.0 {
        let shift = graph.scalar(&format!("{name}#shift"), shift);
        x = graph.step("Add", &[&x, &shift], &format!("{name}#shifted"));
    }
    x
}

fn dims_of(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&dim| dim as i64).collect()
}

/// Gives `x` the shape of `to` and puts it there.
fn reshape(x: &str, to: &Value, graph: &mut Graph) {
    let shape = graph.ints(&format!("{}#shape", to.name), &dims_of(&to.shape));
    graph.node("Reshape", &[x, &shape], &[&to.name], Vec::new());
}

fn axis_of(axis: i32, shape: &[usize]) -> usize {
    (if axis < 0 { axis + shape.len() as i32 } else { axis }).max(0) as usize
}

fn inner_product(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.inner_product_param.as_deref().cloned().unwrap_or_default();
    let (bottom, top) = (&view.bottoms[0], &view.tops[0]);
    let axis = axis_of(param.axis(), &bottom.shape);
    let rows: usize = bottom.shape[..axis].iter().product();
    let columns: usize = bottom.shape[axis..].iter().product();
    let name = view.param.name();
    let mut x = bottom.name.clone();
    if bottom.shape.len() != 2 || axis != 1 {
        let flat =
            Value { name: graph.unique(&format!("{name}#rows")), shape: vec![rows, columns] };
        reshape(&x, &flat, graph);
        x = flat.name;
    }
    let weights: Vec<String> =
        view.weights.iter().map(|w| graph.floats(&w.name, &w.shape, &w.values)).collect();
    let mut inputs = vec![x.as_str()];
    inputs.extend(weights.iter().map(String::as_str));
    let settings = vec![int("transB", i64::from(!param.transpose()))];
    if top.shape.len() == 2 {
        graph.node("Gemm", &inputs, &[&top.name], settings);
        return Ok(());
    }
    let product = graph.unique(&format!("{name}#product"));
    graph.node("Gemm", &inputs, &[&product], settings);
    reshape(&product, top, graph);
    Ok(())
}

fn lrn(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.lrn_param.as_deref().cloned().unwrap_or_default();
    ensure!(
        param.norm_region() == NormRegion::AcrossChannels,
        "ONNX has no local response normalization WITHIN_CHANNEL"
    );
    let settings = vec![
        int("size", param.local_size().into()),
        float("alpha", param.alpha()),
        float("beta", param.beta()),
        float("bias", param.k()),
    ];
    unary("LRN", view, graph, settings);
    Ok(())
}

fn batch_norm(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.batch_norm_param.as_deref().cloned().unwrap_or_default();
    ensure!(
        param.use_global_stats.unwrap_or(true),
        "use_global_stats: false normalizes by the batch at hand, which ONNX inference does not"
    );
    ensure!(view.bottoms[0].shape.len() >= 2, "ONNX normalizes channels, and there are none");
    // Caffe accumulates; blob 2 says how much.
    let factor = match view.weights[2].values.first() {
        Some(&sum) if sum != 0.0 => 1.0 / sum,
        _ => 0.0,
    };
    let channels = view.weights[0].values.len();
    let name = view.param.name();
    let mut statistic = |blob: usize| {
        let values: Vec<f32> = view.weights[blob].values.iter().map(|v| v * factor).collect();
        graph.floats(&view.weights[blob].name, &[channels], &values)
    };
    let (mean, variance) = (statistic(0), statistic(1));
    let one = graph.floats(&format!("{name}#one"), &[channels], &vec![1.0; channels]);
    let zero = graph.floats(&format!("{name}#zero"), &[channels], &vec![0.0; channels]);
    let inputs = [view.bottoms[0].name.as_str(), &one, &zero, &mean, &variance];
    let settings = vec![float("epsilon", param.eps())];
    graph.node("BatchNormalization", &inputs, &[&view.tops[0].name], settings);
    Ok(())
}

/// The shape with which values laid over some axes of `bottom` broadcast.
fn broadcast(values: &[usize], axes: &std::ops::Range<usize>, bottom: &[usize]) -> Vec<usize> {
    let mut shape = values.to_vec();
    shape.extend(std::iter::repeat_n(1, bottom.len() - axes.end));
    shape
}

/// The values that Scale and Bias lay over their bottom: parameter 0 or the second bottom.
fn laid_over(
    view: &View,
    graph: &mut Graph,
    axis: i32,
    num_axes: i32,
) -> Result<(String, Vec<usize>)> {
    let bottom = Shape::new(view.bottoms[0].shape.clone());
    match view.bottoms.get(1) {
        Some(values) => {
            let axes = dims::laid_over(&bottom, axis, &Shape::new(values.shape.clone()))?;
            let shape = broadcast(&values.shape, &axes, &view.bottoms[0].shape);
            let name = graph.unique(&format!("{}#over", view.param.name()));
            reshape(&values.name, &Value { name: name.clone(), shape: shape.clone() }, graph);
            Ok((name, shape))
        }
        None => {
            let axes = dims::span(&bottom, axis, num_axes)?;
            let weight = &view.weights[0];
            let shape = broadcast(&weight.shape, &axes, &view.bottoms[0].shape);
            Ok((graph.floats(&weight.name, &shape, &weight.values), shape))
        }
    }
}

fn scale(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.scale_param.as_deref().cloned().unwrap_or_default();
    let (factor, shape) = laid_over(view, graph, param.axis(), param.num_axes())?;
    let (x, y) = (&view.bottoms[0].name, &view.tops[0].name);
    if !param.bias_term() {
        graph.node("Mul", &[x, &factor], &[y], Vec::new());
        return Ok(());
    }
    let Some(bias) = view.weights.last() else { bail!("bias_term without a bias") };
    let bias = graph.floats(&bias.name, &shape, &bias.values);
    let scaled = graph.step("Mul", &[x, &factor], &format!("{}#scaled", view.param.name()));
    graph.node("Add", &[&scaled, &bias], &[y], Vec::new());
    Ok(())
}

fn bias(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.bias_param.as_deref().cloned().unwrap_or_default();
    let (bias, _) = laid_over(view, graph, param.axis(), param.num_axes())?;
    graph.node("Add", &[&view.bottoms[0].name, &bias], &[&view.tops[0].name], Vec::new());
    Ok(())
}

fn concat(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.concat_param.as_deref().cloned().unwrap_or_default();
    let axis = param.concat_dim.map_or(param.axis().into(), i64::from);
    let inputs: Vec<&str> = view.bottoms.iter().map(|bottom| bottom.name.as_str()).collect();
    graph.node("Concat", &inputs, &[&view.tops[0].name], vec![int("axis", axis)]);
    Ok(())
}

fn slice(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.slice_param.as_deref().cloned().unwrap_or_default();
    let axis = param.slice_dim.map_or(param.axis(), |dim| dim as i32);
    let at = axis_of(axis, &view.bottoms[0].shape);
    let sizes: Vec<i64> = view.tops.iter().map(|top| top.shape[at] as i64).collect();
    let sizes = graph.ints(&format!("{}#sizes", view.param.name()), &sizes);
    let tops: Vec<&str> = view.tops.iter().map(|top| top.name.as_str()).collect();
    let settings = vec![int("axis", at as i64)];
    graph.node("Split", &[&view.bottoms[0].name, &sizes], &tops, settings);
    Ok(())
}

fn eltwise(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.eltwise_param.as_deref().cloned().unwrap_or_default();
    let (name, y) = (view.param.name(), view.tops[0].name.as_str());
    let mut inputs: Vec<String> = view.bottoms.iter().map(|b| b.name.clone()).collect();
    match param.operation() {
        EltwiseOp::Max | EltwiseOp::Sum => {
            for (input, &coeff) in inputs.iter_mut().zip(&param.coeff) {
                *input = linear(graph, input, coeff, 0.0, name);
            }
            let kind = if param.operation() == EltwiseOp::Max { "Max" } else { "Sum" };
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            graph.node(kind, &inputs, &[y], Vec::new());
        }
        EltwiseOp::Prod => {
            let (first, rest) = (&inputs[0], &inputs[1..]);
            let mut product = first.clone();
            for (i, factor) in rest.iter().enumerate() {
                if i + 1 == rest.len() {
                    graph.node("Mul", &[&product, factor], &[y], Vec::new());
                } else {
                    product = graph.step("Mul", &[&product, factor], &format!("{name}#product"));
                }
            }
        }
    }
    Ok(())
}
