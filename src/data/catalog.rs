//! Published data sets by name, and where they are on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[cfg(feature = "train")]
use super::{KnownData, cifar, tiny_imagenet};
use super::{
    Split,
    folder::{TEXTURE_LABELS, images_below, is_hidden},
};
use crate::{
    error::{Error, Result},
    files::cache,
    image::has_extension,
};

/// The environment variable with the folder of the data sets.
const FOLDER: &str = "CAC_DATA";

/// A published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedSet {
    /// Its name.
    pub name: &'static str,
    /// What it holds, in a few words.
    pub about: &'static str,
    /// The numbers of training and test images. Unknown images are the test images.
    pub images: [usize; 2],
    /// The licence, or what the authors ask for.
    pub terms: &'static str,
    /// What to know about its use; may be empty.
    pub note: &'static str,
    /// The names of its parts, one of which a user names as `NAME:PART`; empty for a set used as a whole.
    pub parts: &'static [&'static str],
    /// The files to download.
    pub downloads: &'static [Download],
    /// Where its images are, below the folder of the data sets or below its own folder there: the first
    /// layout is that of the downloads.
    pub(super) layouts: &'static [PublishedLayout],
}

/// A file of a published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Its URLs, tried in order.
    pub urls: &'static [&'static str],
    /// Its name on a mirror and in the folder of the data set.
    pub file: &'static str,
    /// Its length in bytes, if it is published.
    pub bytes: Option<u64>,
    /// Its MD5 in hexadecimal, as published.
    pub md5: &'static str,
    /// Its SHA-256 in hexadecimal, if it is published. Otherwise it is recorded when the file is first seen.
    pub sha256: Option<&'static str>,
    /// What is unpacked from it, below the folder of the data set; the file itself if it is not an archive.
    pub holds: &'static str,
    /// The split that it is needed for; `None` for both.
    pub split: Option<Split>,
}

/// Where the images of a data set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishedLayout {
    /// The relative path of the folder of known images.
    pub folder: &'static str,
    /// The folders of unknown training and test images, below it.
    unknown: [&'static str; 2],
    /// The files that a whole copy must have; none for a folder of images.
    pub parts: &'static [PublishedFile],
}

/// A file of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishedFile {
    pub file: &'static str,
    /// The split that it is needed for; `None` for both.
    pub split: Option<Split>,
    /// Its MD5, if that is published.
    pub md5: Option<&'static str>,
}

/// What a data set is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// As known classes.
    Known(Split),
    /// As unknown images.
    Unknown(Split),
}

impl Role {
    fn split(self) -> Split {
        match self {
            Self::Known(split) | Self::Unknown(split) => split,
        }
    }
}

const TRAIN: Option<Split> = Some(Split::Train);
const TEST: Option<Split> = Some(Split::Test);

const fn part(file: &'static str, split: Option<Split>) -> PublishedFile {
    PublishedFile { file, split, md5: None }
}

/// A file with the MD5 that torchvision 0.29 checks.
const fn checked(file: &'static str, split: Option<Split>, md5: &'static str) -> PublishedFile {
    PublishedFile { file, split, md5: Some(md5) }
}

const fn layout(folder: &'static str, parts: &'static [PublishedFile]) -> PublishedLayout {
    PublishedLayout { folder, unknown: [""; 2], parts }
}

/// A download needed for both splits. 0 bytes or an empty SHA-256 mean that none is published.
const fn download(
    url: &'static [&'static str],
    file: &'static str,
    bytes: u64,
    md5: &'static str,
    sha256: &'static str,
    holds: &'static str,
) -> Download {
    Download {
        urls: url,
        file,
        bytes: if bytes == 0 { None } else { Some(bytes) },
        md5,
        sha256: if sha256.is_empty() { None } else { Some(sha256) },
        holds,
        split: None,
    }
}

const fn of_split(download: Download, split: Option<Split>) -> Download {
    Download { split, ..download }
}

/// The corruptions of CIFAR-10-C, in pytorch-ood's order.
const CORRUPTIONS: [&str; 19] = [
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
];

const EASY: &str = "its resizing leaves traces, which make it easy to catch";

