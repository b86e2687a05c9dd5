//! Reads files of `torch.save`: a [`Pickle`] that describes tensors, and their storages.

use std::{collections::HashMap, io::Cursor, ops::Range};

use half::{bf16, f16};
use zip::{CompressionMethod, ZipArchive};

use super::Tensor;
use crate::files::{
    kind,
    pickle::{ElementType, Pickle, Result, View},
};

/// The bytes that names may take in a small file.
const NAMES: usize = 1 << 16;

/// Whether the bytes are a PyTorch file in either format, or at least a ZIP archive.
pub(super) fn is_pytorch(bytes: &[u8]) -> bool {
    kind::is_zip(bytes) || kind::is_legacy_pytorch(bytes)
}

/// The floating-point tensors at any depth, each with the keys that lead to it, joined by dots. Everything
/// else is skipped.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let (pickle, storages) = if kind::is_zip(bytes) { zip(bytes)? } else { legacy(bytes)? };
    let tensors = pickle.tensors(4 * bytes.len() + NAMES)?;
    // Tensors may share storages, as in the official CAC checkpoints, but only up to a limit.
    let count = tensors.iter().try_fold(0_usize, |sum, (_, tensor)| sum.checked_add(tensor.count()?));
    if count.is_none_or(|count| count > 4 * bytes.len()) {
        return Err("its tensors claim more values than the file can hold".to_owned());
    }
    let mut read = Vec::new();
    for (name, tensor) in tensors {
        let Some(kind) = tensor.storage.kind else { continue };
        let key = pickle.key(tensor.storage);
        let at = storages.get(key);
        let at = at.ok_or_else(|| format!("the storage `{key}` of tensor `{name}` is missing"))?;
        let values = values(tensor, kind, &bytes[at.clone()]);
        let values = values.ok_or_else(|| format!("tensor `{name}` exceeds its storage"))?;
        read.push((name, Tensor { shape: tensor.shape.clone(), values }));
    }
    match &pickle.unknown {
        Some(function) if read.is_empty() => {
            Err(format!("it holds no tensors, only a call to `{function}`, and no code is executed"))
        }
        _ => Ok(read),
    }
}

/// The range of each storage's bytes in the file, by key.
type Storages = HashMap<String, Range<usize>>;

/// The format since PyTorch 1.6: a ZIP archive of `NAME/data.pkl` and `NAME/data/KEY`, uncompressed.
fn zip(bytes: &[u8]) -> Result<(Pickle<'_>, Storages)> {
    let damaged = |error| format!("its ZIP archive is damaged or truncated: {error}");
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names: Vec<&str> = archive.file_names().collect();
    let is_pickle = |name: &&str| name.split_once('/').is_some_and(|(_, name)| name == "data.pkl");
    // A TorchScript archive has a pickle too.
    let is_script = names.iter().any(|name| name.ends_with("/constants.pkl"));
    if is_script || !names.iter().any(is_pickle) {
        return Err(format!("it is {}, not a file of torch.save", kind::of_archive(&names)));
    }
    let mut storages = Storages::new();
    let mut pickle = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
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
    let pickle = pickle.ok_or("it holds no `data.pkl`")?;
    Ok((Pickle::parse(&bytes[pickle])?.0, storages))
}

/// The format before PyTorch 1.6: pickles of a magic number, a version, the machine, the object and the
/// storages' keys, then the length and the values of each storage.
fn legacy(bytes: &[u8]) -> Result<(Pickle<'_>, Storages)> {
    let mut at = 0;
    let mut pickles = Vec::new();
    for _ in 0..5 {
        let (pickle, length) = Pickle::parse(&bytes[at..])?;
        at += length;
        pickles.push(pickle);
    }
    let (keys, object) = (pickles.pop().expect("five pickles"), pickles.pop().expect("five pickles"));
    let items: HashMap<&str, usize> =
        object.storages().map(|storage| (object.key(storage), storage.item_bytes)).collect();
    let mut storages = Storages::new();
    for key in keys.list_of_texts(keys.root()).ok_or("it lists no storages")? {
        let truncated = || format!("the storage `{key}` is truncated");
        let (count, rest) = bytes[at..].split_first_chunk().ok_or_else(truncated)?;
        let item = items.get(key).filter(|&&item| item > 0);
        let item = item.ok_or_else(|| format!("the storage `{key}` has no known type"))?;
        let length =
            usize::try_from(i64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(*item));
        let length = length.filter(|&length| length <= rest.len()).ok_or_else(truncated)?;
        storages.insert(key.to_owned(), at + count.len()..at + count.len() + length);
        at += count.len() + length;
    }
    Ok((object, storages))
}

