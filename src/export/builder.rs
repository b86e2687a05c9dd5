//! Puts an ONNX graph together in order. A node is named after its one output.

use crate::onnx::{Attribute, Graph, Node, Tensor, Value, element};

/// A graph under construction.
#[derive(Default)]
pub(super) struct Builder {
    graph: Graph,
}

impl Builder {
    /// Adds a node and returns the name of its output, which is its own.
    pub(super) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<Attribute>,
    ) -> String {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
        name.to_owned()
    }

    /// Adds a constant tensor of float32.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, shape, element::FLOAT, bytes);
    }

    /// Adds a constant vector of int64.
    pub(super) fn ints(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, &[values.len()], element::INT64, bytes);
    }

    fn initializer(&mut self, name: &str, shape: &[usize], data_type: i32, raw_data: Vec<u8>) {
        self.graph.initializer.push(Tensor {
            name: name.to_owned(),
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type,
            raw_data,
            ..Tensor::default()
        });
    }

    /// Declares an input; `None` stands for any number N.
    pub(super) fn input(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.input.push(Value::new(name, element, shape));
    }

    /// Declares an output.
    pub(super) fn output(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.output.push(Value::new(name, element, shape));
    }

    pub(super) fn finish(self, name: &str) -> Graph {
        Graph { name: name.to_owned(), ..self.graph }
    }
}
