//! Named tensors in a file: trained networks, backbones and checkpoints. They are written as safetensors, and
//! read as safetensors or, with the feature `files`, as PyTorch's `.pt` and `.pth`.

mod find;
#[cfg(any(feature = "export", feature = "train"))]
mod fold;
#[cfg(feature = "files")]
mod published;
#[cfg(feature = "files")]
mod pytorch;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, View},
};
use serde::de::DeserializeOwned;

use crate::{
    arch::{Architecture, HEAD_PREFIX, Layer, Recognized},
    error::{Error, Result},
    files::{atomic, kind, read_at_most},
    image::Input,
    method::Loss,
};

#[cfg(feature = "train")]
use crate::model::Training;
#[cfg(feature = "export")]
pub(crate) use find::{is_counter, outside};
#[cfg(any(feature = "export", feature = "train"))]
pub(crate) use fold::folded;
#[cfg(feature = "files")]
pub use published::PublishedWeights;
#[cfg(feature = "files")]
use {
    crate::files::checksum,
    sha2::{Digest, Sha256},
};

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
    /// The prefix that was removed from the names.
    prefix: String,
    /// Text stored with the tensors.
    pub note: Option<String>,
}

/// The maximum length of a file of weights, in bytes.
const LARGEST: u64 = 4 << 30;

/// The key of the note in a safetensors file's metadata.
const NOTE: &str = "note";
/// The last field of a note that is a JSON object, in a file: the checksum of the note without it, and of all
/// tensors. A second entry of the metadata would be in random order.
const CHECKSUM: &str = "\"sha256\":\"";
/// The depth to which prefixes of names are considered: a name of many dots has as many prefixes.
const DEPTH: usize = 16;