/// The values in row-major order; `None` if one is outside the storage.
fn values(view: &View, kind: ElementType, bytes: &[u8]) -> Option<Vec<f32>> {
    let item_bytes = view.storage.item_bytes;
    let number = |at: usize| -> Option<f32> {
        let start = at.checked_mul(item_bytes)?;
        let bytes = bytes.get(start..start.checked_add(item_bytes)?)?;
        Some(match kind {
            ElementType::Half => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::Brain => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::Single => f32::from_le_bytes(bytes.try_into().ok()?),
            ElementType::Double => f64::from_le_bytes(bytes.try_into().ok()?) as f32,
        })
    };
    let count = view.count()?;
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0_usize; view.shape.len()];
    for _ in 0..count {
        let steps = index.iter().zip(&view.strides).map(|(&i, &stride)| i.checked_mul(stride));
        let at = steps.into_iter().try_fold(view.offset, |at: usize, step| at.checked_add(step?))?;
        values.push(number(at)?);
        // The last axis varies fastest.
        for (i, &length) in index.iter_mut().zip(&view.shape).rev() {
            *i += 1;
            if *i < length {
                break;
            }
            *i = 0;
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weights;
    use std::path::{Path, PathBuf};

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
    }

    fn error(bytes: &[u8]) -> String {
        read(bytes).expect_err("must be refused")
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
        let module = Weights::read(&golden("wrn-module.pt")).unwrap().network().unwrap();
        assert_eq!((plain.network().unwrap().prefix(), module.prefix()), ("", "state_dict."));
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
    fn nothing_is_executed_and_no_tensor_results() {
        for name in ["evil.pt", "evil-legacy.pt"] {
            let error = error(&std::fs::read(golden(name)).unwrap());
            assert!(error.contains("it holds no tensors, only a call to `posix.system`"), "{error}");
        }
    }

    #[test]
    fn truncated_and_damaged_files_are_errors() {
        for name in ["strided.pt", "cac-legacy.pth", "layouts/whole-legacy.pt", "layouts/objects.pt"] {
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

    /// A file in the format before PyTorch 1.6 with this object and these storages' keys.
    fn file(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
        let pickle = |bytes: &[u8]| [&[0x80, 2][..], bytes, b"."].concat();
        let magic = pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19");
        let parts = [&magic, &pickle(b"M\xe9\x03"), &pickle(b"}"), &pickle(object), &pickle(keys)];
        [&parts.map(|part| part.as_slice()).concat(), storages].concat()
    }

    fn legacy(object: &[u8]) -> Vec<u8> {
        file(object, b"]", b"")
    }

    /// A storage of one value.
    const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ";
    /// A tensor of that value.
    const REBUILD: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n(";

    #[test]
    fn everything_but_tensors_is_skipped() {
        let tensor = [REBUILD, STORAGE, b"K\0K\x01\x85K\x01\x85tR"].concat();
        let names = |before: &[u8], after: &[u8]| -> Vec<String> {
            let object = [before, &tensor, after].concat();
            let value = [&1_i64.to_le_bytes()[..], &2.5_f32.to_le_bytes()].concat();
            let tensors = read(&file(&object, b"]X\x01\0\0\x000a", &value)).unwrap();
            assert!(tensors.iter().all(|(_, tensor)| tensor.values == [2.5]));
            tensors.into_iter().map(|(name, _)| name).collect()
        };
        // {"a": tensor}, after values of each kind in protocols 0 to 5.
        for other in [
            &b"N"[..],
            b"\x88",
            b"G\0\0\0\0\0\0\0\0",
            b"F1.5\n",
            b"I-5\n",
            b"L5L\n",
            b"\x8a\x00",
            b"\x8b\x0c\0\0\0aaaaaaaaaaaa",
            b"S'x'\n",
            b"V\\u0041\n",
            b"\x8d\x02\0\0\0\0\0\0\0xy",
            b"C\x02xy",
            b"\x8e\x01\0\0\0\0\0\0\0x",
            b"\x96\x01\0\0\0\0\0\0\0x",
            b"\x97\x98",
            b"\x82\x01",
            b"\x8f(K\x01\x90",
            b"(K\x01\x91",
            b"(K\x01l",
            b"(K\x01K\x02d",
            b"cos\nsystem\nX\x02\0\0\0ls\x85R",
            b"X\x02\0\0\0osX\x06\0\0\0system\x93)R}b",
            b"NN\x93",
            b"(ios\nsystem\n",
            b"(cos\nsystem\nX\x02\0\0\0lso",
            b"cpathlib\nPath\n)\x81",
            b"cpathlib\nPath\n)}\x92(K\x01K\x02u",
            b"K\x01K\x02R",
            b"Pmodule\n",
            b"(X\x06\0\0\0modulecm\nc\nNNtQ",
            b"K\x012p9\n0g9\n0",
            b"c__builtin__\ndict\n]X\x01\0\0\0b\x85a\x85R",
        ] {
            assert_eq!(
                names(&[b"}X\x01\0\0\0x", other, b"sX\x01\0\0\0a"].concat(), b"s"),
                ["a"],
                "{other:?}"
            );
        }
        // Containers: keys are joined, indices are keys, and a module has the names of its state dict.
        for (before, after, path) in [
            (&b"}X\x01\0\0\0a}X\x01\0\0\0b"[..], &b"ss"[..], "a.b"),
            (b"(N]", b"at", "1.0"),
            (b"}K\x07", b"s", "7"),
            (b"(X\x01\0\0\0a", b"d", "a"),
            (b"ccollections\nOrderedDict\n](X\x01\0\0\0a", b"la\x85R", "a"),
            (b"ccollections\nOrderedDict\n}X\x01\0\0\0a", b"s\x85R", "a"),
            (b"c__main__\nNet\n)\x81}X\x08\0\0\0_modules}X\x01\0\0\0a", b"ssb", "a"),
            (b"c__main__\nSlots\n)\x81N}X\x01\0\0\0a", b"s\x86b", "a"),
            (b"c__main__\nDict\n)RX\x01\0\0\0a", b"s", "a"),
            (b"}X\x01\0\0\0actorch._utils\n_rebuild_parameter\n(", b"\x88}tRs", "a"),
        ] {
            assert_eq!(names(before, after), [path]);
        }
        let typed = b"}X\x01\0\0\0actorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nct\nT\n(";
        let object = [&typed[..], STORAGE, b"K\0K\x01\x85K\x01\x85t}tRs"].concat();
        let value = [&1_i64.to_le_bytes()[..], &2.5_f32.to_le_bytes()].concat();
        assert_eq!(read(&file(&object, b"]X\x01\0\0\x000a", &value)).unwrap().len(), 1);
        // A tensor passed to an unknown function is not its result.
        assert!(
            error(&file(
                &[b"}X\x01\0\0\0acx\nneg\n(", &tensor[..], b"tRs"].concat(),
                b"]X\x01\0\0\x000a",
                &value
            ))
            .contains("only a call to `x.neg`")
        );
    }

    #[test]
    fn hostile_pickles_are_harmless() {
        assert_eq!(read(&legacy(b"}")).unwrap().len(), 0);
        // A million levels of nesting.
        let deep = [&b")"[..], &[0x85; 1_000_000]].concat();
        assert_eq!(read(&legacy(&deep)).unwrap().len(), 0);
        // Dictionaries that each hold the one before twice: 2^100 paths.
        let shared = b"}q\x01".iter().copied();
        let level = b"}q\x02(X\x01\0\0\0ah\x01X\x01\0\0\0bh\x01uq\x01";
        let bomb: Vec<u8> = shared.chain(level.repeat(100)).collect();
        assert_eq!(read(&legacy(&bomb)).unwrap().len(), 0);
        // A list and an object that contain themselves, and a rebuilt type of itself.
        assert_eq!(read(&legacy(b"]q\x01h\x01a")).unwrap().len(), 0);
        assert!(error(&legacy(b"cx\ny\n)Rq\x01h\x01b")).contains("no tensors"));
        // An object with the same ten thousand parts ten thousand times.
        let parts = [b"}q\x020](", &b"h\x02".repeat(10_000)[..], b"eq\x030cx\ny\n)R"].concat();
        let object = [parts, b"h\x03b".repeat(10_000)].concat();
        assert!(error(&legacy(&object)).contains("no tensors"));
        let typed = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x02h\x02]q\x01(h\x02Nh\x01eR";
        assert_eq!(read(&legacy(typed)).unwrap().len(), 0);
        // Each tensor has a copy of its shape, so the number of axes is limited.
        let axes = [&b"("[..], &b"K\x01".repeat(9), b"t"].concat();
        let many = [b"}X\x01\0\0\0a", REBUILD, STORAGE, b"K\0", &axes, &axes, b"tRs"];
        assert_eq!(read(&legacy(&many.concat())).unwrap().len(), 0);
        assert!(error(&legacy(b"h\x07")).contains("recalls"));
        assert!(error(&legacy(b"0")).contains("stack is empty"));
        assert!(error(&legacy(b"(1t")).contains("lacks a mark"));
        assert_eq!(read(&legacy(b"}q\x01X\x01\0\0\0ah\x01s")).unwrap().len(), 0);
        assert!(error(&legacy(b"X\xff\xff\xff\x7fabc")).contains("truncated"));
        assert!(error(&legacy(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc")).contains("truncated"));
        assert!(error(&legacy(b"\xf0")).contains("unknown instruction 0xf0"));
        // A tensor of 2^60 values, expanded from one by strides of 0.
        let huge = [b"}X\x01\0\0\0a", REBUILD, STORAGE, b"K\0J\0\0\0\x40J\0\0\0\x40\x86K\0K\0\x86tRs"];
        assert!(error(&legacy(&huge.concat())).contains("more values than the file can hold"));
        // One tensor under the same long name ten thousand times.
        let tensor = [REBUILD, STORAGE, b"K\0K\0\x85K\x01\x85tRq\x03"].concat();
        let long = [b"X\xfa\0\0\0", &[b'n'; 250][..], b"q\x02"].concat();
        let named = [&long[..], &tensor, b"}(", &b"h\x02h\x03".repeat(10_000), b"u"].concat();
        assert!(error(&legacy(&named)).contains("the names of its tensors have more than "));
    }
}