/// The data sets, sorted by kind. URLs and MD5 are those of torchvision 0.29.2 and pytorch-ood 0.4.0
/// (iSUN's: detectors 0.1.11; the MD5 of CIFAR-10's binary files: its page), lengths and SHA-256 those of
/// tensorflow-datasets 4.9.10 and Keras 3, if available.
pub static SETS: [PublishedSet; 16] = [
    PublishedSet {
        name: "cifar10",
        about: "objects in 10 classes, 32x32",
        images: [50_000, 10_000],
        terms: "none stated; cite Krizhevsky 2009",
        note: "",
        parts: &[],
        downloads: &[download(
            &["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"],
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c32a1d4ab5d03f1284b67883e8d87530",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "cifar-10-batches-bin",
        )],
        layouts: &[
            layout(
                "cifar-10-batches-bin",
                &[
                    part("data_batch_1.bin", TRAIN),
                    part("data_batch_2.bin", TRAIN),
                    part("data_batch_3.bin", TRAIN),
                    part("data_batch_4.bin", TRAIN),
                    part("data_batch_5.bin", TRAIN),
                    part("test_batch.bin", TEST),
                ],
            ),
            layout(
                "cifar-10-batches-py",
                &[
                    checked("data_batch_1", TRAIN, "c99cafc152244af753f735de768cd75f"),
                    checked("data_batch_2", TRAIN, "d4bba439e000b95fd0a9bffe97cbabec"),
                    checked("data_batch_3", TRAIN, "54ebc095f3ab1f0389bbae665268c751"),
                    checked("data_batch_4", TRAIN, "634d18415352ddfa80567beed471001a"),
                    checked("data_batch_5", TRAIN, "482c414d41f54cd18b22e5b47cb7c3cb"),
                    checked("test_batch", TEST, "40351d587109b95175f43aff81a1287e"),
                    checked("batches.meta", None, "5ff9c542aee3614f3951f8cda6e48888"),
                ],
            ),
        ],
    },
    PublishedSet {
        name: "cifar100",
        about: "objects in 100 classes, 32x32",
        images: [50_000, 10_000],
        terms: "none stated; cite Krizhevsky 2009",
        note: "no class is one of CIFAR-10's, but some are close",
        parts: &[],
        downloads: &[download(
            &["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"],
            "cifar-100-python.tar.gz",
            169_001_437,
            "eb9058c3a382ffc7106e4002c42a8d85",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "cifar-100-python",
        )],
        layouts: &[
            layout(
                "cifar-100-python",
                &[
                    checked("train", TRAIN, "16019d7e3df5f24257cddd939b257f8d"),
                    checked("test", TEST, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
                    checked("meta", None, "7973b15100ade9c7d40fb424638fde48"),
                ],
            ),
            layout("cifar-100-binary", &[part("train.bin", TRAIN), part("test.bin", TEST)]),
        ],
    },
    PublishedSet {
        name: "svhn",
        about: "house numbers, digits in 10 classes, 32x32",
        images: [73_257, 26_032],
        terms: "for non-commercial use",
        note: "",
        parts: &[],
        downloads: &[
            of_split(
                download(
                    &["http://ufldl.stanford.edu/housenumbers/train_32x32.mat"],
                    "train_32x32.mat",
                    182_040_794,
                    "e26dedcc434d2e4c54c9b2d4a06d8373",
                    "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                    "train_32x32.mat",
                ),
                TRAIN,
            ),
            of_split(
                download(
                    &["http://ufldl.stanford.edu/housenumbers/test_32x32.mat"],
                    "test_32x32.mat",
                    64_275_384,
                    "eb5a983be6a315427106f1b164d9cef3",
                    "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                    "test_32x32.mat",
                ),
                TEST,
            ),
        ],
        layouts: &[layout(
            "",
            &[
                checked("train_32x32.mat", TRAIN, "e26dedcc434d2e4c54c9b2d4a06d8373"),
                checked("test_32x32.mat", TEST, "eb5a983be6a315427106f1b164d9cef3"),
            ],
        )],
    },
    PublishedSet {
        name: "mnist",
        about: "handwritten digits in 10 classes, 28x28, grey",
        images: [60_000, 10_000],
        terms: "CC BY-SA 3.0",
        note: "",
        parts: &[],
        downloads: &[
            of_split(
                download(
                    &[
                        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                        "http://yann.lecun.com/exdb/mnist/train-images-idx3-ubyte.gz",
                        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
                    ],
                    "train-images-idx3-ubyte.gz",
                    9_912_422,
                    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    "MNIST/raw/train-images-idx3-ubyte",
                ),
                TRAIN,
            ),
            of_split(
                download(
                    &[
                        "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                        "http://yann.lecun.com/exdb/mnist/train-labels-idx1-ubyte.gz",
                        "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
                    ],
                    "train-labels-idx1-ubyte.gz",
                    28_881,
                    "d53e105ee54ea40749a09fcbcd1e9432",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    "MNIST/raw/train-labels-idx1-ubyte",
                ),
                TRAIN,
            ),
            of_split(
                download(
                    &[
                        "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                        "http://yann.lecun.com/exdb/mnist/t10k-images-idx3-ubyte.gz",
                        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz",
                    ],
                    "t10k-images-idx3-ubyte.gz",
                    1_648_877,
                    "9fb629c4189551a2d022fa330f9573f3",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                    "MNIST/raw/t10k-images-idx3-ubyte",
                ),
                TEST,
            ),
            of_split(
                download(
                    &[
                        "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                        "http://yann.lecun.com/exdb/mnist/t10k-labels-idx1-ubyte.gz",
                        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
                    ],
                    "t10k-labels-idx1-ubyte.gz",
                    4542,
                    "ec29112dd5afa0611ce80d1b7f02629c",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                    "MNIST/raw/t10k-labels-idx1-ubyte",
                ),
                TEST,
            ),
        ],
        layouts: &[layout("MNIST/raw", &IDX)],
    },
    PublishedSet {
        name: "fashion-mnist",
        about: "clothes in 10 classes, 28x28, grey",
        images: [60_000, 10_000],
        terms: "MIT",
        note: "",
        parts: &[],
        downloads: &[
            of_split(
                download(
                    &[
                        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
                    ],
                    "train-images-idx3-ubyte.gz",
                    26_421_880,
                    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "FashionMNIST/raw/train-images-idx3-ubyte",
                ),
                TRAIN,
            ),
            of_split(
                download(
                    &[
                        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
                    ],
                    "train-labels-idx1-ubyte.gz",
                    29_515,
                    "25c81989df183df01b3e8a0aad5dffbe",
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "FashionMNIST/raw/train-labels-idx1-ubyte",
                ),
                TRAIN,
            ),
            of_split(
                download(
                    &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz"],
                    "t10k-images-idx3-ubyte.gz",
                    4_422_102,
                    "bef4ecab320f06d8554ea6380940ec79",
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "FashionMNIST/raw/t10k-images-idx3-ubyte",
                ),
                TEST,
            ),
            of_split(
                download(
                    &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz"],
                    "t10k-labels-idx1-ubyte.gz",
                    5148,
                    "bb300cfdad3c16e7a12a480ee83cd310",
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    "FashionMNIST/raw/t10k-labels-idx1-ubyte",
                ),
                TEST,
            ),
        ],
        layouts: &[layout("FashionMNIST/raw", &IDX)],
    },
    PublishedSet {
        name: "tiny-imagenet",
        about: "objects in 200 classes of ImageNet, 64x64",
        images: [100_000, 10_000],
        terms: "ImageNet's: non-commercial research",
        note: "to test on: `val`; the labels of `test` are not published",
        parts: &[],
        downloads: &[download(
            &["http://cs231n.stanford.edu/tiny-imagenet-200.zip"],
            "tiny-imagenet-200.zip",
            248_100_043,
            "90528d7ca1a48142e341f4ef8d21d0de",
            "",
            "tiny-imagenet-200",
        )],
        layouts: &[PublishedLayout {
            unknown: ["train", "val/images"],
            ..layout("tiny-imagenet-200", &[part("wnids.txt", None), part("val/val_annotations.txt", TEST)])
        }],
    },
    PublishedSet {
        name: "textures",
        about: "Describable Textures (DTD) in 47 classes, 300x300 to 640x640",
        images: [0, 5640],
        terms: "for research",
        note: "",
        parts: &[],
        downloads: &[download(
            &["https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz"],
            "dtd-r1.0.1.tar.gz",
            625_239_812,
            "fff73e5086ae6bdbea199a49dfb8a4c1",
            "e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
            "dtd",
        )],
        layouts: &[
            PublishedLayout { unknown: ["images"; 2], ..layout("dtd", &[part(TEXTURE_LABELS, None)]) },
            PublishedLayout { unknown: ["images"; 2], ..layout("dtd/dtd", &[part(TEXTURE_LABELS, None)]) },
        ],
    },
    PublishedSet {
        name: "places365",
        about: "scenes, validation images of Places365, 256x256",
        images: [0, 36_500],
        terms: "for research and education",
        note: "some scenes show objects of known classes",
        parts: &[],
        downloads: &[download(
            &["http://data.csail.mit.edu/places/places365/val_256.tar"],
            "val_256.tar",
            525_158_400,
            "e27b17d8d44f4af9a78502beb927f808",
            "24b4e639ef12a0012af525bc4cb443e4ab4aaea8369a1fb009b70e4a4aad5d48",
            "val_256",
        )],
        layouts: &[layout("val_256", &[])],
    },
    PublishedSet {
        name: "lsun-crop",
        about: "scenes of LSUN, cropped to 32x32",
        images: [0, 10_000],
        terms: "none stated; cite Liang et al. 2018",
        note: "",
        parts: &[],
        downloads: &[download(
            &["https://www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1"],
            "LSUN.tar.gz",
            0,
            "458a0a0ab8e5f1cb4516d7400568e460",
            "",
            "LSUN",
        )],
        layouts: &[layout("LSUN/test", &[])],
    },
    PublishedSet {
        name: "lsun-resize",
        about: "scenes of LSUN, resized to 32x32",
        images: [0, 10_000],
        terms: "none stated; cite Liang et al. 2018",
        note: EASY,
        parts: &[],
        downloads: &[download(
            &["https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1"],
            "LSUN_resize.tar.gz",
            0,
            "278b7b31c8cb7e804a1465a8ce03a2dc",
            "",
            "LSUN_resize",
        )],
        layouts: &[layout("LSUN_resize/LSUN_resize", &[])],
    },
    PublishedSet {
        name: "tin-crop",
        about: "objects of Tiny ImageNet, cropped to 32x32",
        images: [0, 10_000],
        terms: "none stated; cite Liang et al. 2018",
        note: "",
        parts: &[],
        downloads: &[download(
            &["https://www.dropbox.com/s/avgm2u562itwpkl/Imagenet.tar.gz?dl=1"],
            "Imagenet.tar.gz",
            0,
            "7c0827e4246c3718a5ee076e999e52e5",
            "",
            "Imagenet",
        )],
        layouts: &[layout("Imagenet/test", &[])],
    },
    PublishedSet {
        name: "tin-resize",
        about: "objects of Tiny ImageNet, resized to 32x32",
        images: [0, 10_000],
        terms: "none stated; cite Liang et al. 2018",
        note: EASY,
        parts: &[],
        downloads: &[download(
            &["https://www.dropbox.com/s/kp3my3412u5k9rl/Imagenet_resize.tar.gz?dl=1"],
            "Imagenet_resize.tar.gz",
            0,
            "0f9ff11d45babf2eff5fe12281d1ac31",
            "",
            "Imagenet_resize",
        )],
        layouts: &[layout("Imagenet_resize/Imagenet_resize", &[])],
    },
    PublishedSet {
        name: "isun",
        about: "scenes of SUN, resized to 32x32",
        images: [0, 8925],
        terms: "none stated; cite Xu et al. 2015",
        note: EASY,
        parts: &[],
        downloads: &[download(
            &["https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz?dl=1"],
            "iSUN.tar.gz",
            0,
            "be77b0f2c26fda898afac5f99645ee70",
            "",
            "iSUN",
        )],
        layouts: &[layout("iSUN/iSUN_patches", &[])],
    },
    PublishedSet {
        name: "imagenet-o",
        about: "objects outside of ImageNet's 1,000 classes that look known",
        images: [0, 2000],
        terms: "MIT; ImageNet's for the images",
        note: "for models of ImageNet's classes",
        parts: &[],
        downloads: &[download(
            &["https://people.eecs.berkeley.edu/~hendrycks/imagenet-o.tar"],
            "imagenet-o.tar",
            0,
            "86bd7a50c1c4074fb18fc5f219d6d50b",
            "",
            "imagenet-o",
        )],
        layouts: &[layout("imagenet-o", &[])],
    },
    PublishedSet {
        name: "ninco",
        about: "objects outside of ImageNet's 1,000 classes, checked by hand",
        images: [0, 5879],
        terms: "CC BY 4.0",
        note: "for models of ImageNet's classes at 224x224",
        parts: &[],
        downloads: &[download(
            &["https://zenodo.org/record/8013288/files/NINCO_all.tar.gz"],
            "NINCO_all.tar.gz",
            0,
            "b9ffae324363cd900a81ce3c367cd834",
            "",
            "NINCO",
        )],
        layouts: &[layout("NINCO/NINCO_OOD_classes", &[])],
    },
    PublishedSet {
        name: "cifar10-c",
        about: "CIFAR-10's test images with 19 corruptions of 5 strengths, 32x32",
        images: [0, 950_000],
        terms: "CC BY 4.0",
        note: "taken by corruption, `cifar10-c:fog`, or `cifar10-c:fog:5` for the strongest; the classes are those of \
               `cifar10`, so known ones",
        parts: &CORRUPTIONS,
        downloads: &[download(
            &["https://zenodo.org/record/2535967/files/CIFAR-10-C.tar"],
            "CIFAR-10-C.tar",
            2_918_471_680,
            "56bf5dcef84df0e2308c6dcbcbbd8499",
            "c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
            "CIFAR-10-C",
        )],
        layouts: &[layout("CIFAR-10-C", &[part("labels.npy", None)])],
    },
];

const IDX: [PublishedFile; 4] = [
    part("train-images-idx3-ubyte", TRAIN),
    part("train-labels-idx1-ubyte", TRAIN),
    part("t10k-images-idx3-ubyte", TEST),
    part("t10k-labels-idx1-ubyte", TEST),
];

impl PublishedSet {
    /// The data set with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SETS.iter().find(|set| set.name == name)
    }

    /// Whether its classes are digits, whose mirror images belong to no class.
    #[must_use]
    pub fn is_of_digits(&self) -> bool {
        ["mnist", "svhn"].contains(&self.name)
    }

    /// The data set that a user's text names (it may also be a folder): `NAME`, or `NAME:PART` of a set with
    /// parts. Only the exact name means the data set, whether or not there is a folder of that name; `./NAME`
    /// and `NAME/` mean the folder.
    #[must_use]
    pub fn meant_by(text: &Path) -> Option<&'static Self> {
        let text = text.to_str()?;
        match text.split_once(':') {
            Some((name, _)) => Self::named(name).filter(|set| !set.parts.is_empty()),
            None => Self::named(text),
        }
    }

    /// The data set of known images: the one that is named, CIFAR's if the classes are its own, or some of them
    /// where others are unknown, or Tiny ImageNet's if the folder is one.
    #[cfg(feature = "train")]
    pub(crate) fn of_known(data: &KnownData, classes: &[String]) -> Option<&'static Self> {
        let (text, unknown) = (&*data.path, &data.unknown_classes);
        let are_of = |all: &[&str]| {
            classes.iter().chain(unknown).all(|class| all.contains(&&**class))
                && (data.protocol.is_some() || classes.len() + unknown.len() == all.len())
        };
        Self::meant_by(text).or_else(|| {
            if are_of(&cifar::CLASSES) {
                Self::named("cifar10")
            } else if are_of(&cifar::FINE_CLASSES) {
                Self::named("cifar100")
            } else if tiny_imagenet::LAYOUT.is_in(text) {
                Self::named("tiny-imagenet")
            } else {
                None
            }
        })
    }

    /// The names of the row and of the published data set, if an unknown set is given as `NAME=SET` or `SET`.
    #[must_use]
    pub fn unknown_in(text: &str) -> Option<(&str, &str)> {
        let (name, set) = text.split_once('=').unwrap_or((text, text));
        Self::meant_by(Path::new(set)).map(|_| (name, set))
    }

    /// The file of the part that a user names, followed by the strength in the array reader's syntax; `None`
    /// for a set used as a whole.
    fn part_meant_by(&self, text: &Path) -> Result<Option<String>> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let text = text.to_str().unwrap_or_default();
        let mut words = text.split(':').skip(1);
        match (words.next(), words.next(), words.next()) {
            (Some(part), None, None) if self.parts.contains(&part) => Ok(Some(format!("{part}.npy"))),
            (Some(part), Some(strength @ ("1" | "2" | "3" | "4" | "5")), None)
                if self.parts.contains(&part) =>
            {
                Ok(Some(format!("{part}.npy:{strength}")))
            }
            _ => {
                let (name, parts) = (self.name, self.parts.join(", "));
                let reason = format!(
                    "must be {name}:PART or {name}:PART:STRENGTH, with STRENGTH 1 to 5 and PART {parts}"
                );
                Err(Error::setting("data set", format!("`{text}`"), reason))
            }
        }
    }

    /// The length of all downloads in bytes, if all are published.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.downloads.iter().map(|download| download.bytes).sum()
    }

    /// The names of all data sets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SETS.iter().map(|set| set.name)
    }

    /// Whether a download is needed for a split.
    #[cfg(feature = "files")]
    pub(super) fn needs(download: &Download, role: Role) -> bool {
        download.split.is_none_or(|split| split == role.split())
    }
}