impl Weights {
    /// An empty set; `path` names it in errors.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), tensors: BTreeMap::new(), prefix: String::new(), note: None }
    }

    /// Reads all tensors of a safetensors file or a PyTorch file, recognised by its content. No code in a
    /// PyTorch file is executed. [`network`](Self::network) finds the network among the tensors.
    ///
    /// Floating-point tensors of any width become `f32`; tensors of other types, such as PyTorch's batch
    /// counters, are skipped, and so is everything that is not a tensor. The name of a tensor in nested
    /// dictionaries, or in a module saved whole, joins the keys of all levels by dots. Parts of a name
    /// inserted by PyTorch's wrappers, such as `module` and `_orig_mod`, are dropped, and `conv_shortcut`
    /// becomes `convShortcut`, as in pytorch-ood. The names of EfficientNet-PyTorch become those of timm.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Weights`] if the file is malformed or of another kind, which it names, or if
    /// its checksum, which [`write`](Self::write) adds, is another one.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_sealed(path).map(|(weights, _)| weights)
    }

    /// [`read`](Self::read); also returns whether the file has a checksum.
    pub(crate) fn read_sealed(path: &Path) -> Result<(Self, bool)> {
        let mut weights = Self::new(path);
        if path.is_dir() {
            return Err(weights.error("it is a folder, not a file".to_owned()));
        }
        let Some(bytes) = read_at_most(path, LARGEST).map_err(Error::io("read", path))? else {
            return Err(weights.error(format!("it is larger than {LARGEST} bytes")));
        };
        #[cfg(feature = "files")]
        if pytorch::is_pytorch(&bytes) {
            let tensors = pytorch::read(&bytes).map_err(|reason| weights.error(reason))?;
            weights.insert_all(tensors);
            return Ok((weights, false));
        }
        let broken =
            |error| weights.error(what(&bytes).unwrap_or(format!("not a safetensors file: {error}")));
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let (_, head) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let note = head.metadata().as_ref().and_then(|metadata| metadata.get(NOTE));
        let sealed = note.and_then(|note| unsealed(note));
        weights.note = sealed.as_ref().map(|(note, _)| note).or(note).cloned();
        let tensor = |view: &TensorView| Some(Tensor { shape: view.shape().to_vec(), values: floats(view)? });
        let tensors = file.tensors().into_iter().filter_map(|(name, view)| Some((name, tensor(&view)?)));
        let mut tensors: Vec<(String, Tensor)> = tensors.collect();
        // They come in random order, and of two names for one tensor the first is taken.
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        weights.insert_all(tensors);
        #[cfg(feature = "files")]
        if sealed.as_ref().is_some_and(|(_, stated)| *stated != weights.checksum()) {
            return Err(weights.error("it is damaged: its checksum does not match".to_owned()));
        }
        Ok((weights, sealed.is_some()))
    }

    /// Adds tensors under their usual names. A tensor whose usual name is taken keeps its own.
    fn insert_all(&mut self, tensors: Vec<(String, Tensor)>) {
        let (plain, wrapped): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|(name, _)| usual(name) == *name);
        self.tensors.extend(plain);
        for (name, tensor) in wrapped {
            let usual = usual(&name);
            let name = if self.tensors.contains_key(&usual) { name } else { usual };
            self.tensors.insert(name, tensor);
        }
        fn above(name: &str) -> impl Iterator<Item = &str> {
            name.match_indices('.').take(DEPTH).map(move |(end, _)| &name[..=end])
        }
        let prefixes: BTreeSet<&str> = self.tensors.keys().flat_map(|name| above(name)).chain([""]).collect();
        let mut synonyms = HashMap::new();
        for prefix in prefixes {
            let whole = |name: &str| format!("{prefix}{name}");
            let shapes = |name: &str| self.tensors.get(&whole(name)).map(|tensor| &tensor.shape[..]);
            let found = Architecture::synonyms(&shapes).into_iter();
            synonyms.extend(found.map(|(layer, usual)| (whole(&layer), whole(&usual))));
        }
        if !synonyms.is_empty() {
            let renamed = |name: &str| {
                let (layer, parameter) = name.rsplit_once('.')?;
                Some(format!("{}.{parameter}", synonyms.get(layer)?))
            };
            let taken: BTreeSet<String> = self.tensors.keys().cloned().collect();
            let usual = |name: String| renamed(&name).filter(|usual| !taken.contains(usual)).unwrap_or(name);
            let tensors = std::mem::take(&mut self.tensors).into_iter();
            self.tensors = tensors.map(|(name, tensor)| (usual(name), tensor)).collect();
        }
    }

    /// Writes a safetensors file atomically, with a checksum if the note is a JSON object and the feature `files`
    /// is on.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Weights`] if the file would be larger than [`read`](Self::read) takes.
    pub fn write(&self, path: &Path) -> Result<()> {
        let views = self.tensors.iter().map(|(name, tensor)| (name, Stored(tensor)));
        let metadata = self.note.as_ref().map(|note| HashMap::from([(NOTE.to_owned(), self.sealed(note))]));
        let file = safetensors::serialize(views, metadata)
            .map_err(|error| self.error(format!("cannot be written: {error}")))?;
        if file.len() as u64 > LARGEST {
            let reason =
                format!("it has {} bytes; files of more than {LARGEST} are not read again", file.len());
            return Err(self.error(reason));
        }
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

    /// Adds or replaces all tensors of another set.
    #[cfg(feature = "train")]
    pub(crate) fn insert_from(&mut self, other: &Self) {
        self.tensors.extend(other.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
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

    /// The note with the checksum, if it is a JSON object.
    fn sealed(&self, note: &str) -> String {
        #[cfg(feature = "files")]
        if let Some(open) = note.strip_suffix('}') {
            let comma = if open.ends_with('{') { "" } else { "," };
            return format!("{open}{comma}{CHECKSUM}{}\"}}", self.checksum());
        }
        note.to_owned()
    }

    /// SHA-256, in hexadecimal, of the note and of the names, shapes and values of all tensors.
    #[cfg(feature = "files")]
    fn checksum(&self) -> String {
        let mut sum = Sha256::new_with_prefix(self.note.as_deref().unwrap_or_default());
        for (name, tensor) in &self.tensors {
            sum.update(format!("\n{name} {:?}\n", tensor.shape));
            sum.update(Stored(tensor).data());
        }
        checksum::hexadecimal(sum)
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
        self.noted("input")
    }

    /// The training loss, if the file states it, as those of this toolkit do.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        self.noted("loss")
    }

    /// The record of the training, if the file has one.
    #[cfg(feature = "train")]
    pub(crate) fn training(&self) -> Option<Training> {
        self.noted("training")
    }

    /// The classes of a checkpoint.
    #[cfg(feature = "train")]
    pub(crate) fn classes(&self) -> Option<Vec<String>> {
        self.noted("classes")
    }

    /// A field of the note of a checkpoint or of exported weights.
    fn noted<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        let note: serde_json::Value = serde_json::from_str(self.note.as_ref()?).ok()?;
        serde_json::from_value(note.get(field)?.clone()).ok()
    }

    /// Recognises the network from the names and shapes of its tensors, after any prefix, as
    /// [`network`](Self::network) does.
    ///
    /// # Errors
    /// [`Error::UnknownNetwork`].
    pub fn recognize(&self) -> Result<Recognized> {
        find::network(self).map(|(_, found)| found)
    }

    /// Checks that these tensors of a network, without a prefix, are a backbone for another: everything
    /// below the last layer is there, and nothing of a deeper network.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the first tensor that is missing, misshaped, not finite or foreign.
    #[cfg(feature = "train")]
    pub fn check_backbone_of(&self, network: &Architecture, input: &Input) -> Result<()> {
        let body = find::body(network, input)?;
        for (name, shape) in &body {
            self.values(name, shape)?;
        }
        match find::foreign(self, "", &body) {
            None => Ok(()),
            Some(name) => {
                Err(self.error(format!("`{name}` is not in {network}, which the other tensors match")))
            }
        }
    }

    /// The tensors of the network under the names of its family, without their prefix: `state_dict.model.` in a
    /// Lightning checkpoint, for example. Other tensors with this prefix stay too, such as the anchors of a
    /// CAC network. A last layer that is the only layer with weights in a `Sequential`, such as `fc.1`, gets the
    /// family's name.
    ///
    /// If the file holds several networks, complete ones come before incomplete ones, plain weights before
    /// averaged ones (`ema`, `swa`, `teacher`), fewer keys before more, and then the first in alphabetical
    /// order.
    ///
    /// # Errors
    /// [`Error::UnknownNetwork`].
    pub fn network(&self) -> Result<Self> {
        let (prefix, found) = find::network(self)?;
        let last = found.classes.is_none().then(|| find::last_layer(self, prefix, &found)).flatten();
        let stripped = |(name, tensor): (&String, &Tensor)| {
            let name = name.strip_prefix(prefix)?;
            let renamed = last
                .as_ref()
                .and_then(|(within, layer)| Some(format!("{layer}{}", name.strip_prefix(within)?)));
            Some((renamed.unwrap_or_else(|| name.to_owned()), tensor.clone()))
        };
        let tensors = self.tensors.iter().filter_map(stripped).collect();
        let prefix = format!("{}{prefix}", self.prefix);
        Ok(Self { path: self.path.clone(), tensors, prefix, note: self.note.clone() })
    }

    /// The prefix that [`network`](Self::network) dropped from the tensor names.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// An error that names this file.
    pub(crate) fn error(&self, reason: String) -> Error {
        Error::Weights { path: self.path.clone(), reason }
    }
}

