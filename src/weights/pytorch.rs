//! Reads files of `torch.save`: a pickle that describes tensors, and their storages.
//!
//! A pickle is a program that may call any function. This reader never executes it: it recognises the
//! functions that rebuild tensors, does their work itself, and refuses a file that names any other.

use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    ops::Range,
};

use half::{bf16, f16};
use zip::{CompressionMethod, ZipArchive};

/// A tensor in row-major order.
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

type Result<T> = std::result::Result<T, String>;

/// The maximum length of the name of a tensor or a storage, in bytes.
const LONGEST_NAME: usize = 256;
/// The maximum number of axes of a tensor.
const MOST_AXES: usize = 8;

/// The start of a file in the format before PyTorch 1.6: a pickled ten-byte integer.
const LEGACY_MAGIC: [u8; 14] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether the bytes are a PyTorch file in either format.
pub(super) fn is_pytorch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(&LEGACY_MAGIC)
}

/// The floating-point tensors of a state dict, which may be nested under `state_dict`, `net` or `model`.
/// Everything else is skipped.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Tensor>> {
    let (pickle, storages) = if bytes.starts_with(&LEGACY_MAGIC) { legacy(bytes)? } else { zip(bytes)? };
    let tensors = pickle.tensors();
    // Tensors may share storages, as in the official CAC checkpoints, but only up to a limit.
    let count = tensors.values().try_fold(0_usize, |sum, tensor| sum.checked_add(tensor.count()?));
    if count.is_none_or(|count| count > 4 * bytes.len()) {
        return Err("its tensors claim more values than the file can hold".to_owned());
    }
    let mut read = Vec::new();
    for (name, tensor) in tensors {
        let Some(kind) = tensor.storage.kind else { continue };
        let at = storages.get(&tensor.storage.key);
        let at =
            at.ok_or_else(|| format!("the storage `{}` of tensor `{name}` is missing", tensor.storage.key))?;
        let values = tensor.values(kind, &bytes[at.clone()]);
        let values = values.ok_or_else(|| format!("tensor `{name}` exceeds its storage"))?;
        read.push(Tensor { name: name.to_owned(), shape: tensor.shape.clone(), values });
    }
    Ok(read)
}

/// The range of each storage's bytes in the file, by key.
type Storages = HashMap<String, Range<usize>>;

/// The format since PyTorch 1.6: a ZIP archive of `NAME/data.pkl` and `NAME/data/KEY`, uncompressed.
fn zip(bytes: &[u8]) -> Result<(Pickle, Storages)> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let mut storages = Storages::new();
    let mut pickle = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        let Some((_, name)) = entry.name().split_once('/') else { continue };
        let start = entry.data_start() as usize;
        let range = start..start.saturating_add(entry.compressed_size() as usize);
        if entry.compression() != CompressionMethod::Stored || bytes.get(range.clone()).is_none() {
            return Err(format!("its entry `{}` is compressed or truncated", entry.name()));
        }
        match name {
            "data.pkl" => pickle = Some(range),
            "byteorder" if bytes[range.clone()] != *b"little" => {
                return Err("its values are not little-endian".to_owned());
            }
            _ => {
                if let Some(key) = name.strip_prefix("data/") {
                    storages.insert(key.to_owned(), range);
                }
            }
        }
    }
    let pickle = pickle.ok_or("the archive holds no `data.pkl`, so torch.save did not write it")?;
    Ok((Pickle::parse(&bytes[pickle])?.0, storages))
}