impl PublishedLayout {
    /// Whether everything that a role needs exists below a folder.
    pub fn is_whole(&self, base: &Path, role: Role) -> bool {
        let folder = joined(base, self.folder);
        let needed = |part: &&PublishedFile| part.split.is_none_or(|split| split == role.split());
        if self.parts.is_empty() {
            has_content(&folder)
        } else {
            self.parts.iter().filter(needed).all(|part| folder.join(part.file).is_file())
        }
    }

    /// The folder of a role's images, below a folder.
    pub fn of_role(&self, base: &Path, role: Role) -> PathBuf {
        let folder = joined(base, self.folder);
        match role {
            Role::Known(_) => folder,
            Role::Unknown(Split::Train) => joined(&folder, self.unknown[0]),
            Role::Unknown(Split::Test) => joined(&folder, self.unknown[1]),
        }
    }
}

/// Where a data set may be: each layout below its own folder, and then below the folder of all data sets.
fn places(set: &PublishedSet, folder: &Path) -> Vec<(PathBuf, &'static PublishedLayout)> {
    let own = folder.join(set.name);
    let below = |base: &Path| set.layouts.iter().map(|layout| (base.to_owned(), layout)).collect::<Vec<_>>();
    let mut places = [below(&own), below(folder)].concat();
    // If the set's own folder is named like a layout and contains that layout, too (`NAME/NAME`), the inner
    // folder is the layout.
    places.retain(|(base, layout)| {
        *base == own || base.join(layout.folder) != own || !own.join(layout.folder).exists()
    });
    places
}

