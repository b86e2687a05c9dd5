//! Hugging Face data sets as Parquet: a column of encoded images and one of labels, with the label names in
//! the metadata.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    folder::entries,
    layout::{Layout, Part, Splits, Wanted},
};
use crate::{
    error::{Error, Result},
    image::has_extension,
    text::few,
};

pub(super) const LAYOUT: Layout = Layout {
    about: "Hugging Face's Parquet (`train-*.parquet`, `test-*.parquet`)",
    nested: &[],
    ignores_images: true,
    is_here: |path| !places(path).is_empty(),
    open,
};

/// The names of splits; of each kind, the first one present counts.
const TRAIN: [&str; 1] = ["train"];
const TEST: [&str; 4] = ["test", "validation", "val", "valid"];
/// The maximum number of folders searched for configurations.
const MAX_FOLDERS: usize = 64;

/// A file, and the name of its split if it has one.
type Shard = (Option<&'static str>, PathBuf);

/// Whether this is a file of images. `metadata.parquet` describes image files next to it.
fn is_parquet(path: &Path) -> bool {
    let is_other = path.file_name().is_some_and(|name| name == "metadata.parquet");
    !is_other && path.extension().is_some_and(|extension| extension == "parquet") && path.is_file()
}

/// The split that a name begins with.
fn split_of(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let word = name.split(['-', '.', '_']).next()?;
    TRAIN.into_iter().chain(TEST).find(|split| *split == word)
}

/// The beginning of a shard's name, its number and the number of shards: `train-00000-of-00005.parquet`, or
/// with a hash before the extension.
fn numbered(file: &Path) -> Option<(&str, usize, usize)> {
    let (before, after) = file.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (beginning, number) = before.rsplit_once('-')?;
    let value = |digits: &str| if digits.len() <= 6 { digits.parse().ok() } else { None };
    Some((beginning, value(number)?, value(after.split('-').next()?)?))
}

/// Checks that every shard is there once.
fn check_whole(files: &[&Path]) -> Result<(), String> {
    let mut found: BTreeMap<&str, (usize, BTreeSet<usize>)> = BTreeMap::new();
    for (beginning, number, count) in files.iter().filter_map(|file| numbered(file)) {
        let (counted, numbers) = found.entry(beginning).or_insert((count, BTreeSet::new()));
        if *counted != count {
            return Err(format!("it has files `{beginning}-...` of {counted} and of {count}"));
        }
        if !numbers.insert(number) {
            return Err(format!("it has several files `{beginning}-{number:05}-of-{count:05}`"));
        }
    }
    let missing = found.iter().flat_map(|(beginning, (count, numbers))| {
        let missing = (0..*count).filter(|number| !numbers.contains(number));
        missing.map(move |number| format!("{beginning}-{number:05}-of-{count:05}.parquet"))
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("it lacks {}", few(missing.iter().map(String::as_str))))
    }
}

/// The maximum depth of the search for image files: links may form a cycle.
const MAX_DEPTH: usize = 8;

/// Whether a folder, or one below it down to this depth, holds image files.
fn holds_images(folder: &Path, depth: usize) -> bool {
    let entries = entries(folder).unwrap_or_default();
    entries.iter().any(|path| has_extension(path))
        || depth > 0 && entries.iter().any(|path| path.is_dir() && holds_images(path, depth - 1))
}

/// The files in a folder, and in the folders of splits below it.
fn shards(folder: &Path) -> Vec<Shard> {
    let of_entry = |path: PathBuf| match split_of(&path) {
        split if is_parquet(&path) => vec![(split, path)],
        Some(split) => {
            let files = entries(&path).unwrap_or_default().into_iter().filter(|path| is_parquet(path));
            files.map(|path| (Some(split), path)).collect()
        }
        None => Vec::new(),
    };
    entries(folder).unwrap_or_default().into_iter().flat_map(of_entry).collect()
}

/// The files of a data set: a named one, or those in a folder or in its `data`, or else those of each
/// configuration, which has a folder of its own. Next to image files, and within a data set of them, only
/// numbered shards count: other files describe the images.
fn places(path: &Path) -> Vec<(PathBuf, Vec<Shard>)> {
    if is_parquet(path) {
        return vec![(path.to_owned(), vec![(None, path.to_owned())])];
    }
    let folders = || entries(path).unwrap_or_default().into_iter().filter(|path| path.is_dir());
    // A single folder of images may belong to documentation.
    let is_of_images =
        LazyCell::new(|| folders().filter(|folder| holds_images(folder, MAX_DEPTH)).nth(1).is_some());
    let in_folder = |folder: PathBuf| {
        let shards = shards(&folder);
        let is_meant = |shards: &[Shard]| {
            let is_beside_images = || holds_images(&folder, MAX_DEPTH) || folder != path && *is_of_images;
            shards.iter().any(|(_, file)| numbered(file).is_some()) || !is_beside_images()
        };
        (!shards.is_empty() && is_meant(&shards)).then_some((folder, shards))
    };
    if let Some(place) = [path.to_owned(), path.join("data")].into_iter().find_map(in_folder) {
        return vec![place];
    }
    folders().take(MAX_FOLDERS).filter_map(in_folder).collect()
}

fn open(path: &Path, wanted: Wanted) -> Result<Part> {
    let unusable = |reason| Error::Dataset { path: path.to_owned(), reason };
    let places = places(path);
    let [(_, shards)] = &places[..] else {
        let names: Vec<String> = places.iter().map(|(folder, _)| folder.display().to_string()).collect();
        let names = few(names.iter().map(String::as_str));
        return Err(unusable(format!("it holds several data sets: {names}")));
    };
    let of = |splits: &[&'static str]| {
        let split = splits.iter().find(|split| shards.iter().any(|shard| shard.0 == Some(**split)))?;
        let files = shards.iter().filter(|shard| shard.0 == Some(*split));
        Some(files.map(|(_, file)| file.as_path()).collect::<Vec<&Path>>())
    };
    let all = shards.iter().all(|(split, _)| split.is_none());
    let all = all.then(|| shards.iter().map(|(_, file)| file.as_path()).collect());
    let names = || shards.iter().filter_map(|(_, file)| file.file_name()?.to_str());
    let found = || format!("the files {}", few(names()));
    let files = Splits { train: of(&TRAIN), test: of(&TEST), all }.choose(wanted, path, found)?;
    if path.is_dir() {
        check_whole(&files).map_err(unusable)?;
    }
    read(path, &files, wanted)
}

#[cfg(not(feature = "parquet"))]
fn read(path: &Path, _: &[&Path], _: Wanted) -> Result<Part> {
    let reason = "it holds Parquet files, which need the feature `parquet`".to_owned();
    Err(Error::Dataset { path: path.to_owned(), reason })
}

#[cfg(feature = "parquet")]
pub(super) use with_parquet::Rows;
#[cfg(feature = "parquet")]
use with_parquet::read;

#[cfg(feature = "parquet")]
mod with_parquet {
    use std::{
        fs::File,
        io::{self, BufReader, Read, Seek, SeekFrom},
        path::{Path, PathBuf},
        sync::Arc,
    };

    use parquet::{
        data_type::ByteArray,
        file::{
            metadata::ColumnChunkMetaData,
            reader::{FileReader, SerializedFileReader},
        },
        record::Field,
        schema::types::Type,
    };

    use crate::{
        data::{
            LeftOut, Source,
            layout::{Part, Reasoned, Wanted, classified, named_classes},
        },
        error::{Error, Result},
        image::{self, RgbImage},
        panics::caught,
        text::{few, path_text},
    };

    /// The most bytes that Snappy expands one byte to, rounded up: a copy of 64 bytes takes three.
    const MAX_UNPACKED: i64 = 24;

    /// Images as they were encoded, in memory.
    #[derive(Debug)]
    pub(in crate::data) struct Rows {
        /// The files with their numbers of images.
        files: Vec<(PathBuf, usize)>,
        /// Slices of the pages read, so an image that a page refers to repeatedly is stored once.
        images: Vec<ByteArray>,
    }

    impl Rows {
        pub fn len(&self) -> usize {
            self.images.len()
        }

        pub fn files(&self) -> impl Iterator<Item = &Path> {
            self.files.iter().map(|(file, _)| file.as_path())
        }

        /// The name of an image: `FILE#ROW`.
        pub fn name(&self, index: usize) -> String {
            let mut row = index;
            for (file, count) in &self.files {
                if row < *count {
                    return format!("{}#{row}", path_text(file));
                }
                row -= count;
            }
            format!("#{index}")
        }

        /// The bytes of an image as a file of its own.
        pub fn encoded(&self, index: usize) -> &[u8] {
            self.images[index].data()
        }

        /// An image.
        pub fn image(&self, index: usize) -> Result<RgbImage> {
            image::from_bytes(self.encoded(index)).map_err(|error| match error {
                Error::Image { reason, .. } => Error::Image { path: self.name(index).into(), reason },
                error => error,
            })
        }
    }

    /// The columns that are read.
    struct Columns {
        image: String,
        /// The labels, and the names of their classes.
        label: Option<(String, Option<Vec<String>>)>,
    }

    pub(super) fn read(path: &Path, files: &[&Path], wanted: Wanted) -> Result<Part> {
        let (mut rows, mut labels, mut names) =
            (Rows { files: Vec::new(), images: Vec::new() }, Vec::new(), None);
        for &file in files {
            let broken = |reason| Error::Dataset { path: file.to_owned(), reason };
            let handle = File::open(file).map_err(Error::io("read", file))?;
            let before = rows.images.len();
            let read = || read_file(handle, wanted.is_known(), &mut rows.images, &mut labels);
            let found =
                caught(read).unwrap_or_else(|| Err("its reader panicked".to_owned())).map_err(broken)?;
            if names.is_some() && names != Some(found.clone()) {
                return Err(broken("its classes are not those of the files before".to_owned()));
            }
            names = Some(found);
            rows.files.push((file.to_owned(), rows.images.len() - before));
        }
        let unusable = |reason| Error::Dataset { path: path.to_owned(), reason };
        if rows.images.is_empty() {
            return Err(unusable("it holds no images".to_owned()));
        }
        let (mut classes, mut indices) = (Vec::new(), Vec::new());
        if wanted.is_known() {
            if labels.iter().all(|&label| label < 0) {
                let name = files[0].file_name().unwrap_or_default().display();
                return Err(unusable(format!(
                    "the images of `{name}` have no labels; remove its files to use another split"
                )));
            }
            let folder = files[0].parent().unwrap_or(path);
            let names = match names.flatten() {
                Some(names) => Some((0..).zip(names).collect()),
                None => named_classes(folder)?,
            };
            (classes, indices) = classified(&labels, labels.iter().copied(), names).map_err(unusable)?;
        }
        Ok(Part { classes, labels: indices, source: Source::Rows(rows), left_out: LeftOut::new() })
    }

    /// Checks the sizes that the pages of a column claim, because the reader allocates that much memory.
    fn check_pages(file: &File, column: &ColumnChunkMetaData) -> Reasoned<()> {
        let (start, length) = column.byte_range();
        let end = start.saturating_add(length);
        let mut file = BufReader::new(file);
        let mut at = start;
        while at < end {
            let mut sizes = [None; 2];
            let header = file.seek(SeekFrom::Start(at)).and_then(|_| page_header(&mut file, &mut sizes, 0));
            header.map_err(|error| format!("the header of a page at byte {at} cannot be read: {error}"))?;
            let (Some(unpacked), Some(packed)) = (sizes[0], sizes[1]) else {
                return Err(format!("the header of a page at byte {at} has no sizes"));
            };
            if packed < 0 || unpacked > packed.saturating_mul(MAX_UNPACKED) {
                return Err(format!("a page at byte {at} claims {unpacked} bytes, packed into {packed}"));
            }
            let begin = file.stream_position().map_err(|error| error.to_string())?;
            at = begin.saturating_add(packed.unsigned_abs());
        }
        Ok(())
    }

    /// Reads a structure of Thrift's compact protocol. The outermost is the header of a page, whose fields 2
    /// and 3 are its unpacked and packed sizes.
    fn page_header(file: &mut impl Read, sizes: &mut [Option<i64>; 2], depth: usize) -> io::Result<()> {
        let mut id = 0;
        loop {
            let head = byte(file)?;
            let kind = head & 15;
            id = match head >> 4 {
                0 if kind != 0 => varint(file)?,
                more => id.saturating_add(u64::from(more)),
            };
            match kind {
                0 => return Ok(()),
                // True, false, a byte, and integers.
                1 | 2 => (),
                3 => drop(byte(file)?),
                4..=6 => {
                    let value = varint(file)?;
                    if let (0, 2 | 3) = (depth, id) {
                        sizes[id as usize - 2] = Some((value >> 1) as i64 ^ -((value & 1) as i64));
                    }
                }
                8 => {
                    let length = varint(file)?;
                    io::copy(&mut file.take(length), &mut io::sink())?;
                }
                12 if depth < 4 => page_header(file, sizes, depth + 1)?,
                _ => return Err(io::Error::other(format!("a field has type {kind}"))),
            }
        }
    }

    fn varint(file: &mut impl Read) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = byte(file)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(io::Error::other("a number is too long"))
    }

    fn byte(file: &mut impl Read) -> io::Result<u8> {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Appends the images and labels of a file. Returns the names of its classes, if it has them.
    fn read_file(
        file: File,
        is_known: bool,
        images: &mut Vec<ByteArray>,
        labels: &mut Vec<i64>,
    ) -> Reasoned<Option<Vec<String>>> {
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        let pages = file.try_clone().map_err(|error| error.to_string())?;
        let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
        let mut rows =
            reader.metadata().row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
        let rows = rows.try_fold(0_u64, |all, rows| all.checked_add(rows?));
        if rows.is_none_or(|rows| rows > size) {
            return Err(format!("it claims more rows than its {size} bytes can hold"));
        }
        let Columns { image, label } = columns(&reader, is_known)?;
        let (label, names) = label.map_or((None, None), |(column, names)| (Some(column), names));
        let schema = reader.metadata().file_metadata().schema();
        let is_read = |field: &&Arc<Type>| field.name() == image || Some(field.name()) == label.as_deref();
        let fields = schema.get_fields().iter().filter(is_read).cloned().collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let projection = projection.map_err(|error| error.to_string())?;
        for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let root = column.column_path().parts().first();
            if root.is_some_and(|root| *root == image || Some(root) == label.as_ref()) {
                check_pages(&pages, column)?;
            }
        }
        let rows = reader.get_row_iter(Some(projection)).map_err(|error| error.to_string())?;
        for (number, row) in rows.enumerate() {
            let row = row.map_err(|error| error.to_string())?;
            let field = |name: &str| {
                row.get_column_iter().find(|(column, _)| *column == name).map(|(_, field)| field)
            };
            let bytes = field(&image)
                .and_then(encoded)
                .ok_or_else(|| format!("row {number} has no bytes of an image"))?;
            images.push(bytes);
            if let Some(column) = &label {
                let label = field(column).and_then(integer);
                labels.push(label.ok_or_else(|| format!("row {number} has no integer as `{column}`"))?);
            }
        }
        Ok(names)
    }

    /// The columns of images and labels: by the metadata, else by their usual names.
    fn columns(reader: &SerializedFileReader<File>, is_known: bool) -> Reasoned<Columns> {
        let metadata = reader.metadata().file_metadata();
        let schema: Vec<&str> = metadata.schema().get_fields().iter().map(|field| field.name()).collect();
        let entry =
            metadata.key_value_metadata().into_iter().flatten().find(|entry| entry.key == "huggingface");
        let text = entry.and_then(|entry| entry.value.as_deref()).unwrap_or("null");
        let described: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let features = &described["info"]["features"];
        let is_a = |column: &str, kind: &str| features[column]["_type"] == *kind;
        let first = |kind: &str, usual: &[&str]| {
            let of_kind: Vec<&str> = schema.iter().copied().filter(|column| is_a(column, kind)).collect();
            let among = |columns: &[&'_ str]| -> Option<usize> {
                usual.iter().find_map(|name| columns.iter().position(|column| column == name))
            };
            let in_schema = among(&schema).map(|place| schema[place]);
            among(&of_kind).map(|place| of_kind[place]).or(of_kind.first().copied()).or(in_schema)
        };
        let missing =
            |what: &str| format!("its columns are {}: none has {what}", few(schema.iter().copied()));
        let image = first("Image", &["image", "img"]).ok_or_else(|| missing("images"))?.to_owned();
        let label = if is_known {
            let column =
                first("ClassLabel", &["label", "labels", "fine_label"]).ok_or_else(|| missing("labels"))?;
            let names = features[column]["names"]
                .as_array()
                .map(|names| names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect());
            Some((column.to_owned(), names))
        } else {
            None
        };
        Ok(Columns { image, label })
    }

    /// The bytes of an image: binary, or a struct with `bytes`.
    fn encoded(field: &Field) -> Option<ByteArray> {
        match field {
            Field::Bytes(bytes) => Some(bytes.clone()),
            Field::Group(row) => match row.get_column_iter().find(|(name, _)| *name == "bytes")?.1 {
                Field::Bytes(bytes) => Some(bytes.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    fn integer(field: &Field) -> Option<i64> {
        match *field {
            Field::Byte(value) => Some(value.into()),
            Field::Short(value) => Some(value.into()),
            Field::Int(value) => Some(value.into()),
            Field::Long(value) => Some(value),
            Field::UByte(value) => Some(value.into()),
            Field::UShort(value) => Some(value.into()),
            Field::UInt(value) => Some(value.into()),
            Field::ULong(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Dataset, Split, exists, folder::tests::touch},
        image::Input,
    };

    #[test]
    fn missing_shards_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |names: &[&str]| {
            touch(folder.path(), names);
            Dataset::known(folder.path(), Split::Train, &Input::of_size(8, 8)).unwrap_err().to_string()
        };
        let lacks = error(&["data/train-00000-of-00005.parquet", "data/train-00003-of-00005.parquet"]);
        let names = [1, 2, 4].map(|number| format!("`train-0000{number}-of-00005.parquet`")).join(", ");
        assert!(lacks.ends_with(&format!("it lacks {names}")), "{lacks}");
        let rest = [1, 2, 4].map(|number| format!("data/train-0000{number}-of-00005-0a1b.parquet"));
        // All are there, but they are empty.
        let whole = error(&rest.each_ref().map(String::as_str));
        assert!(!whole.contains("lacks"), "{whole}");
        assert_eq!(
            numbered(Path::new("test-out-of-domain-00000-of-00002.parquet")),
            Some(("test-out-of-domain", 0, 2))
        );
        let twice = error(&["data/train-00001-of-00005.parquet"]);
        assert!(twice.contains("it has several files `train-00001-of-00005`"), "{twice}");
        let other = error(&["data/train-00000-of-00001.parquet"]);
        assert!(other.contains("it has files `train-...` of 1 and of 5"), "{other}");
    }

    #[test]
    fn a_table_next_to_images_is_not_a_parquet_data_set() {
        for table in [
            "cats/annotations.parquet",
            "annotations.parquet",
            "val_boxes.parquet",
            "notes/boxes.parquet",
            "data/a.parquet",
        ] {
            for split in ["", "train/"] {
                let folder = tempfile::tempdir().unwrap();
                let [cat, dog] = ["cats/1.jpg", "dogs/1.jpg"].map(|name| format!("{split}{name}"));
                let table = format!("{split}{table}");
                touch(folder.path(), &[&cat, &dog, "data/1.jpg", &table]);
                assert!(places(folder.path()).is_empty(), "{table} next to {cat}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["assets/logo.png", "train-00000-of-00001.parquet"]);
        assert_eq!(places(folder.path()).len(), 1);
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["assets/logo.png", "data/train.parquet"]);
        assert_eq!(places(folder.path()).len(), 1);
        assert!(exists(folder.path()));
    }
}
