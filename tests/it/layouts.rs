//! Data sets: the same images in every supported layout, as written by the programs that define it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use cac::{
    Error, Result,
    data::{Dataset, Split, UNKNOWN},
    image::Input,
};
use image::{Rgb, RgbImage};

use crate::golden;

const SIDE: usize = 32;
/// The numbers of the test and of the training images.
const TEST: std::ops::Range<usize> = 0..10;
const TRAIN: std::ops::Range<usize> = 10..20;

/// The byte of image `n` of `tests/golden/data.py`.
fn byte(n: usize, channel: usize, row: usize, column: usize) -> u8 {
    (37 * n + 61 * channel + 5 * (row / 2) + 3 * (channel + 1) * (column / 4)) as u8
}

/// The bytes `[3, 32, 32]` of an image; every channel of a grey one equals the first.
fn planes(n: usize, is_grey: bool) -> Vec<u8> {
    let of_channel = |channel: usize| {
        (0..SIDE * SIDE).map(move |at| byte(n, if is_grey { 0 } else { channel }, at / SIDE, at % SIDE))
    };
    (0..3).flat_map(of_channel).collect()
}

fn labels(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.map(|n| (n % 10) as u8).collect()
}

/// Checks classes, labels and pixels of a data set.
fn check(data: &Dataset, numbers: std::ops::Range<usize>, is_grey: bool, place: &Path) {
    let place = place.display();
    let digits: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    assert_eq!(data.classes(), digits, "{place}");
    assert_eq!(data.labels(), (0..10).collect::<Vec<i64>>(), "{place}");
    check_pixels(data, numbers, is_grey, &place.to_string());
}

fn check_pixels(data: &Dataset, numbers: std::ops::Range<usize>, is_grey: bool, place: &str) {
    assert_eq!(data.len(), 10, "{place}");
    for (index, n) in numbers.enumerate() {
        assert!(*data.pixels(index).unwrap() == planes(n, is_grey), "{place}, image {index}");
        assert!(data.encoded(index).unwrap().len() > 9, "{place}");
    }
    let indices: Vec<usize> = (0..data.len()).collect();
    assert_eq!(data.readable_batch(&indices).positions.len(), 10, "{place}");
    assert!(data.shares_images_with(data), "{place}");
    let names: std::collections::HashSet<String> = (0..10).map(|index| data.name(index)).collect();
    assert_eq!(names.len(), 10, "{place}");
}

fn known(place: &Path, split: Split) -> Result<Dataset> {
    Dataset::known(place, split, &Input::of_size(SIDE, SIDE))
}

/// Checks both splits of a place, as known classes and as unknown images.
fn assert_divided(place: &Path, is_grey: bool) {
    for (split, numbers) in [(Split::Train, TRAIN), (Split::Test, TEST)] {
        check(&known(place, split).unwrap(), numbers.clone(), is_grey, place);
        let unknown = Dataset::unknown(place, split, &Input::of_size(SIDE, SIDE)).unwrap();
        assert_eq!((unknown.labels(), unknown.classes().len()), (&[UNKNOWN; 10][..], 0));
        check_pixels(&unknown, numbers, is_grey, &place.display().to_string());
    }
    let [train, test] = [Split::Train, Split::Test].map(|split| known(place, split).unwrap());
    assert!(!train.shares_images_with(&test), "{}", place.display());
    let error = Dataset::divided(place, 0.5, &Input::of_size(SIDE, SIDE)).unwrap_err();
    assert!(error.to_string().contains("has a test split of its own"), "{error}");
}

/// Checks a place without splits, which has the test images.
fn assert_undivided(place: &Path, is_grey: bool) {
    check(&known(place, Split::Test).unwrap(), TEST, is_grey, place);
    let unknown = Dataset::unknown(place, Split::Test, &Input::of_size(SIDE, SIDE)).unwrap();
    check_pixels(&unknown, TEST, is_grey, &place.display().to_string());
    let error = known(place, Split::Train).unwrap_err();
    assert!(matches!(error, Error::Undivided { .. }), "{error}");
    // An empty path is not the current folder.
    let error = known(Path::new(""), Split::Test).unwrap_err();
    assert_eq!(error.to_string(), "`` is not a usable data set: the path is empty");
}

