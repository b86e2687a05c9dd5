//! Reads a pickle as data.
//!
//! A pickle is a program that may call any function. This reader never executes it: it recognises the
//! functions that rebuild PyTorch tensors, NumPy arrays and mappings, and does their work itself. The result
//! of any other function becomes an object with only the items and the state that the pickle gives it.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    mem::replace,
};

pub(crate) type Result<T> = std::result::Result<T, String>;

/// The maximum length of a name, in bytes.
const MAX_NAME: usize = 256;
/// The maximum number of axes of a tensor or an array.
const MAX_AXES: usize = 8;

/// The result of a pickle, as nodes that refer to each other by index, so that deep nesting needs no
/// recursion.
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: usize,
    /// The first name that is not recognised.
    pub unknown: Option<String>,
}

enum Node<'a> {
    /// `None`, a float, or anything else without tensors.
    Other,
    Bool(bool),
    Int(i64),
    /// A string: UTF-8, or any bytes if Python 2 wrote it.
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// Bytes as text, one character per byte: how Python 3 writes bytes for Python 2.
    Latin1(&'a [u8]),
    /// A list or a tuple.
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// What an unknown function made: its items and its state.
    Object(Vec<usize>),
    Function(Function),
    Storage(Storage),
    Tensor(Box<View>),
    /// The type of an array's values, by the nodes of its arguments and its state.
    ArrayType(usize, usize),
    /// An array, by the node of its state `(version, shape, type, is Fortran, values)`.
    Array(usize),
    /// An array, by the node of the arguments `(values, type, shape, order)`.
    Buffer(usize),
}

/// The node of everything without tensors.
const OTHER: usize = 0;

/// What a pickle may refer to by name.
#[derive(Clone, Copy)]
enum Function {
    /// A mapping, made of another one or of pairs.
    Mapping,
    RebuildTensor,
    RebuildParameter,
    /// Another function with a type, its arguments and a state.
    RebuildFromType,
    /// A storage type, with the size of an item in bytes.
    Storage(Option<ElementType>, usize),
    ArrayType,
    RebuildArray,
    ArrayFromBuffer,
    /// Text as bytes.
    Encode,
    Unknown,
}

/// A NumPy array.
pub(crate) struct PickledArray<'a> {
    /// The lengths of its axes.
    pub shape: Vec<usize>,
    /// Whether the first axis varies fastest in memory, instead of the last.
    pub is_fortran: bool,
    /// The kind of its values: `u` unsigned and `i` signed integers, `b` booleans, and others.
    pub kind: char,
    /// The size of a value in bytes.
    pub item_bytes: usize,
    /// Whether the most significant byte of a value comes first.
    pub is_big_endian: bool,
    /// The bytes of the values.
    pub bytes: Cow<'a, [u8]>,
}

/// The floating-point types.
#[derive(Clone, Copy)]
pub(crate) enum ElementType {
    Half,
    Brain,
    Single,
    Double,
}

/// The values of one or more tensors.
#[derive(Clone, Copy)]
pub(crate) struct Storage {
    /// The node of its key.
    key: usize,
    /// Absent for types that are skipped.
    pub kind: Option<ElementType>,
    /// 0 if the type is unknown.
    pub item_bytes: usize,
}

/// A tensor as a view into a storage.
pub(crate) struct View {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl View {
    /// The number of values, if it can be counted.
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |count, &length| count.checked_mul(length))
    }
}