/// The format before PyTorch 1.6: pickles of a magic number, a version, the machine, the object and the
/// storages' keys, then the length and the values of each storage.
fn legacy(bytes: &[u8]) -> Result<(Pickle, Storages)> {
    let mut at = 0;
    let mut pickles = Vec::new();
    for _ in 0..5 {
        let (pickle, length) = Pickle::parse(&bytes[at..])?;
        at += length;
        pickles.push(pickle);
    }
    let (keys, object) = (pickles.pop().expect("five pickles"), pickles.pop().expect("five pickles"));
    let Node::List(listed) = keys.root() else { return Err("it lists no storages".to_owned()) };
    let items: HashMap<&str, usize> =
        object.storages().map(|storage| (storage.key.as_str(), storage.item_bytes)).collect();
    let mut storages = Storages::new();
    for &key in listed {
        let Node::Text(key) = &keys.nodes[key] else { return Err("a storage has no name".to_owned()) };
        let truncated = || format!("the storage `{key}` is truncated");
        let (count, rest) = bytes[at..].split_first_chunk().ok_or_else(truncated)?;
        let item = items.get(key.as_str()).ok_or_else(|| format!("the storage `{key}` is not used"))?;
        let length =
            usize::try_from(i64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(*item));
        let length = length.filter(|&length| length <= rest.len()).ok_or_else(truncated)?;
        storages.insert(key.clone(), at + count.len()..at + count.len() + length);
        at += count.len() + length;
    }
    Ok((object, storages))
}

/// The result of a pickle, as nodes that refer to each other by index, so that deep nesting needs no
/// recursion.
struct Pickle {
    nodes: Vec<Node>,
    root: usize,
}

enum Node {
    /// `None`, a boolean, a float, or anything else without tensors.
    Other,
    Int(i64),
    Text(String),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Function(Function),
    Storage(Storage),
    Tensor(View),
}

/// What a pickle may refer to by name.
#[derive(Clone, Copy)]
enum Function {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// A storage type, with the size of an item in bytes.
    Storage(Option<Kind>, usize),
    /// NumPy's scalars and types, which contain no tensors.
    Scalar,
}

/// The floating-point types.
#[derive(Clone, Copy)]
enum Kind {
    Half,
    Brain,
    Single,
    Double,
}

#[derive(Clone)]
struct Storage {
    key: String,
    /// Absent for types that are skipped.
    kind: Option<Kind>,
    item_bytes: usize,
}

/// A tensor as a view into a storage.
#[derive(Clone)]
struct View {
    storage: Storage,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl View {
    fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length))
    }

    /// The values in row-major order; `None` if one is outside the storage.
    fn values(&self, kind: Kind, bytes: &[u8]) -> Option<Vec<f32>> {
        let number = |at: usize| -> Option<f32> {
            let start = at.checked_mul(self.storage.item_bytes)?;
            let bytes = bytes.get(start..start.checked_add(self.storage.item_bytes)?)?;
            Some(match kind {
                Kind::Half => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
                Kind::Brain => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
                Kind::Single => f32::from_le_bytes(bytes.try_into().ok()?),
                Kind::Double => f64::from_le_bytes(bytes.try_into().ok()?) as f32,
            })
        };
        let mut values = Vec::with_capacity(self.count()?);
        let mut index = vec![0_usize; self.shape.len()];
        for _ in 0..self.count()? {
            let steps = index.iter().zip(&self.strides).map(|(&i, &stride)| i.checked_mul(stride));
            let at = steps.into_iter().try_fold(self.offset, |at: usize, step| at.checked_add(step?))?;
            values.push(number(at)?);
            // The last axis varies fastest.
            for (i, &length) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < length {
                    break;
                }
                *i = 0;
            }
        }
        Some(values)
    }
}

impl Function {
    fn named(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "HalfStorage") => Self::Storage(Some(Kind::Half), 2),
            ("torch", "BFloat16Storage") => Self::Storage(Some(Kind::Brain), 2),
            ("torch", "FloatStorage") => Self::Storage(Some(Kind::Single), 4),
            ("torch", "DoubleStorage") => Self::Storage(Some(Kind::Double), 8),
            ("torch", "BoolStorage" | "ByteStorage" | "CharStorage") => Self::Storage(None, 1),
            ("torch", "ShortStorage") => Self::Storage(None, 2),
            ("torch", "IntStorage") => Self::Storage(None, 4),
            ("torch", "LongStorage") => Self::Storage(None, 8),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
            | ("numpy", "dtype")
            | ("_codecs", "encode") => Self::Scalar,
            _ => {
                return Err(format!(
                    "it asks to run `{module}.{name}`; only tensors are read, and no code is executed"
                ));
            }
        })
    }
}

