//! The table of published data sets.

use super::{Download, PublishedFile, PublishedLayout, PublishedSet};
use crate::data::{Split, folder::TEXTURE_LABELS};

const TRAIN: Option<Split> = Some(Split::Train);
const TEST: Option<Split> = Some(Split::Test);

pub(super) const fn part(file: &'static str, split: Option<Split>) -> PublishedFile {
    PublishedFile { file, split, md5: None }
}

/// A file with the MD5 that torchvision 0.29 checks.
const fn checked(file: &'static str, split: Option<Split>, md5: &'static str) -> PublishedFile {
    PublishedFile { file, split, md5: Some(md5) }
}

pub(super) const fn layout(folder: &'static str, parts: &'static [PublishedFile]) -> PublishedLayout {
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
