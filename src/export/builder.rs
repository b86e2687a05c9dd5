//! Puts an ONNX graph together in order. A node is named after its one output.

use tract_onnx::pb::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};

pub(super) const FLOAT: i64 = DataType::Float as i64;
pub(super) const INT64: i64 = DataType::Int64 as i64;
pub(super) const BOOL: i64 = DataType::Bool as i64;

/// A graph under construction.
#[derive(Default)]
pub(super) struct Builder {
    proto: GraphProto,
}

/// Makes the attributes of nodes.
pub(super) struct Attribute;

impl Attribute {
    pub(super) fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { i: value, ..Self::named(name, AttributeType::Int) }
    }

    pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
        AttributeProto { ints: values.to_vec(), ..Self::named(name, AttributeType::Ints) }
    }

    pub(super) fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { f: value, ..Self::named(name, AttributeType::Float) }
    }

    fn named(name: &str, kind: AttributeType) -> AttributeProto {
        AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() }
    }
}

impl Builder {
    /// Adds a node and returns the name of its output, which is its own.
    pub(super) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
            ..NodeProto::default()
        });
        name.to_owned()
    }

    /// Adds a constant tensor of float32.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.initializer(name, shape, FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }

    /// Adds a constant vector of int64.
    pub(super) fn ints(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, &[values.len()], INT64, bytes);
    }

    fn initializer(&mut self, name: &str, shape: &[usize], kind: i64, raw_data: Vec<u8>) {
        self.proto.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..TensorProto::default()
        });
    }

    /// Declares an input of float32; `None` stands for any number N.
    pub(super) fn input_floats(&mut self, name: &str, shape: &[Option<usize>]) {
        self.proto.input.push(value(name, FLOAT, shape));
    }

    /// Declares an input of uint8.
    pub(super) fn input_bytes(&mut self, name: &str, shape: &[Option<usize>]) {
        self.proto.input.push(value(name, DataType::Uint8 as i64, shape));
    }

    /// Declares an output.
    pub(super) fn output(&mut self, name: &str, kind: i64, shape: &[Option<usize>]) {
        self.proto.output.push(value(name, kind, shape));
    }

    pub(super) fn finish(self, name: &str) -> GraphProto {
        GraphProto { name: name.to_owned(), ..self.proto }
    }
}

fn value(name: &str, kind: i64, shape: &[Option<usize>]) -> ValueInfoProto {
    let dimension = |length: &Option<usize>| Dimension {
        value: Some(match length {
            Some(length) => dimension::Value::DimValue(*length as i64),
            None => dimension::Value::DimParam("N".to_owned()),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(r#type), ..ValueInfoProto::default() }
}