/// A note without its checksum, and that.
fn unsealed(note: &str) -> Option<(String, String)> {
    let (open, sum) = note.strip_suffix("\"}")?.rsplit_once(CHECKSUM)?;
    let open = open.strip_suffix(',').unwrap_or(open);
    Some((format!("{open}}}"), sum.to_owned()))
}

/// The parts that PyTorch's wrappers put into names: DataParallel, torch.compile, FullyShardedDataParallel,
/// activation checkpointing and Opacus.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_module"];

/// A tensor's name without wrappers, in pytorch-ood's spelling. Names of no layer are kept: they may hold
/// names of data sets.
fn usual(name: &str) -> String {
    if name.starts_with(HEAD_PREFIX) {
        return name.to_owned();
    }
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".").replace("conv_shortcut", "convShortcut")
}

/// A description of bytes that are not weights, if they are recognised.
fn what(bytes: &[u8]) -> Option<String> {
    if kind::is_zip(bytes) || kind::is_legacy_pytorch(bytes) {
        return Some("it is a PyTorch file, which needs the feature `files`".to_owned());
    }
    let line = || {
        let text = str::from_utf8(bytes).ok()?.lines().next()?;
        let is_text = !text.contains(|c: char| c.is_control() && c != '\t');
        is_text.then(|| format!("it is plain text: `{}`", text.chars().take(60).collect::<String>()))
    };
    kind::of(bytes).map(|what| format!("it is {what}")).or_else(line)
}