/// Checks a place with only training images, which can be divided.
fn assert_training_only(place: &Path, is_grey: bool, found: &str) {
    check(&known(place, Split::Train).unwrap(), TRAIN, is_grey, place);
    let error = known(place, Split::Test).unwrap_err();
    assert!(matches!(&error, Error::Undivided { .. }) && error.to_string().ends_with(found), "{error}");
    let error = Dataset::divided(place, 0.5, &Input::of_size(SIDE, SIDE)).unwrap_err();
    // Each class has one image.
    assert!(error.to_string().contains("leaves a class without a training image"), "{error}");
}

/// Checks a place with only test images, none of which are used for training.
fn assert_test_only(place: &Path, found: &str) {
    let error = known(place, Split::Train).unwrap_err();
    assert!(matches!(&error, Error::NoSplit { .. }), "{error}");
    assert!(error.to_string().ends_with(&format!("it has {found}, but no training images")), "{error}");
    let error = Dataset::divided(place, 0.5, &Input::of_size(SIDE, SIDE)).unwrap_err();
    assert!(error.to_string().contains("has a test split of its own"), "{error}");
}

/// Unpacks a folder of `tests/golden/data`.
fn unpacked(name: &str) -> tempfile::TempDir {
    fn unpack(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                fs::create_dir(&target).unwrap();
                unpack(&path, &target);
            } else {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(fs::File::open(&path).unwrap()).read_to_end(&mut bytes).unwrap();
                fs::write(target.with_extension(""), bytes).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    unpack(&golden("data").join(name), folder.path());
    folder
}

/// Writes a file below a folder.
fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Image `n` as a PNG file.
fn png(n: usize) -> Vec<u8> {
    let pixel = |x: u32, y: u32| Rgb([0, 1, 2].map(|channel| byte(n, channel, y as usize, x as usize)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_fn(SIDE as u32, SIDE as u32, pixel).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// An IDX file.
fn idx(shape: &[usize], bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let lengths = shape.iter().flat_map(|&length| (length as u32).to_be_bytes());
    [0, 0, 8, shape.len() as u8].into_iter().chain(lengths).chain(bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::default()).read_to_end(&mut packed).unwrap();
    packed
}

#[test]
fn cifar_is_recognised_in_every_release() {
    let digits = "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n\n";
    for (release, names, files, coarse) in [
        ("cifar-10-batches-bin", "batches.meta.txt", ["data_batch_1.bin", "test_batch.bin"], None),
        ("cifar-100-binary", "fine_label_names.txt", ["train.bin", "test.bin"], Some(7)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(release);
        write(&place, names, digits.as_bytes());
        for (file, numbers) in files.into_iter().zip([TRAIN, TEST]) {
            let record = |n: usize| coarse.into_iter().chain([(n % 10) as u8]).chain(planes(n, false));
            write(&place, file, &numbers.flat_map(record).collect::<Vec<u8>>());
        }
        assert_divided(&place, false);
        assert_divided(folder.path(), false);
        let [train, test] = files.map(|file| place.join(file));
        fs::rename(&test, folder.path().join("aside")).unwrap();
        assert_training_only(&place, false, &format!("it has `{}`", files[0]));
        fs::rename(folder.path().join("aside"), test).unwrap();
        fs::remove_file(train).unwrap();
        assert_test_only(&place, &format!("`{}`", files[1]));
    }
    for (written_by, release) in [
        ("python2", "cifar-10-batches-py"),
        ("python2", "cifar-100-python"),
        ("python3-protocol-2", "cifar-10-batches-py"),
        ("python3-protocol-3", "cifar-10-batches-py"),
        ("python3-protocol-4", "cifar-10-batches-py"),
        ("python3-protocol-5", "cifar-10-batches-py"),
    ] {
        let folder = unpacked(written_by);
        assert_divided(&folder.path().join(release), false);
        let above = known(folder.path(), Split::Test);
        match written_by {
            "python2" => {
                let error = above.unwrap_err().to_string();
                assert!(
                    error.contains("several data sets: `cifar-10-batches-py`, `cifar-100-python`"),
                    "{error}"
                );
            }
            _ => check(&above.unwrap(), TEST, false, folder.path()),
        }
    }
}

#[test]
fn svhn_is_recognised() {
    for name in ["svhn", "svhn-compressed"] {
        let folder = unpacked(name);
        assert_divided(folder.path(), false);
        let extra = folder.path().join("extra_32x32.mat");
        fs::rename(folder.path().join("test_32x32.mat"), &extra).unwrap();
        assert_undivided(&extra, false);
        assert_training_only(folder.path(), false, "it has `train_32x32.mat`");
    }
}

#[test]
fn idx_files_are_recognised() {
    let grey =
        |numbers: std::ops::Range<usize>| numbers.flat_map(|n| planes(n, true)[..SIDE * SIDE].to_vec());
    for (place, dot, is_packed, test) in [
        ("", "-", false, "t10k"),
        ("", ".", false, "t10k"),
        ("MNIST/raw", "-", true, "t10k"),
        ("raw", "-", true, "test"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (split, numbers) in [("train", TRAIN), (test, TEST)] {
            for (what, axes, bytes) in [
                ("images", 3, idx(&[10, SIDE, SIDE], grey(numbers.clone()))),
                ("labels", 1, idx(&[10], labels(numbers.clone()))),
            ] {
                let name = format!("{split}-{what}{dot}idx{axes}-ubyte");
                if is_packed {
                    write(&folder.path().join(place), &format!("{name}.gz"), &gzip(&bytes))
                } else {
                    write(&folder.path().join(place), &name, &bytes)
                }
            }
        }
        assert_divided(folder.path(), true);
        let place = folder.path().join(place);
        assert_divided(&place, true);
        let end = if is_packed { ".gz" } else { "" };
        let images = |split: &str| format!("{split}-images{dot}idx3-ubyte{end}");
        fs::rename(place.join(images(test)), folder.path().join("aside")).unwrap();
        assert_training_only(&place, true, &format!("it has `{}`", images("train")));
        fs::rename(folder.path().join("aside"), place.join(images(test))).unwrap();
        fs::remove_file(place.join(images("train"))).unwrap();
        assert_test_only(&place, &format!("`{}`", images(test)));
    }
}

#[test]
fn image_folders_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    for n in TEST {
        write(folder.path(), &format!("plain/{n}/{n}.png"), &png(n));
        write(folder.path(), &format!("divided/test/{n}/{n}.png"), &png(n));
    }
    for n in TRAIN {
        write(folder.path(), &format!("divided/train/{}/{n}.png", n % 10), &png(n));
    }
    assert_undivided(&folder.path().join("plain"), false);
    let divided = folder.path().join("divided");
    for (split, numbers) in [(Split::Train, TRAIN), (Split::Test, TEST)] {
        check(&known(&divided, split).unwrap(), numbers, false, &divided);
    }
    // As unknown images, all are used.
    assert_eq!(Dataset::unknown(&divided, Split::Test, &Input::of_size(SIDE, SIDE)).unwrap().len(), 20);
    // Test images are never training images, whatever else there is.
    fs::rename(divided.join("train"), divided.join("val")).unwrap();
    assert_test_only(&divided, "the folders `test`, `val`");
}

#[test]
fn dtd_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("dtd");
    for n in TEST {
        write(&root, &format!("images/{n}/{n}_0001.jpg"), &png(n));
    }
    write(&root, "labels/labels_joint_anno.txt", b"0/0_0001.jpg 0\n");
    write(&root, "labels/train1.txt", b"0/0_0001.jpg\n");
    write(&root, "imdb/imdb.mat", b"MATLAB 5.0 MAT-file");
    for place in [&root, folder.path()] {
        assert_undivided(place, false);
        assert!(known(place, Split::Test).unwrap().left_out().is_empty());
    }
}

#[test]
fn tiny_imagenet_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("tiny-imagenet-200");
    let (mut ids, mut words, mut annotations) = (String::new(), String::from("n99\tcow\n"), String::new());
    for digit in (0..10).rev() {
        ids += &format!("n0{digit}\n");
        words += &format!("n0{digit}\t{digit}, number\n");
        annotations += &format!("val_{digit}.JPEG\tn0{digit}\t0\t0\t9\t9\n");
        write(&root, &format!("val/images/val_{digit}.JPEG"), &png(digit));
        write(&root, &format!("train/n0{digit}/images/n0{digit}_0.JPEG"), &png(10 + digit));
        write(&root, &format!("train/n0{digit}/n0{digit}_boxes.txt"), b"n00_0.JPEG\t0\t0\t9\t9\n");
        write(&root, &format!("test/images/test_{digit}.JPEG"), b"no image");
    }
    write(&root, "wnids.txt", ids.as_bytes());
    write(&root, "words.txt", words.as_bytes());
    write(&root, "val/val_annotations.txt", annotations.as_bytes());
    assert_divided(&root, false);
    assert_divided(folder.path(), false);
    fs::rename(root.join("val"), folder.path().join("aside")).unwrap();
    assert_training_only(&root, false, "it has `train`");
    fs::rename(folder.path().join("aside"), root.join("val")).unwrap();
    fs::remove_dir_all(root.join("train")).unwrap();
    assert_test_only(&root, "`val`");
}

#[test]
fn numpy_arrays_are_recognised() {
    let folder = unpacked("npz");
    let at = |name: &str| folder.path().join(name);
    assert_divided(&at("keras.npz"), false);
    assert_divided(&at("medmnist.npz"), false);
    assert_undivided(&at("planes.npz"), false);
    assert_undivided(&at("fortran.npz"), false);
    assert_undivided(&at("grey.npz"), true);
    assert!(known(&at("keras.npz"), Split::Test).unwrap().name(3).ends_with("keras.npz/x_test#3"));
    // A folder with one archive stands for it.
    let alone = tempfile::tempdir().unwrap();
    fs::copy(at("keras.npz"), alone.path().join("mnist.npz")).unwrap();
    assert_divided(alone.path(), false);
    // With a byte order mark.
    write(alone.path(), "classes.txt", b"\xef\xbb\xbfa\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    let classes = known(alone.path(), Split::Train).unwrap().classes().to_vec();
    assert_eq!((&*classes[0], &*classes[9]), ("a", "j"));

    let folder = unpacked("npy");
    let error = known(folder.path(), Split::Test).unwrap_err().to_string();
    assert!(error.contains("choose one of its files: `corruption.npy`"), "{error}");
    assert_undivided(&folder.path().join("corruption.npy"), false);
    assert!(
        known(&folder.path().join("corruption.npy"), Split::Test)
            .unwrap()
            .name(3)
            .ends_with("corruption.npy#3")
    );
}

#[test]
fn one_severity_of_a_corruption_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("CIFAR-10-C");
    let npy = |kind: &str, shape: &str, values: &mut dyn Iterator<Item = u8>| -> Vec<u8> {
        let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        let text = format!("{text:<117}\n");
        let start =
            [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
        start.into_iter().chain(values).collect()
    };
    // Images of two pixels, whose value is their number divided by 1000, rounded down.
    let mut pixels = (0..50_000_usize).flat_map(|n| [(n / 1000) as u8; 6]);
    write(&place, "fog.npy", &npy("|u1", "50000, 1, 2, 3", &mut pixels));
    let mut labels = (0..50_000_u64).flat_map(|n| (n % 10).to_le_bytes());
    write(&place, "labels.npy", &npy("<i8", "50000,", &mut labels));
    let open = |name: &str| Dataset::known(&place.join(name), Split::Test, &Input::of_size(1, 2));
    for (name, count, first) in
        [("fog.npy", 50_000, 0), ("fog.npy:1", 10_000, 0), ("fog.npy:5", 10_000, 40_000)]
    {
        assert!(cac::data::exists(&place.join(name)));
        let images = open(name).unwrap();
        assert_eq!((images.len(), images.classes()[9].as_str()), (count, "truck"), "{name}");
        assert_eq!(images.labels()[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1], "{name}");
        for index in [0, 999, 1000, count - 1] {
            assert_eq!(
                *images.pixels(index).unwrap(),
                [((first + index) / 1000) as u8; 6],
                "{name}, {index}"
            );
            assert!(images.name(index).ends_with(&format!("fog.npy#{}", first + index)));
        }
        assert_eq!(
            Dataset::unknown(&place.join(name), Split::Test, &Input::of_size(1, 2)).unwrap().len(),
            count
        );
    }
    for name in ["fog.npy:0", "fog.npy:6", "fog.npy:x", "snow.npy:1"] {
        assert!(matches!(open(name), Err(Error::Io { .. })), "{name}");
    }
    write(&place, "few.npy", &npy("|u1", "10, 1, 2", &mut std::iter::repeat_n(0, 20)));
    let error = open("few.npy:1").unwrap_err().to_string();
    assert!(error.contains("it has 10 images, expected 10000 of each severity"), "{error}");
    let error = open("few.npy").unwrap_err().to_string();
    assert!(
        error.contains("labels.npy` is not a usable data set: it has 50000 labels for 10 images"),
        "{error}"
    );
    // The name of a link counts, too.
    #[cfg(unix)]
    {
        std::fs::rename(&place, folder.path().join("store")).unwrap();
        std::os::unix::fs::symlink("store", &place).unwrap();
        assert_eq!(open("fog.npy:1").unwrap().classes()[9], "truck");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_recognised() {
    let folder = unpacked("parquet");
    assert_divided(folder.path(), false);
    assert_divided(&folder.path().join("data"), false);
    let config = tempfile::tempdir().unwrap();
    fs::rename(folder.path().join("data"), config.path().join("plain_text")).unwrap();
    assert_divided(config.path(), false);
    let one = config.path().join("plain_text/test-00001-of-00002.parquet");
    assert_eq!(known(&one, Split::Test).unwrap().labels(), [5, 6, 7, 8, 9]);
    // The header of the first page has its type, its unpacked and its packed size, each size in two bytes of
    // seven bits. The last becomes 1.
    let mut bytes = fs::read(&one).unwrap();
    assert_eq!([bytes[4], bytes[6], bytes[9]], [0x15; 3]);
    bytes[10..12].copy_from_slice(&[0x82, 0]);
    fs::write(&one, bytes).unwrap();
    let error = known(&one, Split::Test).unwrap_err().to_string();
    assert!(error.contains("a page at byte 4 claims") && error.contains("packed into 1"), "{error}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_needs_its_feature() {
    let folder = unpacked("parquet");
    let error = known(folder.path(), Split::Test).unwrap_err().to_string();
    assert!(error.contains("Parquet files, which need the feature `parquet`"), "{error}");
}

#[test]
fn unrecognised_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let message = |place: &Path| known(place, Split::Train).unwrap_err().to_string();
    for name in ["b.csv", "a.txt", "docs/x.md"] {
        write(folder.path(), name, b"");
    }
    assert!(
        message(folder.path()).contains("it holds `a.txt`, `b.csv`, `docs`"),
        "{}",
        message(folder.path())
    );
    write(folder.path(), "data.tar.gz", &gzip(b"data"));
    let file: PathBuf = folder.path().join("data.tar.gz");
    assert!(message(&file).contains("it is compressed with gzip"), "{}", message(&file));
    assert!(matches!(known(&folder.path().join("none"), Split::Test), Err(Error::Io { .. })));
}

#[test]
fn held_out_images_are_stratified_and_reproducible() {
    let folder = tempfile::tempdir().unwrap();
    for (class, count, first) in [("a", 20, 0), ("b", 10, 100), ("c", 1, 200)] {
        for n in 0..count {
            write(folder.path(), &format!("{class}/{n:02}.png"), &png(first + n));
        }
    }
    let (train, test) = Dataset::divided(folder.path(), 0.2, &Input::of_size(SIDE, SIDE)).unwrap();
    let of_class = |data: &Dataset, class| data.labels().iter().filter(|&&label| label == class).count();
    assert_eq!([0, 1, 2].map(|class| of_class(&test, class)), [4, 2, 0]);
    assert_eq!([0, 1, 2].map(|class| of_class(&train, class)), [16, 8, 1]);
    let names = |data: &Dataset| (0..data.len()).map(|index| data.name(index)).collect::<Vec<_>>();
    assert!(names(&test).iter().all(|name| !names(&train).contains(name)));
    let again = Dataset::divided(folder.path(), 0.2, &Input::of_size(SIDE, SIDE)).unwrap();
    assert_eq!((names(&again.0), names(&again.1)), (names(&train), names(&test)));
    for (share, reason) in [
        (0.0, "must be a share above 0 and below 1"),
        (1.0, "must be a share above 0 and below 1"),
        (f64::NAN, "must be a share"),
        (0.95, "leaves a class without a training image"),
    ] {
        let error = Dataset::divided(folder.path(), share, &Input::of_size(SIDE, SIDE)).unwrap_err();
        let is_of_setting = match &error {
            Error::Setting { name, .. } | Error::EmptiesClass { name, .. } => *name == "held-out test",
            _ => false,
        };
        assert!(is_of_setting && error.to_string().contains(reason), "{error}");
    }
    // A training split without a test split is divided, too.
    let split = tempfile::tempdir().unwrap();
    fs::rename(folder.path().join("a"), split.path().join("moved")).unwrap();
    fs::create_dir(split.path().join("train")).unwrap();
    fs::rename(split.path().join("moved"), split.path().join("train/a")).unwrap();
    fs::rename(folder.path().join("b"), split.path().join("train/b")).unwrap();
    let error = known(split.path(), Split::Test).unwrap_err();
    assert!(error.to_string().contains("a folder `train`, but none of `test`, `testing`, `val`"), "{error}");
    assert_eq!(Dataset::divided(split.path(), 0.1, &Input::of_size(SIDE, SIDE)).unwrap().1.len(), 3);
}
