//! Named tensors in a file: trained networks, backbones and checkpoints. They are written as safetensors, and
//! read as safetensors or, with the feature `files`, as PyTorch's `.pt` and `.pth`.

#[cfg(feature = "files")]
mod published;
#[cfg(feature = "files")]
mod pytorch;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    arch::{Architecture, FAMILIES, Layer, Recognized},
    error::{Error, Result},
    files::atomic,
    image::Input,
};

#[cfg(feature = "files")]
pub use published::{PUBLISHED, Published};

/// A tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The values; their number is the product of the shape.
    pub values: Vec<f32>,
}

/// The tensors of one file by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    /// Text stored with the tensors.
    pub note: Option<String>,
}

/// The key of the note in a safetensors file's metadata.
const NOTE: &str = "note";

impl Weights {
    /// An empty set; `path` names it in errors.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), tensors: BTreeMap::new(), note: None }
    }

    /// Reads a safetensors file or a PyTorch file, recognised by its content. A PyTorch file of either format
    /// holds a state dict, or a dictionary with one under `state_dict`, `net` or `model`. No code in it is
    /// executed.
    ///
    /// Floating-point tensors of any width become `f32`; tensors of other types, such as PyTorch's batch
    /// counters, are skipped. Names become those of pytorch-ood: a prefix `module.` is dropped, and
    /// `conv_shortcut` becomes `convShortcut`.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Weights`] if the file is malformed or asks to run code.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let mut weights = Self::new(path);
        #[cfg(feature = "files")]
        if pytorch::is_pytorch(&bytes) {
            for tensor in pytorch::read(&bytes).map_err(|reason| weights.error(reason))? {
                weights.insert(&usual(&tensor.name), &tensor.shape, tensor.values);
            }
            return Ok(weights);
        }
        let broken = |error| weights.error(format!("not a safetensors file: {error}"));
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let (_, head) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        weights.note = head.metadata().as_ref().and_then(|metadata| metadata.get(NOTE).cloned());
        for (name, view) in file.tensors() {
            if let Some(values) = floats(&view) {
                weights.insert(&usual(&name), view.shape(), values);
            }
        }
        Ok(weights)
    }

    /// Writes a safetensors file atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes: Vec<(&String, &Tensor, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| {
                (name, tensor, tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, tensor, bytes)| {
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
            (name, view.expect("values match the shape"))
        });
        let metadata = self.note.as_ref().map(|note| HashMap::from([(NOTE.to_owned(), note.clone())]));
        let file = safetensors::serialize(views, metadata)
            .map_err(|error| self.error(format!("cannot be written: {error}")))?;
        atomic::write(path, &file)
    }

    /// Adds or replaces a tensor.
    ///
    /// # Panics
    /// If the number of values is not the product of the shape.
    pub fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values of `{name}`");
        self.tensors.insert(name.to_owned(), Tensor { shape: shape.to_vec(), values });
    }

    /// Adds or replaces a matrix.
    pub fn insert_matrix(&mut self, name: &str, matrix: &Array2<f32>) {
        self.insert(name, matrix.shape(), matrix.iter().copied().collect());
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors of these layers only.
    ///
    /// # Errors
    /// Those of [`values`](Self::values).
    pub fn of_layers(&self, layers: &[Layer]) -> Result<Self> {
        let mut network = Self::new(&self.path);
        for (name, shape) in layers.iter().flat_map(Layer::parameters) {
            network.insert(&name, &shape, self.values(&name, &shape)?.to_vec());
        }
        Ok(network)
    }

    /// The tensor with this name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The values of the tensor with this name and shape.
    ///
    /// # Errors
    /// [`Error::Weights`] if the tensor is missing, has another shape, or holds a value that is not finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<&[f32]> {
        let tensor =
            self.get(name).ok_or_else(|| self.error(format!("tensor `{name}` {shape:?} is missing")))?;
        if tensor.shape != shape {
            let found = &tensor.shape;
            return Err(self.error(format!("tensor `{name}` has shape {found:?}, expected {shape:?}")));
        }
        if let Some(value) = tensor.values.iter().find(|value| !value.is_finite()) {
            return Err(self.error(format!("tensor `{name}` holds {value}")));
        }
        Ok(&tensor.values)
    }

    /// The first tensor with a value that is NaN or infinite, and that value.
    #[must_use]
    pub fn not_finite(&self) -> Option<(&str, f32)> {
        self.tensors.iter().find_map(|(name, tensor)| {
            Some((name.as_str(), *tensor.values.iter().find(|value| !value.is_finite())?))
        })
    }

    /// [`values`](Self::values) of a matrix.
    ///
    /// # Errors
    /// Those of [`values`](Self::values).
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Array2<f32>> {
        let values = self.values(name, &shape)?.to_vec();
        Ok(Array2::from_shape_vec(shape, values).expect("the shape was checked"))
    }

    /// The input of the network, if the file states it.
    #[must_use]
    pub fn input(&self) -> Option<Input> {
        let note: serde_json::Value = serde_json::from_str(self.note.as_ref()?).ok()?;
        serde_json::from_value(note.get("input")?.clone()).ok()
    }

    /// Recognises the network from the names and shapes of its tensors.
    ///
    /// # Errors
    /// [`Error::Weights`] if they match no known network.
    pub fn recognize(&self) -> Result<Recognized> {
        let shapes = |name: &str| self.get(name).map(|tensor| &tensor.shape[..]);
        Architecture::recognize(&shapes).ok_or_else(|| {
            let marks = FAMILIES.iter().map(|family| format!("{} has `{}`", family.name, family.mark));
            let marks: Vec<String> = marks.collect();
            self.error(format!("they match no known network: {}", marks.join(", ")))
        })
    }

    /// An error that names this file.
    pub(crate) fn error(&self, reason: String) -> Error {
        Error::Weights { path: self.path.clone(), reason }
    }
}