/// The first copy of a data set that is whole for all of these roles, in its own folder or elsewhere. Without
/// parts, a copy outside the set's own folder is recognised by its number of images: other data may have
/// the same names.
pub(super) fn whole_copy(
    set: &PublishedSet,
    folder: &Path,
    roles: &[Role],
) -> Option<(PathBuf, &'static PublishedLayout)> {
    let own = folder.join(set.name);
    let is_copy = |(base, layout): &(PathBuf, &PublishedLayout)| {
        let is_sure = *base == own || !layout.parts.is_empty();
        roles.iter().all(|&role| layout.is_whole(base, role))
            && (is_sure || count(&joined(base, layout.folder)) == set.images[1])
    };
    places(set, folder).into_iter().find(is_copy)
}

/// The number of images in a folder and below it.
pub(super) fn count(folder: &Path) -> usize {
    images_below(folder).map_or(0, |listing| listing.files.len())
}

/// `folder` itself for an empty path, without a separator at its end.
pub(super) fn joined(folder: &Path, path: &str) -> PathBuf {
    if path.is_empty() { folder.to_owned() } else { folder.join(path) }
}

/// Whether a folder contains a folder or an image. Hidden ones do not count.
fn has_content(folder: &Path) -> bool {
    let counts = |path: PathBuf| !is_hidden(&path) && (has_extension(&path) || path.is_dir());
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|entry| counts(entry.path())))
}

