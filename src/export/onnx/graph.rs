//! An ONNX graph in the making: nodes, constants and names.

use std::collections::HashSet;

use caffe_proto::onnx::attribute_proto::AttributeType;
use caffe_proto::onnx::tensor_proto::DataType;
use caffe_proto::onnx::type_proto::Tensor as TensorType;
use caffe_proto::onnx::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto::Dimension,
};

/// A value of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name there.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
}

/// The graph so far.
#[derive(Default)]
pub struct Graph {
    proto: GraphProto,
    taken: HashSet<String>,
}

impl Graph {
    /// An empty graph in which these names are spoken for.
    pub fn new(name: &str, reserved: impl IntoIterator<Item = String>) -> Self {
        let proto = GraphProto { name: Some(name.to_owned()), ..Default::default() };
        Graph { proto, taken: reserved.into_iter().collect() }
    }

    /// A name like `wanted` that no other value has.
    pub fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// A constant of floats; returns its name.
    pub fn floats(&mut self, wanted: &str, shape: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(wanted, shape, DataType::Float, raw)
    }

    /// A single number as a constant.
    pub fn scalar(&mut self, wanted: &str, value: f32) -> String {
        self.floats(wanted, &[], &[value])
    }

    /// A constant list of whole numbers, such as a shape.
    pub fn ints(&mut self, wanted: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(wanted, &[values.len()], DataType::Int64, raw)
    }

    fn constant(&mut self, wanted: &str, shape: &[usize], kind: DataType, raw: Vec<u8>) -> String {
        let name = self.unique(wanted);
        self.proto.initializer.push(TensorProto {
            dims: shape.iter().map(|&dim| dim as i64).collect(),
            data_type: Some(kind as i32),
            name: Some(name.clone()),
            raw_data: Some(raw),
        });
        name
    }

    /// Adds an operation.
    pub fn node(
        &mut self,
        kind: &str,
        inputs: &[&str],
        outputs: &[&str],
        settings: Vec<AttributeProto>,
    ) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        self.proto.node.push(NodeProto {
            input: owned(inputs),
            output: owned(outputs),
            name: outputs.first().map(|&name| name.to_owned()),
            op_type: Some(kind.to_owned()),
            attribute: settings,
        });
    }

    /// Adds an operation with one output, which gets a name of its own; returns it.
    pub fn step(&mut self, kind: &str, inputs: &[&str], wanted: &str) -> String {
        let name = self.unique(wanted);
        self.node(kind, inputs, &[&name], Vec::new());
        name
    }

    /// Makes a value an input.
    pub fn input(&mut self, value: &Value) {
        self.proto.input.push(info(value));
    }

    /// Makes a value an output.
    pub fn output(&mut self, value: &Value) {
        self.proto.output.push(info(value));
    }

    /// The finished graph.
    pub fn finish(self) -> GraphProto {
        self.proto
    }
}

fn info(value: &Value) -> ValueInfoProto {
    let dim = value.shape.iter().map(|&dim| Dimension { dim_value: Some(dim as i64) }).collect();
    let tensor = TensorType {
        elem_type: Some(DataType::Float as i32),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(TypeProto { tensor_type: Some(tensor) }),
    }
}

/// A setting that is a whole number.
pub fn int(name: &str, value: i64) -> AttributeProto {
    let kind = Some(AttributeType::Int as i32);
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: kind,
        ..Default::default()
    }
}

/// A setting that is a list of whole numbers.
pub fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.into_iter().map(|value| value as i64).collect(),
        r#type: Some(AttributeType::Ints as i32),
        ..Default::default()
    }
}

/// A setting that is a number.
pub fn float(name: &str, value: f32) -> AttributeProto {
    let kind = Some(AttributeType::Float as i32);
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(value),
        r#type: kind,
        ..Default::default()
    }
}