impl Function {
    fn named(module: &str, name: &str) -> Self {
        match (module, name) {
            ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => Self::Mapping,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "HalfStorage") => Self::Storage(Some(ElementType::Half), 2),
            ("torch", "BFloat16Storage") => Self::Storage(Some(ElementType::Brain), 2),
            ("torch", "FloatStorage") => Self::Storage(Some(ElementType::Single), 4),
            ("torch", "DoubleStorage") => Self::Storage(Some(ElementType::Double), 8),
            ("torch", "BoolStorage" | "ByteStorage" | "CharStorage" | "QInt8Storage" | "QUInt8Storage") => {
                Self::Storage(None, 1)
            }
            ("torch.storage" | "torch", "UntypedStorage") => Self::Storage(None, 1),
            ("torch", "ShortStorage") => Self::Storage(None, 2),
            ("torch", "IntStorage" | "QInt32Storage") => Self::Storage(None, 4),
            ("torch", "LongStorage" | "ComplexFloatStorage") => Self::Storage(None, 8),
            ("torch", "ComplexDoubleStorage") => Self::Storage(None, 16),
            ("numpy", "dtype") => Self::ArrayType,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Self::RebuildArray,
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::ArrayFromBuffer,
            ("_codecs", "encode") => Self::Encode,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Pickle<'a> {
    /// Parses one pickle and returns its length as well.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize)> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: vec![Node::Other],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            unknown: None,
        };
        loop {
            if let Some(root) = machine.step()? {
                let Machine { nodes, unknown, at, .. } = machine;
                return Ok((Self { nodes, root, unknown }, at));
            }
        }
    }

    /// The root node.
    pub fn root(&self) -> usize {
        self.root
    }

    /// All storages.
    pub fn storages(&self) -> impl Iterator<Item = Storage> {
        self.nodes
            .iter()
            .filter_map(|node| if let Node::Storage(storage) = node { Some(*storage) } else { None })
    }

    /// The key of a storage.
    pub fn key(&self, storage: Storage) -> &str {
        self.text(storage.key).unwrap_or_default()
    }

    /// The tensors by their path: the keys that lead to them from the root, joined by dots. Modules that were
    /// pickled whole have the paths of their state dict.
    ///
    /// Each container is entered once, by its shortest path, so neither a cycle nor a container shared many
    /// times takes long.
    ///
    /// # Errors
    /// If the names have more than `most` bytes: a key that is shared has many paths.
    pub fn tensors(&self, most: usize) -> Result<Vec<(String, &View)>> {
        let (mut tensors, mut bytes) = (Vec::new(), 0);
        let mut entered = vec![false; self.nodes.len()];
        entered[self.root] = true;
        let mut queue = VecDeque::from([(String::new(), self.root)]);
        while let Some((path, container)) = queue.pop_front() {
            for (key, child) in self.children(container, &mut entered) {
                let path = match &*key {
                    "" | "_modules" | "_parameters" | "_buffers" => path.clone(),
                    _ if path.is_empty() => key.to_string(),
                    _ => format!("{path}.{key}"),
                };
                match &self.nodes[child] {
                    _ if path.len() > MAX_NAME || bytes > most => (),
                    Node::Tensor(view) if !key.is_empty() => {
                        bytes += path.len();
                        tensors.push((path, &**view));
                    }
                    Node::Dict(_) | Node::List(_) | Node::Object(_)
                        if !replace(&mut entered[child], true) =>
                    {
                        bytes += path.len();
                        queue.push_back((path, child));
                    }
                    _ => (),
                }
            }
        }
        if bytes > most {
            return Err(format!("the names of its tensors have more than {most} bytes"));
        }
        Ok(tensors)
    }

    /// The keys and the nodes of the children of a container. A child without a key is a part of it. A list of
    /// pairs is entered once, too.
    fn children(&self, container: usize, entered: &mut [bool]) -> Vec<(Cow<'a, str>, usize)> {
        let mut children = Vec::new();
        match &self.nodes[container] {
            Node::Dict(entries) => {
                let key = |node| {
                    let text = self.text(node).map(Cow::Borrowed);
                    text.or_else(|| Some(self.integer(node)?.to_string().into()))
                };
                children.extend(entries.iter().filter_map(|&(node, child)| Some((key(node)?, child))));
            }
            Node::List(items) => {
                let key = |index: usize| Cow::from(index.to_string());
                children.extend(items.iter().enumerate().map(|(index, &child)| (key(index), child)));
            }
            Node::Object(parts) => {
                for &part in parts {
                    let Node::List(items) = &self.nodes[part] else {
                        children.push((Cow::default(), part));
                        continue;
                    };
                    if replace(&mut entered[part], true) {
                        continue;
                    }
                    // The pairs of a mapping, or the state of an object with slots.
                    children.extend(items.iter().filter_map(|&item| match &self.nodes[item] {
                        Node::List(pair) if pair.len() == 2 => {
                            Some((Cow::Borrowed(self.text(pair[0])?), pair[1]))
                        }
                        _ => Some((Cow::default(), item)),
                    }));
                }
            }
            _ => (),
        }
        children
    }

    /// A text that is short enough to be a name.
    fn text(&self, node: usize) -> Option<&'a str> {
        match self.nodes[node] {
            Node::Text(text) | Node::Bytes(text) | Node::Latin1(text) if text.len() <= MAX_NAME => {
                str::from_utf8(text).ok()
            }
            _ => None,
        }
    }

    /// The node of a key, text or bytes, if the result is a mapping that has it.
    pub fn value(&self, key: &str) -> Option<usize> {
        let Node::Dict(entries) = &self.nodes[self.root] else { return None };
        entries.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|&(_, value)| value)
    }

    /// The texts of a list, if the node is one.
    pub fn list_of_texts(&self, node: usize) -> Option<Vec<&'a str>> {
        let Node::List(items) = &self.nodes[node] else { return None };
        items.iter().map(|&item| self.text(item)).collect()
    }

    /// The integers of a list, if the node is one.
    pub fn list_of_integers(&self, node: usize) -> Option<Vec<i64>> {
        let Node::List(items) = &self.nodes[node] else { return None };
        items.iter().map(|&item| self.integer(item)).collect()
    }

    fn integer(&self, node: usize) -> Option<i64> {
        if let Node::Int(value) = self.nodes[node] { Some(value) } else { None }
    }

    /// A NumPy array, if the node is one that can be understood.
    pub fn array(&self, node: usize) -> Option<PickledArray<'a>> {
        let parts =
            |node: usize| if let Node::List(parts) = &self.nodes[node] { Some(&parts[..]) } else { None };
        let (values, kind, shape, is_fortran) = match self.nodes[node] {
            Node::Array(state) => match *parts(state)? {
                [_, shape, kind, is_fortran, values, ..] => {
                    // Protocols 0 and 1 have no booleans.
                    let is_fortran = match self.nodes[is_fortran] {
                        Node::Bool(is_fortran) => is_fortran,
                        _ => self.integer(is_fortran)? != 0,
                    };
                    (values, kind, shape, is_fortran)
                }
                _ => return None,
            },
            Node::Buffer(arguments) => match *parts(arguments)? {
                [values, kind, shape, order, ..] => (values, kind, shape, self.text(order)? == "F"),
                _ => return None,
            },
            _ => return None,
        };
        let Node::ArrayType(arguments, state) = self.nodes[kind] else { return None };
        let mut name = self.text(*parts(arguments)?.first()?)?.chars();
        let (kind, item_bytes) = (name.next()?, name.as_str().parse().ok()?);
        let order = parts(state).and_then(|state| self.text(*state.get(1)?));
        let shape = parts(shape)?;
        if shape.len() > MAX_AXES {
            return None;
        }
        let length = |&node: &usize| usize::try_from(self.integer(node)?).ok();
        let bytes = match self.nodes[values] {
            Node::Bytes(bytes) | Node::Text(bytes) => Cow::Borrowed(bytes),
            Node::Latin1(text) => {
                let byte = |character: char| u8::try_from(character).ok();
                Cow::Owned(str::from_utf8(text).ok()?.chars().map(byte).collect::<Option<Vec<u8>>>()?)
            }
            _ => return None,
        };
        Some(PickledArray {
            shape: shape.iter().map(length).collect::<Option<Vec<usize>>>()?,
            is_fortran,
            kind,
            item_bytes,
            is_big_endian: order == Some(">"),
            bytes,
        })
    }
}