impl Pickle {
    fn root(&self) -> &Node {
        &self.nodes[self.root]
    }

    fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes
            .iter()
            .filter_map(|node| if let Node::Storage(storage) = node { Some(storage) } else { None })
    }

    /// The tensors of the state dict by name.
    fn tensors(&self) -> BTreeMap<&str, &View> {
        let entries = |node: &Node| -> Vec<(&str, usize)> {
            let Node::Dict(entries) = node else { return Vec::new() };
            let named = entries.iter().filter_map(|&(key, value)| match &self.nodes[key] {
                Node::Text(name) => Some((name.as_str(), value)),
                _ => None,
            });
            named.collect()
        };
        let mut dict = entries(self.root());
        let inner = dict.iter().find(|(name, value)| {
            ["state_dict", "net", "model"].contains(name) && matches!(self.nodes[*value], Node::Dict(_))
        });
        if let Some(&(_, inner)) = inner {
            dict = entries(&self.nodes[inner]);
        }
        let tensor = |(name, value): (_, usize)| match &self.nodes[value] {
            Node::Tensor(tensor) => Some((name, tensor)),
            _ => None,
        };
        dict.into_iter().filter_map(tensor).collect()
    }

    /// Parses one pickle and returns its length as well.
    fn parse(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            if let Some(root) = machine.step()? {
                return Ok((Self { nodes: machine.nodes, root }, machine.at));
            }
        }
    }
}

/// The pickle machine, limited to the instructions that torch.save uses (protocols 2 to 4).
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<usize>,
    /// The stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, usize>,
}