/// A tensor's name in pytorch-ood.
fn usual(name: &str) -> String {
    name.strip_prefix("module.").unwrap_or(name).replace("conv_shortcut", "convShortcut")
}

/// The values of a floating-point tensor; `None` for other types.
fn floats(view: &TensorView) -> Option<Vec<f32>> {
    fn decode<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&chunk| decode(chunk)).collect()
    }
    let bytes = view.data();
    match view.dtype() {
        Dtype::F16 => Some(decode(bytes, |b| f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => Some(decode(bytes, |b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F32 => Some(decode(bytes, f32::from_le_bytes)),
        Dtype::F64 => Some(decode(bytes, |b| f64::from_le_bytes(b) as f32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_floating_point_types_are_read_and_others_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let half = f16::from_f32(1.5).to_le_bytes();
        let brain = bf16::from_f32(-2.0).to_le_bytes();
        let single = 0.25_f32.to_le_bytes();
        let double = 8_f64.to_le_bytes();
        let count = 7_i64.to_le_bytes();
        let view = |dtype, bytes| TensorView::new(dtype, vec![1], bytes).unwrap();
        let tensors = [
            ("module.half", view(Dtype::F16, &half[..])),
            ("brain", view(Dtype::BF16, &brain[..])),
            ("single", view(Dtype::F32, &single[..])),
            ("double", view(Dtype::F64, &double[..])),
            ("bn1.num_batches_tracked", view(Dtype::I64, &count[..])),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let weights = Weights::read(&path).unwrap();
        for (name, value) in [("half", 1.5), ("brain", -2.0), ("single", 0.25), ("double", 8.0)] {
            assert_eq!(weights.values(name, &[1]).unwrap(), [value], "{name}");
        }
        assert!(weights.get("bn1.num_batches_tracked").is_none());

        let weights = Weights { note: Some("a note".to_owned()), ..weights };
        weights.write(&path).unwrap();
        assert_eq!(Weights::read(&path).unwrap(), weights);
    }

    #[test]
    fn networks_are_recognized_by_names_and_shapes() {
        for (family, settings, size) in [
            ("wide-resnet", [("depth", 16.0), ("widen_factor", 3.0)].as_slice(), None),
            ("cac-net", &[("channels", 5.0)], Some(24)),
        ] {
            let network = Architecture::new(family, settings).unwrap();
            let mut weights = Weights::new(Path::new("w"));
            for (name, shape) in network.layers(7, 24, 24).unwrap().iter().flat_map(Layer::parameters) {
                weights.insert(&name, &shape, vec![0.0; shape.iter().product()]);
            }
            let found = weights.recognize().unwrap();
            assert_eq!(found, Recognized { architecture: network, classes: Some(7), size });
        }
        let error = Weights::new(Path::new("w")).recognize().unwrap_err().to_string();
        assert!(error.contains("they match no known network: wide-resnet has `block1."), "{error}");
    }

    #[test]
    fn errors_name_file_tensor_and_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let mut weights = Weights::new(&path);
        weights.insert("fc.bias", &[2], vec![0.0, f32::NAN]);
        let message = |result: Result<&[f32]>| result.unwrap_err().to_string();
        assert!(message(weights.values("fc.weight", &[2, 3])).contains("`fc.weight` [2, 3] is missing"));
        assert!(message(weights.values("fc.bias", &[3])).contains("has shape [2], expected [3]"));
        assert!(message(weights.values("fc.bias", &[2])).contains("holds NaN"));
        assert!(message(weights.values("fc.bias", &[3])).contains("w.safetensors"));

        weights.write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 7, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(Weights::read(&path), Err(Error::Weights { .. })), "{length} bytes");
        }
    }
}