/// The pickle machine, protocols 0 to 5.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<usize>,
    /// The stack heights at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, usize>,
    unknown: Option<String>,
}

impl<'a> Machine<'a> {
    /// Interprets one instruction; returns the result at the end.
    fn step(&mut self) -> Result<Option<usize>> {
        let start = self.at;
        let code = self.take(1)?[0];
        // The instructions have the names of Python's pickletools.
        match code {
            // PROTO, FRAME, STOP, MARK, POP, POP_MARK, DUP
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?),

            // NONE; NEWTRUE, NEWFALSE; BINFLOAT; FLOAT
            b'N' => self.stack.push(OTHER),
            0x88 | 0x89 => self.push(Node::Bool(code == 0x88)),
            b'G' => self.skip(8)?,
            b'F' => {
                self.line()?;
                self.stack.push(OTHER);
            }
            // INT, LONG
            b'I' | b'L' => {
                let digits = self.line()?;
                let value = digits.trim_end_matches('L').parse();
                self.push(value.map_or(Node::Other, Node::Int));
            }
            // BININT; BININT1, BININT2
            b'J' => {
                let bytes = self.take(4)?.try_into().expect("four bytes");
                self.push(Node::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' | b'M' => {
                let value = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(value as i64));
            }
            // LONG1, LONG4
            0x8a | 0x8b => {
                let length = self.number(if code == 0x8a { 1 } else { 4 })?;
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
            // STRING, UNICODE
            b'S' | b'V' => {
                let mut text = self.bytes_of_line()?;
                while let [b'\'' | b'"', rest @ ..] | [rest @ .., b'\'' | b'"'] = text {
                    text = rest;
                }
                self.push(Node::Text(text));
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
            b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                let length = self.number(match code {
                    b'X' | b'T' => 4,
                    0x8d => 8,
                    _ => 1,
                })?;
                let text = self.take(length)?;
                self.push(Node::Text(text));
            }
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = self.number(match code {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                })?;
                let bytes = self.take(length)?;
                self.push(Node::Bytes(bytes));
            }
            // NEXT_BUFFER, whose buffers are not in the file; READONLY_BUFFER
            0x97 => self.stack.push(OTHER),
            0x98 => (),
            // EXT1, EXT2, EXT4: a registered class or function
            0x82..=0x84 => self.skip([1, 2, 4][usize::from(code - 0x82)])?,

            // EMPTY_TUPLE, EMPTY_LIST; EMPTY_DICT
            b')' | b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            // TUPLE, LIST
            b't' | b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            // DICT
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(pairs(&items)));
            }
            // TUPLE1, TUPLE2, TUPLE3
            0x85..=0x87 => {
                let length = usize::from(code - 0x84);
                let height = self.stack.len().checked_sub(length).ok_or("its stack is empty")?;
                let items = self.stack.split_off(height);
                self.push(Node::List(items));
            }
            // APPEND, APPENDS
            b'a' | b'e' => {
                let items = if code == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
                let top = self.top()?;
                if let Node::List(list) = &mut self.nodes[top] {
                    list.extend(items);
                }
            }
            // SETITEM, SETITEMS
            b's' | b'u' => {
                let items = if code == b's' {
                    let (value, key) = (self.pop()?, self.pop()?);
                    vec![key, value]
                } else {
                    self.pop_mark()?
                };
                let (top, entries) = (self.top()?, pairs(&items));
                match &mut self.nodes[top] {
                    Node::Dict(dict) => dict.extend(entries),
                    Node::Object(_) => {
                        self.nodes.push(Node::Dict(entries));
                        self.add_part(top, self.nodes.len() - 1);
                    }
                    _ => (),
                }
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.stack.push(OTHER),
            0x90 => drop(self.pop_mark()?),
            0x91 => {
                self.pop_mark()?;
                self.stack.push(OTHER);
            }

            // BINPUT, LONG_BINPUT, MEMOIZE, PUT
            b'q' | b'r' | 0x94 | b'p' => {
                let key = match code {
                    b'q' => self.number(1)? as u64,
                    b'r' => self.number(4)? as u64,
                    b'p' => self.memo_key()?,
                    _ => self.memo.len() as u64,
                };
                self.memo.insert(key, self.top()?);
            }
            // BINGET, LONG_BINGET, GET
            b'h' | b'j' | b'g' => {
                let key = match code {
                    b'h' => self.number(1)? as u64,
                    b'j' => self.number(4)? as u64,
                    _ => self.memo_key()?,
                };
                let node = *self.memo.get(&key).ok_or("it recalls a value that it has not stored")?;
                self.stack.push(node);
            }

            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_function(&module, &name);
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module], &self.nodes[name]) {
                    (&Node::Text(module), &Node::Text(name)) => {
                        let (module, name) = (String::from_utf8_lossy(module), String::from_utf8_lossy(name));
                        self.push_function(&module, &name);
                    }
                    _ => self.push(Node::Function(Function::Unknown)),
                }
            }
            // REDUCE
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments);
            }
            // NEWOBJ, NEWOBJ_EX
            0x81 | 0x92 => {
                for _ in 0..if code == 0x81 { 2 } else { 3 } {
                    self.pop()?;
                }
                self.push(Node::Object(Vec::new()));
            }
            // INST
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.pop_mark()?;
                self.push_function(&module, &name);
                self.pop()?;
                self.push(Node::Object(Vec::new()));
            }
            // OBJ
            b'o' => {
                self.pop_mark()?;
                self.push(Node::Object(Vec::new()));
            }
            // BUILD: the state of an object
            b'b' => {
                let state = self.pop()?;
                self.add_part(self.top()?, state);
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                // Before PyTorch 1.6, a module's class had an id too.
                self.push(self.storage(id).map_or(Node::Other, Node::Storage));
            }
            // PERSID
            b'P' => {
                self.line()?;
                self.stack.push(OTHER);
            }
            _ => return Err(format!("its pickle has the unknown instruction {code:#04x} at byte {start}")),
        }
        Ok(None)
    }

    /// Does the work of a known function on the node of its arguments.
    fn call(&mut self, function: usize, arguments: usize) {
        let (Node::Function(function), Node::List(given)) = (&self.nodes[function], &self.nodes[arguments])
        else {
            return self.push(Node::Object(Vec::new()));
        };
        let first = given.first().copied();
        let node = match (function, first) {
            (Function::Mapping, None) => Node::Dict(Vec::new()),
            (Function::Mapping, Some(content)) => Node::Object(vec![content]),
            (Function::RebuildTensor, _) => match self.view(given) {
                Some(view) => Node::Tensor(Box::new(view)),
                None => Node::Other,
            },
            (Function::RebuildParameter, Some(tensor)) => return self.stack.push(tensor),
            (Function::ArrayType, _) => Node::ArrayType(arguments, OTHER),
            (Function::RebuildArray, _) => Node::Array(OTHER),
            (Function::ArrayFromBuffer, _) => Node::Buffer(arguments),
            (Function::Encode, Some(text)) => match self.nodes[text] {
                Node::Text(text) => Node::Latin1(text),
                _ => Node::Other,
            },
            (Function::RebuildFromType, Some(inner)) => match given.get(2) {
                // torch.save writes only one level.
                Some(&arguments) if !self.is_from_type(inner) => return self.call(inner, arguments),
                _ => Node::Other,
            },
            _ => Node::Object(Vec::new()),
        };
        self.push(node);
    }

    fn is_from_type(&self, function: usize) -> bool {
        matches!(self.nodes[function], Node::Function(Function::RebuildFromType))
    }

    /// The storage of a persistent id `("storage", type, key, device, count, ...)`.
    fn storage(&self, id: usize) -> Option<Storage> {
        let Node::List(parts) = &self.nodes[id] else { return None };
        let &[what, kind, key, ..] = &parts[..] else { return None };
        let (Node::Text(what), Node::Function(kind), Node::Text(_)) =
            (&self.nodes[what], &self.nodes[kind], &self.nodes[key])
        else {
            return None;
        };
        let (kind, item_bytes) = match *kind {
            Function::Storage(kind, item_bytes) => (kind, item_bytes),
            _ => (None, 0),
        };
        (what == b"storage").then_some(Storage { key, kind, item_bytes })
    }

    /// The tensor of `(storage, offset, shape, strides, ...)`.
    fn view(&self, arguments: &[usize]) -> Option<View> {
        let &[storage, offset, shape, strides, ..] = arguments else { return None };
        let Node::Storage(storage) = self.nodes[storage] else { return None };
        let size = |&node: &usize| match self.nodes[node] {
            Node::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let sizes = |node: usize| match &self.nodes[node] {
            // Each tensor has a copy of its shape, so the number of axes is limited.
            Node::List(items) if items.len() <= MAX_AXES => {
                items.iter().map(size).collect::<Option<Vec<usize>>>()
            }
            _ => None,
        };
        let (offset, shape, strides) = (size(&offset)?, sizes(shape)?, sizes(strides)?);
        (shape.len() == strides.len()).then_some(View { storage, offset, shape, strides })
    }

    /// Adds a part to an object, or its state to an array; other nodes have none.
    fn add_part(&mut self, object: usize, part: usize) {
        match &mut self.nodes[object] {
            Node::Object(parts) => parts.push(part),
            Node::Array(state) | Node::ArrayType(_, state) => *state = part,
            _ => (),
        }
    }

    fn push(&mut self, node: Node<'a>) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn push_function(&mut self, module: &str, name: &str) {
        let function = Function::named(module, name);
        if let Function::Unknown = function
            && self.unknown.is_none()
        {
            self.unknown = Some(format!("{module}.{name}").chars().take(MAX_NAME).collect());
        }
        self.push(Node::Function(function));
    }

    /// Skips a value.
    fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.stack.push(OTHER);
        Ok(())
    }

    fn top(&self) -> Result<usize> {
        self.stack.last().copied().ok_or_else(|| "its stack is empty".to_owned())
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

    /// A little-endian unsigned integer of up to eight bytes.
    fn number(&mut self, length: usize) -> Result<usize> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn memo_key(&mut self) -> Result<u64> {
        self.line()?.parse().map_err(|_| "a place in its memo is not a number".to_owned())
    }

    fn line(&mut self) -> Result<Cow<'a, str>> {
        Ok(String::from_utf8_lossy(self.bytes_of_line()?))
    }

    fn bytes_of_line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is truncated")?;
        Ok(&self.take(length + 1)?[..length])
    }
}

/// Items as keys and values in turn.
fn pairs(items: &[usize]) -> Vec<(usize, usize)> {
    items.as_chunks().0.iter().map(|&[key, value]| (key, value)).collect()
}