/// A tensor as a file stores it; its bytes are made when they are written.
struct Stored<'a>(&'a Tensor);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        size_of_val(&self.0.values[..])
    }
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
    use crate::arch::{Architecture, FAMILIES};

    #[test]
    fn synonyms_are_recognised_behind_a_prefix() {
        let network = Architecture::new("efficientnet-lite", &[]).unwrap();
        let is_marked = |name: &str| {
            let number = name.strip_prefix("_blocks.")?.strip_suffix("._depthwise_conv.weight")?;
            (number.parse::<usize>().ok()? < 16).then_some(&[1][..])
        };
        let synonyms = Architecture::synonyms(&is_marked);
        let other = |layer: &str| synonyms.iter().find(|(_, usual)| usual == layer).unwrap().0.clone();
        for prefix in ["", "state_dict.model."] {
            let parameters = network.layers(10, 224, 224).unwrap();
            let parameters = parameters.iter().flat_map(Layer::parameters);
            let tensors = parameters.map(|(name, shape)| {
                let (layer, parameter) = name.rsplit_once('.').unwrap();
                let values = vec![1.0; shape.iter().product()];
                (format!("{prefix}{}.{parameter}", other(layer)), Tensor { shape, values })
            });
            let mut weights = Weights::new(Path::new("w"));
            weights.insert_all(tensors.collect());
            let found = weights.recognize().unwrap();
            assert_eq!((found.architecture, found.classes), (network.clone(), Some(10)), "{prefix}");
            assert_eq!(weights.network().unwrap().prefix(), prefix);
        }
    }

    #[test]
    #[cfg(feature = "files")]
    fn a_file_with_a_note_that_has_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let mut weights = Weights::new(&path);
        weights.insert("a", &[2], vec![1.0, 2.0]);
        weights.note = Some("{}".to_owned());
        weights.write(&path).unwrap();
        assert_eq!(Weights::read(&path).unwrap().get("a"), weights.get("a"));
        let whole = std::fs::read(&path).unwrap();
        let sum = whole.windows(6).position(|name| name == b"sha256").unwrap();
        for place in [whole.len() - 1, sum + 20] {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, changed).unwrap();
            let error = Weights::read(&path).unwrap_err().to_string();
            assert!(error.contains("it is damaged: its checksum does not match"), "{error}");
        }
        // Without a note, as of another program, there is none.
        weights.note = None;
        weights.write(&path).unwrap();
        let mut plain = std::fs::read(&path).unwrap();
        *plain.last_mut().unwrap() ^= 1;
        std::fs::write(&path, plain).unwrap();
        Weights::read(&path).unwrap();
    }

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
            ("cac/test/unknown/0000/v1.module", view(Dtype::F32, &single[..])),
            ("bn1.num_batches_tracked", view(Dtype::I64, &count[..])),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let weights = Weights::read(&path).unwrap();
        for (name, value) in [("half", 1.5), ("brain", -2.0), ("single", 0.25), ("double", 8.0)] {
            assert_eq!(weights.values(name, &[1]).unwrap(), [value], "{name}");
        }
        assert!(weights.get("bn1.num_batches_tracked").is_none());
        assert!(weights.get("cac/test/unknown/0000/v1.module").is_some(), "the name of a data set");
        // Of two wrapped names for one tensor, always the first.
        let double = 0.5_f32.to_le_bytes();
        let twice =
            [("module.a", view(Dtype::F32, &single[..])), ("_orig_mod.a", view(Dtype::F32, &double[..]))];
        std::fs::write(&path, safetensors::serialize(twice, None).unwrap()).unwrap();
        for _ in 0..20 {
            let both = Weights::read(&path).unwrap();
            assert_eq!(
                [both.values("a", &[1]), both.values("module.a", &[1])].map(Result::unwrap),
                [[0.5], [0.25]]
            );
        }

        let weights = Weights { note: Some("a note".to_owned()), ..weights };
        weights.write(&path).unwrap();
        assert_eq!(Weights::read(&path).unwrap(), weights);
    }

    #[test]
    fn networks_are_recognised_by_names_and_shapes() {
        for (family, settings, size) in [
            ("wide-resnet", [("depth", 16.0), ("widen_factor", 3.0)].as_slice(), None),
            ("cac-net", &[("channels", 5.0)], Some(24)),
            ("cifar-net", &[("channels", 3.0)], None),
            ("resnet", &[("depth", 18.0)], None),
            ("resnet", &[("depth", 34.0)], None),
            ("resnet", &[("depth", 50.0)], None),
            ("resnet", &[("depth", 50.0), ("widen_factor", 2.0)], None),
            ("resnet", &[("depth", 101.0)], None),
            ("resnet", &[("depth", 152.0)], None),
            ("efficientnet-lite", &[("member", 0.0)], None),
            ("efficientnet-lite", &[("member", 1.0)], None),
            ("efficientnet-lite", &[("member", 2.0)], None),
            ("efficientnet-lite", &[("member", 3.0)], None),
            ("efficientnet-lite", &[("member", 4.0)], None),
        ] {
            let network = Architecture::new(family, settings).unwrap();
            let side = size.unwrap_or(32);
            let mut weights = Weights::new(Path::new("w"));
            for (name, shape) in network.layers(7, side, side).unwrap().iter().flat_map(Layer::parameters) {
                weights.insert(&name, &shape, vec![0.0; shape.iter().product()]);
            }
            let found = weights.recognize().unwrap();
            assert_eq!(found, Recognized { architecture: network, classes: Some(7), size });
        }
        let mut weights = Weights::new(Path::new("w"));
        let message = |weights: &Weights| weights.recognize().unwrap_err().to_string();
        assert!(message(&weights).contains("it holds no floating-point tensors"));
        for name in ('a'..='j').map(String::from) {
            weights.insert(&name, &[0], Vec::new());
        }
        weights.insert("a\x1b[31m", &[0], Vec::new());
        let error = message(&weights);
        assert!(error.contains("the weights of no known network: wide-resnet has `block1."), "{error}");
        assert!(error.contains("found `a`, `a\\u{1b}[31m`, `b`, "), "{error}");
        assert!(error.ends_with("`g` and 3 more"), "{error}");
        // A WideResNet of a width that is none of the family's.
        weights.insert("block1.layer.0.conv1.weight", &[24, 16, 3, 3], vec![0.0; 24 * 16 * 9]);
        let error = message(&weights);
        assert!(error.contains("the weights of no known network: only 0 of "), "{error}");
        assert!(error.contains(" tensors are those of WideResNet-"), "{error}");
    }

    #[test]
    fn timm_files_of_every_family_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for family in &FAMILIES {
            let network = family.default_member();
            let layers = network.layers(10, 64, 64).unwrap();
            let parameters: Vec<_> = layers.iter().flat_map(Layer::parameters).collect();
            let most = parameters.iter().map(|(_, shape)| shape.iter().product()).max().unwrap_or(0_usize);
            let (zeros, count) = (vec![0; 4 * most], 7_i64.to_le_bytes());
            let mut views: Vec<(String, TensorView)> = Vec::new();
            for (name, shape) in parameters {
                let bytes = &zeros[..4 * shape.iter().product::<usize>()];
                if let Some(norm) = name.strip_suffix("running_mean") {
                    // A scalar.
                    let counter = TensorView::new(Dtype::I64, Vec::new(), &count).unwrap();
                    views.push((format!("{norm}num_batches_tracked"), counter));
                }
                views.push((name, TensorView::new(Dtype::F32, shape, bytes).unwrap()));
            }
            let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            std::fs::write(&path, safetensors::serialize(views, Some(format)).unwrap()).unwrap();
            let weights = Weights::read(&path).unwrap();
            assert_eq!((weights.network().unwrap().prefix(), weights.input()), ("", None), "{}", family.name);
            let found = weights.recognize().unwrap();
            assert_eq!((found.architecture, found.classes), (network, Some(10)));
        }
    }

    /// Networks that share tensors with a family, as timm names them.
    #[test]
    fn errors_for_similar_networks_name_the_difference() {
        type Change = (&'static str, Option<&'static [usize]>);
        let refused = |family: &str, settings: &[(&str, f64)], changes: &[Change]| {
            let network = Architecture::new(family, settings).unwrap();
            let mut weights = Weights::new(Path::new("w"));
            for (name, shape) in network.layers(7, 32, 32).unwrap().iter().flat_map(Layer::parameters) {
                weights.insert(&format!("backbone.{name}"), &shape, vec![0.0; shape.iter().product()]);
            }
            for &(name, shape) in changes {
                let name = format!("backbone.{name}");
                weights.tensors.remove(&name);
                if let Some(shape) = shape {
                    weights.insert(&name, shape, vec![0.0; shape.iter().product()]);
                }
            }
            let checked = weights.network().and_then(|network| {
                let found = network.recognize()?;
                network.of_layers(&found.architecture.layers(7, 32, 32)?)
            });
            checked.unwrap_err().to_string()
        };
        let resnet_50 = [("depth", 50.0)];
        for (name, family, settings, changes, reason) in [
            (
                "seresnet50",
                "resnet",
                &resnet_50[..],
                &[("layer1.0.se.fc1.weight", Some(&[16, 256, 1, 1][..]))][..],
                "`layer1.0.se.fc1.weight` is not in ResNet-50",
            ),
            (
                "resnet50d",
                "resnet",
                &resnet_50,
                &[("conv1.weight", None), ("conv1.0.weight", Some(&[32, 3, 3, 3]))],
                "tensor `conv1.weight` [64, 3, 7, 7] is missing",
            ),
            (
                "a stem for CIFAR",
                "resnet",
                &[],
                &[("conv1.weight", Some(&[64, 3, 3, 3]))],
                "tensor `conv1.weight` has shape [64, 3, 3, 3], expected [64, 3, 7, 7]",
            ),
            (
                "groups",
                "resnet",
                &resnet_50,
                &[("layer1.0.conv2.weight", Some(&[64, 2, 3, 3]))],
                "tensor `layer1.0.conv2.weight` has shape [64, 2, 3, 3], expected [64, 64, 3, 3]",
            ),
            (
                "another depth",
                "resnet",
                &[],
                &[("layer4.1.conv1.weight", None)],
                "a ResNet with 2, 2, 2 and 1 basic blocks is not supported",
            ),
            (
                "efficientnet_b0",
                "efficientnet-lite",
                &[],
                &[("blocks.0.0.se.conv_reduce.bias", Some(&[8]))],
                "`blocks.0.0.se.conv_reduce.bias` is not in EfficientNet-Lite0",
            ),
            (
                "another width",
                "efficientnet-lite",
                &[],
                &[("blocks.5.0.conv_pwl.weight", Some(&[160, 1, 1, 1]))],
                "no EfficientNet-Lite has 4 blocks of 160 channels in `blocks.5`",
            ),
        ] {
            let error = refused(family, settings, changes);
            assert!(error.contains(reason), "{name}: {error}");
        }
    }

    /// Adds a network of this family, with names after a prefix and every value `value`.
    fn add(weights: &mut Weights, family: &str, prefix: &str, value: f32) {
        let network = Architecture::new(family, &[]).unwrap();
        for (name, shape) in network.layers(2, 32, 32).unwrap().iter().flat_map(Layer::parameters) {
            let values = vec![value; shape.iter().product()];
            weights.insert_all(vec![(format!("{prefix}{name}"), Tensor { shape, values })]);
        }
    }

    #[test]
    fn a_network_is_found_behind_any_prefix() {
        for (family, mark) in [("wide-resnet", "conv1.weight"), ("cac-net", "encoder.conv1.weight")] {
            for (prefix, dropped) in [
                ("", ""),
                ("encoder.", "encoder."),
                ("backbone.", "backbone."),
                ("_orig_mod.module.", ""),
                ("state_dict.model._orig_mod.net.", "state_dict.model.net."),
                ("0.", "0."),
                ("models/best/", "models/best/"),
            ] {
                let mut weights = Weights::new(Path::new("w"));
                add(&mut weights, family, prefix, 1.0);
                let anchors = Tensor { shape: vec![1], values: vec![3.0] };
                weights.insert_all(vec![(format!("{prefix}anchors"), anchors.clone())]);
                weights.insert("optimizer.encoder.conv1.weight", &[64, 3, 3, 3], vec![0.0; 64 * 27]);
                let found = weights.recognize().unwrap();
                assert_eq!((found.architecture.family().name, found.classes), (family, Some(2)), "{prefix}");
                let network = weights.network().unwrap();
                assert_eq!(network.prefix(), dropped);
                assert_eq!(network.get(mark).unwrap().values[0], 1.0);
                assert_eq!(network.network().unwrap().prefix(), dropped);
                assert_eq!(network.get("anchors"), Some(&anchors));
            }
        }
    }

    #[test]
    fn the_plain_network_is_taken_among_several() {
        for (taken, other) in [
            ("", "ema."),
            ("state_dict.", "state_dict_ema."),
            ("params.", "params_ema."),
            ("model.", "ema_model.module."),
            ("student.", "teacher."),
            ("model.net.", "EMA."),
            ("state_dict.online.", "state_dict.momentum_encoder."),
            ("a.", "b."),
            ("z.", "a.a."),
        ] {
            let mut weights = Weights::new(Path::new("w"));
            add(&mut weights, "wide-resnet", other, 2.0);
            add(&mut weights, "wide-resnet", taken, 1.0);
            let network = weights.network().unwrap();
            assert_eq!((network.prefix(), network.get("conv1.weight").unwrap().values[0]), (taken, 1.0));
        }
        // A network without a tensor or without its last layer comes after a complete one.
        for missing in ["bn1.weight", "fc.weight"] {
            let mut weights = Weights::new(Path::new("w"));
            add(&mut weights, "wide-resnet", "ema.", 2.0);
            add(&mut weights, "wide-resnet", "", 1.0);
            weights.tensors.remove(missing);
            assert_eq!(weights.network().unwrap().prefix(), "ema.", "{missing}");
        }
        // Names that differ by a wrapper stay distinct.
        let mut weights = Weights::new(Path::new("w"));
        let tensor = |value: f32| Tensor { shape: vec![], values: vec![value] };
        weights.insert_all(vec![("module.a".to_owned(), tensor(2.0)), ("a".to_owned(), tensor(1.0))]);
        assert_eq!(
            (&weights.get("a").unwrap().values, weights.get("module.a")),
            (&vec![1.0], Some(&tensor(2.0)))
        );
    }

    #[test]
    fn files_that_are_not_weights_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pt");
        let message = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Weights::read(&path).unwrap_err().to_string()
        };
        for (bytes, reason) in [
            (&b""[..], "it is empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:4a72\nsize 9\n",
                "it is a Git LFS pointer",
            ),
            (b"<!DOCTYPE html><html>Not Found</html>", "it is an HTML page"),
            (b"{\"message\": \"Not Found\"}", "it is a JSON document"),
            (b"404: Not Found", "it is plain text: `404: Not Found`"),
            (b"\x89HDF\r\n\x1a\n\0\0\0\0\0\0\0\0", "it is an HDF5 file"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0", "it is compressed with gzip"),
            (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}", "it is a pickle that torch.save did not write"),
            (b"\0\x01\x02\x03\x04\x05\x06\x07\x08", "not a safetensors file"),
        ] {
            assert!(message(bytes).contains(reason), "{} {reason}", message(bytes));
        }
        // What a build without the feature says.
        for bytes in [&b"PK\x03\x04"[..], b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."] {
            assert_eq!(what(bytes).unwrap(), "it is a PyTorch file, which needs the feature `files`");
        }
        let error = Weights::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it is a folder"), "{error}");
    }

    #[test]
    #[cfg(feature = "files")]
    fn archives_that_are_not_weights_are_named() {
        use std::io::{Cursor, Write};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pt");
        for (names, reason) in [
            (&["m/data.pkl", "m/constants.pkl"][..], "it is a TorchScript archive"),
            (&["m/archive_format", "m/models/model.json"], "it is a program that torch.export wrote"),
            (&["config.json", "model.weights.h5"], "it is a Keras model"),
            (&["score.npy"], "it is a NumPy archive"),
            (&["a/model.pt"], "it is a ZIP archive of `a/model.pt`"),
        ] {
            let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
            for name in names {
                archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
                archive.write_all(b"some content").unwrap();
            }
            std::fs::write(&path, archive.finish().unwrap().into_inner()).unwrap();
            let error = Weights::read(&path).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
        let error = Weights::read(&path).unwrap_err().to_string();
        assert!(error.contains("its ZIP archive is damaged or truncated"), "{error}");
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
