//! The messages of an ONNX file (`onnx.proto`, IR version 8) with the fields that this toolkit reads or
//! writes; others are skipped. A scalar attribute is written even if it is 0, because some readers reject an
//! absent one.

use prost::{Message, bytes::Bytes};

/// The version of the operator set that is written: the newest that all common runtimes accept.
pub(crate) const OPSET: i64 = 17;
/// The IR version that is written.
pub(crate) const IR_VERSION: i64 = 8;

/// Element types of tensors.
pub(crate) mod element {
    pub(crate) const FLOAT: i32 = 1;
    pub(crate) const UINT8: i32 = 2;
    pub(crate) const INT8: i32 = 3;
    pub(crate) const INT32: i32 = 6;
    pub(crate) const INT64: i32 = 7;
    pub(crate) const BOOL: i32 = 9;
    pub(crate) const FLOAT16: i32 = 10;
    pub(crate) const DOUBLE: i32 = 11;
    pub(crate) const BFLOAT16: i32 = 16;

    /// The name of a type.
    pub(crate) fn name(kind: i32) -> String {
        match kind {
            FLOAT => "float32".to_owned(),
            UINT8 => "uint8".to_owned(),
            INT8 => "int8".to_owned(),
            INT32 => "int32".to_owned(),
            INT64 => "int64".to_owned(),
            BOOL => "bool".to_owned(),
            FLOAT16 => "float16".to_owned(),
            DOUBLE => "float64".to_owned(),
            BFLOAT16 => "bfloat16".to_owned(),
            other => format!("of type {other}"),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(string, tag = "6")]
    pub doc_string: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Property>,
    /// Undecoded.
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub functions: Vec<Vec<u8>>,
}

impl Model {
    /// A model with a graph and properties, produced by this toolkit.
    pub(crate) fn new(graph: Graph, metadata_props: Vec<Property>) -> Self {
        Self {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: String::new(),
            graph: Some(graph),
            metadata_props,
            functions: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    /// Empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Property {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<Value>,
    /// Undecoded.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    /// The operator set; empty for ONNX's own.
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    /// Undecoded, because a model of this toolkit has none.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub g: Option<Vec<u8>>,
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<Tensor>,
    /// Undecoded.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub graphs: Vec<Vec<u8>>,
    /// The field that holds the value.
    #[prost(int32, tag = "20")]
    pub kind: i32,
    /// Undecoded.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub sparse_tensor: Option<Vec<u8>>,
    /// Undecoded.
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub sparse_tensors: Vec<Vec<u8>>,
}

impl Attribute {
    pub(crate) fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::named(name, 1) }
    }

    pub(crate) fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::named(name, 2) }
    }

    pub(crate) fn ints(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::named(name, 7) }
    }

    fn named(name: &str, kind: i32) -> Self {
        Self { name: name.to_owned(), kind, ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Integers, and the bits of 16-bit numbers.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    /// The values, little-endian, instead of `float_data`.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Not 0 if the values are in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

impl Tensor {
    /// Whether a field other than `raw_data` has values.
    pub(crate) fn has_typed_data(&self) -> bool {
        let Self { float_data, int32_data, int64_data, double_data, uint64_data, .. } = self;
        !float_data.is_empty()
            || !int32_data.is_empty()
            || !int64_data.is_empty()
            || !double_data.is_empty()
            || !uint64_data.is_empty()
    }

    /// Whether a floating-point value is NaN or infinite.
    pub(crate) fn has_non_finite(&self) -> bool {
        fn any<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
            bytes.as_chunks().0.iter().any(|&value| !is_finite(value))
        }
        // Only infinity and NaN have all bits of the exponent set.
        let half = |bits: u16| bits & 0x7c00 != 0x7c00;
        let brain = |bits: u16| bits & 0x7f80 != 0x7f80;
        let bits = |is_finite: &dyn Fn(u16) -> bool| {
            any(&self.raw_data, |bytes| is_finite(u16::from_le_bytes(bytes)))
                || self.int32_data.iter().any(|&bits| !is_finite(bits as u16))
        };
        match self.data_type {
            element::FLOAT => {
                any(&self.raw_data, |bytes| f32::from_le_bytes(bytes).is_finite())
                    || self.float_data.iter().any(|value| !value.is_finite())
            }
            element::DOUBLE => {
                any(&self.raw_data, |bytes| f64::from_le_bytes(bytes).is_finite())
                    || self.double_data.iter().any(|value| !value.is_finite())
            }
            element::FLOAT16 => bits(&half),
            element::BFLOAT16 => bits(&brain),
            _ => false,
        }
    }
}

/// An input or output.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

impl Value {
    /// `None` is a dynamic axis: N, then H and W of `images`, h and w of an output.
    pub(crate) fn new(name: &str, element: i32, shape: &[Option<usize>]) -> Self {
        // Equal names mean equal lengths.
        let mut sides = if name == "images" { ["H", "W"] } else { ["h", "w"] }.into_iter();
        let mut letter =
            |axis| if axis == 0 { "N" } else { sides.next().expect("two dynamic sides at most") };
        let dimension = |(axis, length): (usize, &Option<usize>)| Dimension {
            length: length.map(|length| length as i64),
            name: length.is_none().then(|| letter(axis).to_owned()),
        };
        let shape = Shape { dim: shape.iter().enumerate().map(dimension).collect() };
        let tensor = TensorType { element, shape: Some(shape) };
        Self { name: name.to_owned(), r#type: Some(Type { tensor: Some(tensor) }) }
    }

    /// The element type and shape; `None` for a dynamic axis.
    pub(crate) fn tensor(&self) -> Option<(i32, Vec<Option<usize>>)> {
        let tensor = self.r#type.as_ref()?.tensor.as_ref()?;
        let length = |dimension: &Dimension| usize::try_from(dimension.length?).ok().filter(|&l| l > 0);
        Some((tensor.element, tensor.shape.as_ref()?.dim.iter().map(length).collect()))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub element: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// The length of an axis, or the name of a dynamic one.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub length: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
}