impl<'a> Machine<'a> {
    /// Interprets one instruction; returns the result at the end.
    fn step(&mut self) -> Result<Option<usize>> {
        let start = self.at;
        let code = self.take(1)?[0];
        match code {
            // The protocol version, and the length of a frame.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),

            b'N' | 0x88 | 0x89 => self.push(Node::Other),
            b'G' => {
                self.take(8)?;
                self.push(Node::Other);
            }
            b'J' => {
                let bytes = self.take(4)?.try_into().expect("four bytes");
                self.push(Node::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' | b'M' => {
                let value = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(value as i64));
            }
            0x8a => {
                let length = self.number(1)?;
                let digits = self.take(length)?;
                // Little-endian two's complement. No length or offset needs more than 64 bits.
                let node = if digits.len() > 8 {
                    Node::Other
                } else {
                    let fill = if digits.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
                    let mut value = [fill; 8];
                    value[..digits.len()].copy_from_slice(digits);
                    Node::Int(i64::from_le_bytes(value))
                };
                self.push(node);
            }
            b'X' | 0x8c | b'T' | b'U' => {
                let length = self.number(if matches!(code, b'X' | b'T') { 4 } else { 1 })?;
                let text = self.take(length)?;
                // A longer text is not a name, and must not be copied each time it is recalled.
                let is_name = text.len() <= LONGEST_NAME;
                self.push(if is_name {
                    Node::Text(String::from_utf8_lossy(text).into_owned())
                } else {
                    Node::Other
                });
            }
            b'B' | b'C' => {
                let length = self.number(if code == b'B' { 4 } else { 1 })?;
                self.take(length)?;
                self.push(Node::Other);
            }

            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let length = usize::from(code - 0x84);
                let height = self.stack.len().checked_sub(length).ok_or("its stack is empty")?;
                let items = self.stack.split_off(height);
                self.push(Node::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' | b'u' => {
                let items = self.pop_mark()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend(&[key, value])?;
            }

            b'q' | b'r' | 0x94 => {
                let key = match code {
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len(),
                };
                let top = *self.stack.last().ok_or("its stack is empty")?;
                self.memo.insert(key as u64, top);
            }
            b'h' | b'j' => {
                let key = self.number(if code == b'h' { 1 } else { 4 })? as u64;
                let node = *self.memo.get(&key).ok_or("it recalls a value that it has not stored")?;
                self.stack.push(node);
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Function(Function::named(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                    return Err("the name of a function is not text".to_owned());
                };
                let function = Function::named(module, name)?;
                self.push(Node::Function(function));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            // The state of an object, which no tensor needs.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id).ok_or("a persistent id is not a storage")?;
                self.push(Node::Storage(storage));
            }
            _ => return Err(format!("its pickle has the unknown instruction {code:#04x} at byte {start}")),
        }
        Ok(None)
    }

    fn call(&mut self, function: usize, arguments: usize) -> Result<()> {
        let (Node::Function(function), Node::Tuple(arguments)) =
            (&self.nodes[function], &self.nodes[arguments])
        else {
            return Err("it calls something that is not a function".to_owned());
        };
        match *function {
            Function::OrderedDict => {
                // torch.save only writes empty ones, and fills them later.
                if !arguments.is_empty() {
                    return Err("it creates a dictionary in an unsupported way".to_owned());
                }
                self.push(Node::Dict(Vec::new()));
            }
            Function::RebuildTensor => {
                let tensor = self.view(arguments).ok_or("it describes a tensor in an unsupported way")?;
                self.push(Node::Tensor(tensor));
            }
            Function::RebuildParameter => {
                let tensor = *arguments.first().ok_or("it describes a parameter in an unsupported way")?;
                self.stack.push(tensor);
            }
            Function::Scalar => self.push(Node::Other),
            Function::Storage(..) => return Err("it creates a storage without data".to_owned()),
        }
        Ok(())
    }

    /// The storage of a persistent id `("storage", type, key, device, count, ...)`.
    fn storage(&self, id: usize) -> Option<Storage> {
        let Node::Tuple(parts) = &self.nodes[id] else { return None };
        let (Node::Text(what), Node::Function(Function::Storage(kind, item_bytes)), Node::Text(key)) =
            (&self.nodes[*parts.first()?], &self.nodes[*parts.get(1)?], &self.nodes[*parts.get(2)?])
        else {
            return None;
        };
        (what == "storage").then(|| Storage { key: key.clone(), kind: *kind, item_bytes: *item_bytes })
    }

    /// The tensor of `(storage, offset, shape, strides, ...)`.
    fn view(&self, arguments: &[usize]) -> Option<View> {
        let Node::Storage(storage) = &self.nodes[*arguments.first()?] else { return None };
        let size = |&node: &usize| match self.nodes[node] {
            Node::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let sizes = |&node: &usize| match &self.nodes[node] {
            Node::Tuple(items) if items.len() <= MOST_AXES => {
                items.iter().map(size).collect::<Option<Vec<usize>>>()
            }
            _ => None,
        };
        let (shape, strides) = (sizes(arguments.get(2)?)?, sizes(arguments.get(3)?)?);
        let is_consistent = shape.len() == strides.len() && shape.len() <= MOST_AXES;
        let offset = size(arguments.get(1)?)?;
        is_consistent.then(|| View { storage: storage.clone(), offset, shape, strides })
    }

    /// Adds items to the list or, as keys and values in turn, to the dictionary on the stack.
    fn extend(&mut self, items: &[usize]) -> Result<()> {
        let top = *self.stack.last().ok_or("its stack is empty")?;
        match &mut self.nodes[top] {
            Node::List(list) => list.extend(items),
            Node::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.as_chunks().0.iter().map(|&[k, v]| (k, v)))
            }
            _ => return Err("it adds items to something that is not a list or a dictionary".to_owned()),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<usize> {
        self.stack.pop().ok_or_else(|| "its stack is empty".to_owned())
    }

    /// Pops the items since the last mark.
    fn pop_mark(&mut self) -> Result<Vec<usize>> {
        let height = self.marks.pop().filter(|&height| height <= self.stack.len());
        Ok(self.stack.split_off(height.ok_or("it lacks a mark")?))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("its pickle is truncated")?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// A little-endian unsigned integer of up to four bytes.
    fn number(&mut self, length: usize) -> Result<usize> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is truncated")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "the name of a function is not UTF-8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;
    use std::path::{Path, PathBuf};

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
    }

    /// A storage of one value.
    const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ";

    fn error(bytes: &[u8]) -> String {
        read(bytes).err().expect("refused")
    }

    #[test]
    fn views_of_every_type() {
        let read = Weights::read(&golden("strided.pt")).unwrap();
        let expected = Weights::read(&golden("strided.safetensors")).unwrap();
        for name in ["a", "b", "c", "d", "f", "g"] {
            assert_eq!(read.get(name), expected.get(name), "{name}");
            assert!(read.get(name).is_some(), "{name}");
        }
        assert!(read.get("e").is_none(), "integers are skipped");
    }

    #[test]
    fn both_formats_and_all_names_give_the_same_network() {
        let plain = Weights::read(&golden("wrn.pt")).unwrap();
        let module = Weights::read(&golden("wrn-module.pt")).unwrap();
        let half = Weights::read(&golden("wrn-pixmix.pt")).unwrap();
        for (name, shape) in
            [("conv1.weight", &[16, 3, 3, 3][..]), ("block2.layer.0.convShortcut.weight", &[32, 16, 1, 1])]
        {
            let values = plain.values(name, shape).unwrap();
            assert_eq!(module.values(name, shape).unwrap(), values);
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * b.abs() + 1e-6;
            assert!(half.values(name, shape).unwrap().iter().zip(values).all(close));
        }
    }

    #[test]
    fn function_calls_are_refused() {
        for name in ["evil.pt", "evil-legacy.pt"] {
            let error = error(&std::fs::read(golden(name)).unwrap());
            assert!(error.contains("it asks to run `posix.system`"), "{error}");
        }
    }

    #[test]
    fn truncated_and_damaged_files_are_errors() {
        for name in ["strided.pt", "cac-legacy.pth"] {
            let bytes = std::fs::read(golden(name)).unwrap();
            for length in (14..bytes.len() - 1).step_by(bytes.len() / 50) {
                assert!(read(&bytes[..length]).is_err(), "{name}, {length} bytes");
            }
            // A flipped byte must not cause a panic or a long wait.
            for at in (0..bytes.len().min(6000)).step_by(7) {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= flip;
                    let _ = read(&bytes);
                }
            }
        }
    }

    #[test]
    fn hostile_pickles_are_refused() {
        let legacy = |object: &[u8]| {
            let number = |bytes: &[u8]| [&[0x80, 2][..], bytes, b"."].concat();
            let mut file = [&LEGACY_MAGIC[..], b"."].concat();
            for part in [number(b"M\xe9\x03"), number(b"}"), number(object), number(b"]")] {
                file.extend(part);
            }
            file
        };
        assert_eq!(read(&legacy(b"}")).unwrap().len(), 0);
        // A million levels of nesting.
        let deep = [&b")"[..], &[0x85; 1_000_000]].concat();
        assert_eq!(read(&legacy(&deep)).unwrap().len(), 0);
        // Shapes are copied for each tensor, so their number of axes is limited.
        let axes = [&b"("[..], &b"K\x01".repeat(9), b"t"].concat();
        let many = [
            &b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("[..],
            STORAGE,
            b"K\0",
            &axes,
            &axes,
            b"tRs",
        ];
        assert!(error(&legacy(&many.concat())).contains("in an unsupported way"));
        assert!(error(&legacy(b"h\x07")).contains("recalls"));
        assert!(error(&legacy(b"0")).contains("stack is empty"));
        assert!(error(&legacy(b"(1t")).contains("lacks a mark"));
        assert_eq!(read(&legacy(b"}q\x01X\x01\0\0\0ah\x01s")).unwrap().len(), 0);
        assert!(error(&legacy(b"X\xff\xff\xff\x7fabc")).contains("truncated"));
        assert!(error(&legacy(b"\xf0")).contains("unknown instruction 0xf0"));
        // A tensor of 2^60 values, expanded from one by strides of 0.
        let huge = [
            &b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("[..],
            STORAGE,
            b"K\0J\0\0\0\x40J\0\0\0\x40\x86K\0K\0\x86tRs",
        ];
        assert!(error(&legacy(&huge.concat())).contains("more values than the file can hold"));
    }
}
