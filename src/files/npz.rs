//! NumPy archives (NPZ). Numeric arrays are read value by value. Errors are reasons; the reader of a format
//! puts them into its own error with the path.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, Write},
};

use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use npyz::{AutoSerialize, Deserialize, NpyFile, Order, WriterBuilder};
use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{
    checksum::BUFFER,
    npy::{self, Refusal},
};

/// The maximum number of values of an array that is read into memory, 1 GiB.
const MAX_IN_MEMORY: u64 = 1 << 27;

pub(crate) type Archive = ZipArchive<BufReader<File>>;

/// The values of an array as they are read.
pub(crate) type Numbers<'a> = Box<dyn Iterator<Item = Result<f64, String>> + 'a>;

/// A numeric array whose header has been read.
pub(crate) struct Array<'a> {
    pub name: &'a str,
    pub shape: Vec<u64>,
    pub order: Order,
    /// Whether the values are in single precision.
    pub is_single: bool,
    values: Numbers<'a>,
}

impl<'a> Array<'a> {
    /// Opens the array with this name, if there is one.
    ///
    /// # Errors
    /// The reason why the archive or the header cannot be read, or why the values are not numbers.
    pub fn open(archive: &'a mut Archive, name: &'a str) -> Result<Option<Self>, String> {
        let entry = match archive.by_name(&format!("{name}.npy")) {
            Err(ZipError::FileNotFound) => return Ok(None),
            entry => entry.map_err(|error| error.to_string())?,
        };
        let entry = BufReader::with_capacity(BUFFER, ToEnd { left: entry.size(), entry });
        let file = npy::open(entry).map_err(|refusal| match refusal {
            Refusal::Broken(error) => error.to_string(),
            Refusal::Unfit(reason) => format!("array `{name}` {reason}"),
        })?;
        let (shape, order) = (file.shape().to_vec(), file.order());
        let dtype = file.dtype();
        let kind = npy::kind(&dtype);
        let values = match kind {
            ("f", 8) => numbers(file, |value: f64| value),
            ("f", 4) => numbers(file, |value: f32| value.into()),
            ("f", 2) => numbers(file, |value: npyz::half::f16| value.into()),
            ("i", 8) => numbers(file, |value: i64| value as f64),
            ("i", 4) => numbers(file, |value: i32| value.into()),
            ("i", 2) => numbers(file, |value: i16| value.into()),
            ("i", 1) => numbers(file, |value: i8| value.into()),
            ("u", 8) => numbers(file, |value: u64| value as f64),
            ("u", 4) => numbers(file, |value: u32| value.into()),
            ("u", 2) => numbers(file, |value: u16| value.into()),
            ("u", 1) => numbers(file, |value: u8| value.into()),
            ("b", 1) => numbers(file, |value: bool| u8::from(value).into()),
            _ => Err(format!(
                "array `{name}` has type {}, expected integers, booleans, or numbers of 2, 4 or 8 bytes",
                file.dtype().descr()
            )),
        };
        Ok(Some(Self { name, shape, order, is_single: kind == ("f", 4), values: values? }))
    }

    /// The values in memory order, or in C order, where the last axis varies fastest. For C order, an array
    /// in Fortran order is read into memory.
    ///
    /// # Errors
    /// The reason why such an array cannot be read.
    pub fn values(self, in_c_order: bool) -> Result<Numbers<'a>, String> {
        if !in_c_order || self.order == Order::C {
            return Ok(self.values);
        }
        if self.shape.iter().product::<u64>() > MAX_IN_MEMORY {
            return Err(format!(
                "array `{}` is in Fortran order, unlike others, and too large to be read into memory",
                self.name
            ));
        }
        let values = self.values.collect::<Result<Vec<f64>, String>>()?;
        let shape: Vec<usize> = self.shape.iter().map(|&length| length as usize).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&shape).f(), values).map_err(|error| error.to_string())?;
        Ok(Box::new(array.into_iter().map(Ok)))
    }
}

fn numbers<'a, T: Deserialize + 'a>(
    file: NpyFile<impl Read + 'a>,
    number: fn(T) -> f64,
) -> Result<Numbers<'a>, String> {
    let values = file.data::<T>().map_err(|error| error.to_string())?;
    Ok(Box::new(values.map(move |value| value.map(number).map_err(|error| error.to_string()))))
}

/// An archive entry that reads its end along with its last byte: only then is its checksum compared.
struct ToEnd<R> {
    entry: R,
    /// The number of bytes that have not been read.
    left: u64,
}

impl<R: Read> Read for ToEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.entry.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 && count > 0 {
            self.entry.read_exact(&mut [0]).or_else(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(count)
    }
}

/// Writes an archive.
pub(crate) struct Writer<W: Write + Seek>(ZipWriter<W>);

impl<W: Write + Seek> Writer<W> {
    pub fn new(to: W) -> Self {
        Self(ZipWriter::new(to))
    }

    /// Adds an array, the bytes of an NPY file.
    pub fn add(&mut self, name: &str, array: &[u8]) -> io::Result<()> {
        self.begin(name, CompressionMethod::Deflated, array.len())?;
        self.0.write_all(array)
    }

    /// Adds a matrix. It is not compressed: that takes long, and saves a fifth of ReLU's features.
    #[cfg(feature = "export")]
    pub fn add_matrix(&mut self, name: &str, matrix: ndarray::ArrayView2<f32>) -> io::Result<()> {
        self.begin(name, CompressionMethod::Stored, size_of::<f32>() * matrix.len())?;
        let shape = [matrix.nrows() as u64, matrix.ncols() as u64];
        write(&mut io::BufWriter::new(&mut self.0), &shape, matrix.iter().copied())
    }

    fn begin(&mut self, name: &str, method: CompressionMethod, bytes: usize) -> io::Result<()> {
        // An array of several GiB needs longer fields.
        let options = SimpleFileOptions::default().compression_method(method).large_file(bytes >> 31 > 0);
        Ok(self.0.start_file(format!("{name}.npy"), options)?)
    }

    /// Writes the directory.
    pub fn finish(self) -> io::Result<()> {
        Ok(self.0.finish().map(drop)?)
    }
}

/// Numbers `[N]` as an NPY file.
pub(crate) fn vector<T: AutoSerialize>(values: Vec<T>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(&mut bytes, &[values.len() as u64], values)?;
    Ok(bytes)
}

/// Writes an NPY file.
pub(crate) fn write<T: AutoSerialize>(
    to: &mut impl Write,
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let options = npyz::WriteOptions::new().default_dtype().shape(shape);
    let mut writer = options.writer(&mut *to).begin_nd()?;
    writer.extend(values)?;
    writer.finish()?;
    to.flush()
}

/// Strings `[N]` as an NPY file, each padded to the longest.
pub(crate) fn texts(values: &[&String]) -> io::Result<Vec<u8>> {
    let longest = values.iter().map(|text| text.len()).max().unwrap_or(0).max(1);
    let dtype = npyz::DType::Plain(format!("|S{longest}").parse().expect("a NumPy type"));
    let mut bytes = Vec::new();
    let options = npyz::WriteOptions::<[u8]>::new().dtype(dtype).shape(&[values.len() as u64]);
    let mut writer = options.writer(&mut bytes).begin_nd()?;
    for text in values {
        writer.push(text.as_bytes())?;
    }
    writer.finish()?;
    Ok(bytes)
}
