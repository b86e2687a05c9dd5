//! Builds an ONNX graph node by node. A node has one output of the same name, except a split and a TopK.

use std::collections::HashSet;

use super::proto::{Attribute, Graph, Node, Tensor, Value, element};

/// A graph under construction.
#[derive(Default)]
pub(crate) struct Builder {
    graph: Graph,
}

impl Builder {
    /// Continues a graph.
    pub(crate) fn of(graph: Graph) -> Self {
        Self { graph }
    }

    /// Adds a node and returns its name, which is also that of its output.
    pub(crate) fn node(
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
            domain: String::new(),
        });
        name.to_owned()
    }

    /// Whether there is an initializer of this name.
    pub(crate) fn has_constant(&self, name: &str) -> bool {
        self.graph.initializer.iter().any(|tensor| tensor.name == name)
    }

    /// Whether there is a node of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.graph.node.iter().any(|node| node.name == name)
    }

    /// Adds a node that finds the `count` smallest values of each row, in any order, and returns the name of
    /// their tensor.
    pub(crate) fn smallest(&mut self, name: &str, input: &str, count: usize) -> String {
        let [wanted, places] = ["count", "places"].map(|part| format!("{name}/{part}"));
        self.ints(&wanted, &[count as i64]);
        let attributes =
            vec![Attribute::int("axis", 1), Attribute::int("largest", 0), Attribute::int("sorted", 1)];
        self.node("TopK", name, &[input, &wanted], attributes);
        self.graph.node.last_mut().expect("just added").output.push(places);
        name.to_owned()
    }

    /// Adds a node that splits its first input along axis 0 into parts of the lengths in the second.
    pub(crate) fn split(&mut self, name: &str, inputs: &[&str; 2], outputs: &[String]) {
        self.node("Split", name, inputs, vec![Attribute::int("axis", 0)]);
        self.graph.node.last_mut().expect("just added").output = outputs.to_vec();
    }

    /// Adds a float32 initializer.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        self.constant(name, shape, element::FLOAT, values, |value| value.to_le_bytes());
    }

    /// Adds an int64 vector as an initializer.
    pub(crate) fn ints(&mut self, name: &str, values: &[i64]) {
        self.constant(name, &[values.len()], element::INT64, values, |value| value.to_le_bytes());
    }

    /// Adds an int64 scalar as an initializer.
    pub(crate) fn scalar(&mut self, name: &str, value: i64) {
        self.constant(name, &[], element::INT64, &[value], |value| value.to_le_bytes());
    }

    /// Adds an initializer.
    pub(crate) fn constant<T: Copy, const SIZE: usize>(
        &mut self,
        name: &str,
        shape: &[usize],
        data_type: i32,
        values: &[T],
        bytes: impl Fn(T) -> [u8; SIZE],
    ) {
        self.graph.initializer.push(Tensor {
            name: name.to_owned(),
            dims: shape.iter().map(|&length| length as i64).collect(),
            data_type,
            raw_data: values.iter().flat_map(|&value| bytes(value)).collect(),
            ..Tensor::default()
        });
    }

    /// Adds the float32 tensor `name`, which is stored as float16.
    pub(crate) fn halves(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let stored = format!("{name}.half");
        self.constant(&stored, shape, element::FLOAT16, values, |value| {
            half::f16::from_f32(value).to_le_bytes()
        });
        self.node("Cast", name, &[&stored], vec![Attribute::int("to", element::FLOAT.into())]);
    }

    /// Declares an input; `None` is a dynamic axis.
    pub(crate) fn input(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.input.push(Value::new(name, element, shape));
    }

    /// Declares an output.
    pub(crate) fn output(&mut self, name: &str, element: i32, shape: &[Option<usize>]) {
        self.graph.output.push(Value::new(name, element, shape));
    }

    /// The name that two tensors have, if there are such tensors.
    pub(crate) fn clash(&self) -> Option<&str> {
        let computed = self.graph.node.iter().flat_map(|node| &node.output);
        let mut names = HashSet::new();
        let mut all = self.graph.initializer.iter().map(|tensor| &tensor.name).chain(computed);
        all.find(|name| !names.insert(*name)).map(String::as_str)
    }

    /// The graph.
    ///
    /// # Panics
    /// If two tensors have the same name.
    pub(crate) fn finish(self, name: &str) -> Graph {
        assert_eq!(self.clash(), None, "two tensors have this name");
        Graph { name: name.to_owned(), ..self.graph }
    }
}