/// The folder of the published data sets: the given one, or by default that in the environment variable
/// `CAC_DATA`, or else `$XDG_CACHE_HOME/cac-toolkit/data`, or else `.cache/cac-toolkit/data` in the home
/// folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataFolder(Option<PathBuf>);

impl DataFolder {
    /// The folder, or the default one.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(Path::to_owned))
    }

    /// The folder that was given.
    #[cfg(feature = "train")]
    pub(crate) fn given(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The path.
    ///
    /// # Errors
    /// [`Error::Setting`] if no folder is given and the environment names none.
    pub fn path(&self) -> Result<PathBuf> {
        let of_environment =
            || std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        match self.0.clone().or_else(of_environment) {
            Some(folder) => Ok(folder),
            None => Ok(cache::folder()?.join("data")),
        }
    }

    /// The folder or file of a data set's images, if it is there: as downloaded, in `NAME`, or else as
    /// torchvision and the authors' archives lay it out, in `NAME` or in the folder itself. One copy must
    /// have what all roles need; the path is that of the first role. Nothing is downloaded.
    ///
    /// # Errors
    /// Those of [`path`](Self::path).
    ///
    /// # Panics
    /// If there is no role.
    pub fn find(&self, set: &PublishedSet, roles: &[Role]) -> Result<Option<PathBuf>> {
        let folder = self.path()?;
        let Some((base, layout)) = whole_copy(set, &folder, roles) else { return Ok(None) };
        let role = roles[0];
        // In the folder of all data sets, the file itself shows which is meant. Training needs both files.
        let file = layout.parts.iter().find(|part| part.split == Some(role.split()));
        let is_meant = layout.folder.is_empty() && base == folder && role != Role::Known(Split::Train);
        let file = file.filter(|_| is_meant);
        Ok(Some(file.map_or_else(|| layout.of_role(&base, role), |part| base.join(part.file))))
    }

    /// What [`find`](Self::find) finds.
    ///
    /// # Errors
    /// [`Error::NotFetched`] if the data set is not there, and those of [`path`](Self::path).
    pub fn require(&self, set: &PublishedSet, roles: &[Role]) -> Result<PathBuf> {
        let downloads = set.downloads.iter().map(|download| (download.urls[0], download.bytes));
        self.find(set, roles)?.ok_or(Error::NotFetched {
            name: set.name,
            folder: self.path()?,
            downloads: downloads.collect(),
        })
    }

    /// The path that a user's text means, which is a folder or the name of a published data set; see
    /// [`PublishedSet::meant_by`]. Nothing is downloaded.
    ///
    /// # Errors
    /// [`Error::NotFetched`] if the data set is not there; [`Error::Setting`] if the set is used in parts and
    /// the text names none; those of [`path`](Self::path).
    pub fn resolve(&self, text: &Path, roles: &[Role]) -> Result<PathBuf> {
        let Some(set) = PublishedSet::meant_by(text) else { return Ok(text.to_owned()) };
        let part = set.part_meant_by(text)?;
        let folder = self.require(set, roles)?;
        Ok(part.map_or_else(|| folder.clone(), |part| folder.join(part)))
    }

    /// Unknown sets as [`UnknownSet::open`](super::UnknownSet::open) parses them: `SET` and `NAME=SET`, with
    /// the name of a published data set, become `SET=FOLDER` and `NAME=FOLDER`. Nothing is downloaded.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve), and [`Error::Setting`] if a path is not UTF-8.
    pub fn resolve_unknown(&self, texts: &[String]) -> Result<Vec<String>> {
        let resolve = |text: &String| {
            let Some((name, set)) = PublishedSet::unknown_in(text) else { return Ok(text.clone()) };
            let path = self.resolve(Path::new(set), &[Role::Unknown(Split::Test)])?;
            match path.to_str() {
                Some(path) => Ok(format!("{name}={path}")),
                None => Err(Error::setting("path", path.display(), "must be UTF-8")),
            }
        };
        texts.iter().map(resolve).collect()
    }
}

#[cfg(test)]
impl PublishedLayout {
    /// The layout of the download tests.
    pub const TINY: Self = layout("tiny", &[]);

    pub const fn of(folder: &'static str, parts: &'static [PublishedFile]) -> Self {
        layout(folder, parts)
    }
}

#[cfg(test)]
impl PublishedFile {
    pub const fn of(file: &'static str, split: Option<Split>) -> Self {
        part(file, split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ROLES: [Role; 4] = [
        Role::Known(Split::Train),
        Role::Known(Split::Test),
        Role::Unknown(Split::Train),
        Role::Unknown(Split::Test),
    ];

    #[test]
    fn the_table_is_consistent() {
        let names: HashSet<&str> = PublishedSet::names().collect();
        assert_eq!(names.len(), SETS.len());
        let is_hexadecimal = |sum: &str, digits| {
            sum.len() == digits && sum.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        };
        let of_digits = SETS.iter().filter(|set| set.is_of_digits()).map(|set| set.name);
        assert_eq!(of_digits.collect::<Vec<_>>(), ["svhn", "mnist"]);
        let mut sums = HashSet::new();
        for set in &SETS {
            assert!(set.images[1] > 0 && !set.about.is_empty() && !set.terms.is_empty(), "{}", set.name);
            for download in set.downloads {
                assert!(is_hexadecimal(download.md5, 32) && sums.insert(download.md5), "{download:?}");
                assert!(download.sha256.is_none_or(|sum| is_hexadecimal(sum, 64)), "{download:?}");
                for url in download.urls {
                    let (path, _) = url.split_once('?').unwrap_or((url, ""));
                    assert!(
                        url.starts_with("http") && path.ends_with(&format!("/{}", download.file)),
                        "{url}"
                    );
                }
                assert!(
                    set.layouts[0].folder.starts_with(download.holds)
                        || download.holds.starts_with(set.layouts[0].folder),
                    "{download:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_bare_name_means_a_data_set() {
        let meant = |text: &str| PublishedSet::meant_by(Path::new(text)).map(|set| set.name);
        assert_eq!([meant("cifar10"), meant("lsun-crop")], [Some("cifar10"), Some("lsun-crop")]);
        for text in ["./cifar10", "cifar10/", "data/cifar10", "/cifar10", "CIFAR10", "cifar-10", ""] {
            assert_eq!(meant(text), None, "{text}");
        }
        let data = DataFolder::new(Some(Path::new("/no/such")));
        for role in ROLES {
            assert_eq!(data.resolve(Path::new("./cifar10"), &[role]).unwrap(), Path::new("./cifar10"));
        }
    }

    #[cfg(feature = "train")]
    #[test]
    fn known_cifar_images_are_recognised_in_a_folder_too() {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let name = |data: KnownData, classes: &[&str]| {
            PublishedSet::of_known(&data, &owned(classes)).map(|set| set.name)
        };
        let of = |text: &str, classes: &[&str]| name(KnownData::new(text), classes);
        assert_eq!(of("svhn", &["0", "1"]), Some("svhn"));
        assert_eq!(of("data/cifar-10-batches-bin", &cifar::CLASSES), Some("cifar10"));
        assert_eq!(of("data/cifar-100-binary", &cifar::FINE_CLASSES), Some("cifar100"));
        assert_eq!(of("photos", &["cat", "dog"]), None);
        let by_protocol = KnownData { protocol: "cac-2020/0".parse().ok(), ..KnownData::new("data") };
        assert_eq!(name(by_protocol, &["cat", "dog"]), Some("cifar10"));
        let without = |classes: &[&str]| KnownData::new("data").with_unknown_classes(&owned(classes));
        assert_eq!(name(without(&cifar::CLASSES[..4]), &cifar::CLASSES[4..]), Some("cifar10"));
        assert_eq!(name(without(&["truck"]), &["cat", "dog"]), None);
    }

    /// Creates everything that a layout needs in a folder.
    fn make(base: &Path, layout: &PublishedLayout) {
        let folder = joined(base, layout.folder);
        let image = PublishedFile::of("a/1.png", None);
        let parts = if layout.parts.is_empty() { &[image] } else { layout.parts };
        for part in parts {
            let path = folder.join(part.file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn copies_in_every_layout_are_found() {
        for set in &SETS {
            // Copies without parts are found elsewhere if they have all images.
            let places = set.layouts.iter().flat_map(|layout| [(layout, true), (layout, false)]);
            for (layout, is_own) in places.filter(|(layout, is_own)| *is_own || !layout.parts.is_empty()) {
                let folder = tempfile::tempdir().unwrap();
                let data = DataFolder::new(Some(folder.path()));
                let base = if is_own { folder.path().join(set.name) } else { folder.path().to_owned() };
                let find = |role| data.find(set, &[role]).unwrap();
                assert_eq!(ROLES.map(find), [const { None }; 4]);
                let error = data.require(set, &[ROLES[1]]).unwrap_err();
                assert!(matches!(&error, Error::NotFetched { name, .. } if *name == set.name), "{error}");
                make(&base, layout);
                // All other sets are absent.
                for other in SETS.iter().filter(|other| other.name != set.name) {
                    assert_eq!(data.find(other, &[ROLES[3]]).unwrap(), None, "{} in {layout:?}", other.name);
                }
                let place = joined(&base, layout.folder);
                for role in ROLES {
                    let found = find(role).unwrap();
                    assert!(found.starts_with(&place), "{found:?}");
                    assert_eq!(data.require(set, &[role]).unwrap(), found);
                    if set.parts.is_empty() {
                        assert_eq!(data.resolve(Path::new(set.name), &[role]).unwrap(), found);
                    }
                    if matches!(role, Role::Known(_)) && (is_own || !layout.folder.is_empty()) {
                        assert_eq!(found, place);
                    }
                }
                // Without one of its files, a copy is incomplete.
                for part in layout.parts {
                    let path = place.join(part.file);
                    fs::remove_file(&path).unwrap();
                    let is_found = |role: &Role| find(*role).is_some();
                    let needed = |role: &Role| part.split.is_none_or(|split| split == role.split());
                    assert!(ROLES.iter().all(|role| is_found(role) != needed(role)), "{part:?}");
                    fs::write(path, "").unwrap();
                }
            }
        }
    }

    #[test]
    fn folders_of_unknown_images_exclude_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        for name in ["textures", "tiny-imagenet", "svhn"] {
            make(folder.path(), &PublishedSet::named(name).unwrap().layouts[0]);
        }
        let at = |name: &str, role| {
            let found = data.find(PublishedSet::named(name).unwrap(), &[role]).unwrap().unwrap();
            found.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(ROLES.map(|role| at("textures", role)), ["dtd", "dtd", "dtd/images", "dtd/images"]);
        let tiny = "tiny-imagenet-200";
        let expected = [tiny, tiny, "tiny-imagenet-200/train", "tiny-imagenet-200/val/images"];
        assert_eq!(ROLES.map(|role| at("tiny-imagenet", role)), expected);
        // Among other data sets, the file shows which is meant.
        let (train, test) = ("train_32x32.mat", "test_32x32.mat");
        assert_eq!(ROLES.map(|role| at("svhn", role)), ["", test, train, test]);
    }

    #[test]
    fn unknown_sets_become_named_folders() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let resolve = |texts: &[&str]| {
            data.resolve_unknown(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
        };
        let others = ["gaussian-noise:5", "a=b", "a=./textures", "texture", "textures/", ""];
        assert_eq!(resolve(&others).unwrap(), others);
        for text in ["textures", "a=textures"] {
            assert!(matches!(resolve(&[text]), Err(Error::NotFetched { name: "textures", .. })), "{text}");
        }
        make(folder.path(), &PublishedSet::named("textures").unwrap().layouts[0]);
        let images = folder.path().join("dtd/images");
        let expected = ["textures", "a"].map(|name| format!("{name}={}", images.display()));
        assert_eq!(resolve(&["textures", "a=textures"]).unwrap(), expected);
    }

    #[test]
    fn sets_with_parts_are_resolved_by_part() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        make(folder.path(), &PublishedSet::named("cifar10-c").unwrap().layouts[0]);
        let resolve = |text: &str| data.resolve(Path::new(text), &[ROLES[1]]);
        for (text, file) in [("cifar10-c:fog", "fog.npy"), ("cifar10-c:zoom_blur:5", "zoom_blur.npy:5")] {
            assert_eq!(resolve(text).unwrap(), folder.path().join("CIFAR-10-C").join(file));
        }
        for text in ["cifar10-c", "cifar10-c:", "cifar10-c:mist", "cifar10-c:fog:6", "cifar10-c:fog:5:5"] {
            let error = resolve(text).unwrap_err();
            assert!(matches!(&error, Error::Setting { name: "data set", .. }), "{text}: {error}");
        }
        // The others have no parts.
        assert_eq!(resolve("cifar10:fog").unwrap(), Path::new("cifar10:fog"));
    }

    #[test]
    fn a_set_that_is_being_fetched_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("imagenet-o");
        fs::create_dir_all(own.join(".unfinished-abcdef/imagenet-o/n01443537")).unwrap();
        fs::write(own.join("imagenet-o.tar.part"), "").unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let set = PublishedSet::named("imagenet-o").unwrap();
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), None);
        fs::create_dir_all(own.join("imagenet-o/n01443537")).unwrap();
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), Some(own.join("imagenet-o")));
    }

    #[test]
    fn a_set_without_parts_is_found_elsewhere_only_if_complete() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        // Someone keeps ImageNet itself here.
        fs::create_dir_all(folder.path().join("Imagenet/test")).unwrap();
        fs::write(folder.path().join("Imagenet/test/1.png"), "").unwrap();
        assert_eq!(data.find(PublishedSet::named("tin-crop").unwrap(), &[ROLES[3]]).unwrap(), None);
        let set = PublishedSet::named("lsun-resize").unwrap();
        let place = folder.path().join("LSUN_resize/LSUN_resize");
        fs::create_dir_all(&place).unwrap();
        for number in 1..=set.images[1] {
            assert!(number % 5000 != 1 || data.find(set, &[ROLES[3]]).unwrap().is_none());
            fs::write(place.join(format!("{number}.jpg")), "").unwrap();
        }
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), Some(place));
    }

    #[test]
    fn one_copy_must_serve_all_roles() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let set = PublishedSet::named("svhn").unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        write("train_32x32.mat");
        write("svhn/test_32x32.mat");
        assert!(ROLES.iter().all(|&role| data.find(set, &[role]).unwrap().is_some()));
        assert_eq!(data.find(set, &ROLES[..2]).unwrap(), None);
        write("svhn/train_32x32.mat");
        assert_eq!(data.find(set, &ROLES[..2]).unwrap(), Some(folder.path().join("svhn")));
    }
}
