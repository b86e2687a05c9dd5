//! The registry of pytorch-ood 0.4.0, and two files of its earlier versions. Its stored metrics are not
//! copied.

use super::{Host, IMAGENET, PublishedWeights, crop, plain};

/// The URL of a file in pytorch-ood's own repository.
pub(super) fn url(weights: &PublishedWeights) -> String {
    let sum = weights.sha256.unwrap_or_default();
    let repository = "https://huggingface.co/kkirchheim/pytorch-ood-models/resolve/main";
    format!("{repository}/{}/model-{}.pt", weights.name, &sum[..sum.len().min(16)])
}

const WRN_40_2: PublishedWeights = PublishedWeights {
    name: "",
    alias: None,
    family: "wide-resnet",
    network: "WideResNet-40-2",
    trained_on: "",
    learned: &[],
    classes: 0,
    input: plain([0.0; 3], [1.0; 3]),
    bytes: 0,
    sha256: None,
    licence: None,
    source: "https://huggingface.co/kkirchheim/pytorch-ood-models",
    host: Host::PytorchOod,
};
const CIFAR_10: PublishedWeights = PublishedWeights {
    trained_on: "CIFAR-10",
    learned: &["cifar10"],
    classes: 10,
    input: plain([0.4913, 0.4823, 0.4467], [0.247, 0.2435, 0.2616]),
    bytes: 8_996_112,
    ..WRN_40_2
};
const CIFAR_100: PublishedWeights = PublishedWeights {
    trained_on: "CIFAR-100",
    learned: &["cifar100"],
    classes: 100,
    input: plain([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    bytes: 9_042_552,
    ..WRN_40_2
};
const IMAGENET_32: PublishedWeights = PublishedWeights {
    trained_on: "ImageNet at 32x32",
    learned: &["tiny-imagenet"],
    classes: 1000,
    input: plain([0.5; 3], [0.5; 3]),
    bytes: 9_506_952,
    ..WRN_40_2
};
const IMAGENET_32_NO_CIFAR: PublishedWeights =
    PublishedWeights { trained_on: "ImageNet at 32x32, without CIFAR-10's classes", ..IMAGENET_32 };
const IMAGENET_200: PublishedWeights = PublishedWeights {
    family: "resnet",
    network: "ResNet-18",
    trained_on: "ImageNet-200",
    learned: &["tiny-imagenet"],
    classes: 200,
    // pytorch-ood stretches an image to 256x256 before the crop; here a non-square image keeps its
    // proportions.
    input: crop(IMAGENET, 224, 224.0 / 256.0),
    bytes: 45_155_008,
    ..WRN_40_2
};

/// A WideResNet of other authors, under the name that pytorch-ood had for it before.
const fn third_party(
    [name, alias]: [&'static str; 2],
    base: PublishedWeights,
    url: &'static str,
    sha256: &'static str,
    source: &'static str,
) -> PublishedWeights {
    let alias = Some(alias);
    PublishedWeights { name, alias, sha256: Some(sha256), source, host: Host::At(url), ..base }
}

/// Normalised with the mean and the standard deviation of Hendrycks et al. and Liu et al.
const fn of_hendrycks(base: PublishedWeights) -> PublishedWeights {
    let mean = [125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0];
    PublishedWeights { input: plain(mean, [63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0]), ..base }
}

/// WideResNet-40-4 of PixMix.
const fn pixmix(
    name: &'static str,
    base: PublishedWeights,
    bytes: u64,
    url: &'static str,
) -> PublishedWeights {
    let (input, source) = (plain([0.5; 3], [0.5; 3]), "https://arxiv.org/abs/2112.05135");
    PublishedWeights { name, network: "WideResNet-40-4", input, bytes, source, host: Host::At(url), ..base }
}

pub(super) static OF_OTHERS: [PublishedWeights; 10] = [
    third_party(
        ["wrn-40-2/imagenet32/crossentropy", "imagenet32"],
        IMAGENET_32,
        "https://github.com/hendrycks/pre-training/raw/master/downsampled_train/snapshots/40_2/imagenet_wrn_baseline_epoch_99.pt",
        "4a722ecf93e43a040b6b82c7c1e305fbf1c455a54c16e66fd77301291157bd5c",
        "https://arxiv.org/abs/1901.09960",
    ),
    third_party(
        ["wrn-40-2/imagenet32-nocifar/crossentropy", "imagenet32-nocifar"],
        IMAGENET_32_NO_CIFAR,
        "https://github.com/hendrycks/pre-training/raw/master/uncertainty/CIFAR/snapshots/imagenet/cifar10_excluded/imagenet_wrn_baseline_epoch_99.pt",
        "6f0f46d44ddfc96f85b97ef04ca9d61e78279d27c80015dcc92aabd52b1773c6",
        "https://arxiv.org/abs/1901.09960",
    ),
    third_party(
        ["wrn-40-2/cifar10/oe", "oe-cifar10-tune"],
        of_hendrycks(CIFAR_10),
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar10_wrn_oe_tune_epoch_9.pt",
        "b473f1c463c9fe16057647746907b68b6ade615f93ac4bdf005263ed69d542d0",
        "https://arxiv.org/abs/1812.04606",
    ),
    third_party(
        ["wrn-40-2/cifar100/oe", "oe-cifar100-tune"],
        of_hendrycks(CIFAR_100),
        "https://github.com/hendrycks/outlier-exposure/raw/master/CIFAR/snapshots/oe_tune/cifar100_wrn_oe_tune_epoch_9.pt",
        "1d4dd53f7605d66f64bcdf146ed9327ecbebbd5da42a9f7d70b9d6a28ee9bb51",
        "https://arxiv.org/abs/1812.04606",
    ),
    third_party(
        ["wrn-40-2/cifar10/energy/s1", "er-cifar10-tune"],
        of_hendrycks(CIFAR_10),
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar10_wrn_s1_energy_ft_epoch_9.pt",
        "78a288517f9e9f3501c1e881aee8daa1d9c64a23805023fc013a28946274c54b",
        "https://arxiv.org/abs/2010.03759",
    ),
    third_party(
        ["wrn-40-2/cifar100/energy/s1", "er-cifar100-tune"],
        of_hendrycks(CIFAR_100),
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/energy_ft/cifar100_wrn_s1_energy_ft_epoch_9.pt",
        "4899110e41b8c96a01ec52e779e3336436da69db201f6162b2dce9a207f0f51f",
        "https://arxiv.org/abs/2010.03759",
    ),
    third_party(
        ["wrn-40-2/cifar10/crossentropy", "cifar10-pt"],
        of_hendrycks(CIFAR_10),
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar10_wrn_pretrained_epoch_99.pt",
        "0b59e178577382a0cf5d1e079d1d019f6a33b0801b7d123a59e51b4b32972637",
        "https://arxiv.org/abs/1610.02136",
    ),
    third_party(
        ["wrn-40-2/cifar100/crossentropy", "cifar100-pt"],
        of_hendrycks(CIFAR_100),
        "https://github.com/wetliu/energy_ood/raw/master/CIFAR/snapshots/pretrained/cifar100_wrn_pretrained_epoch_99.pt",
        "3751f516b81ef9d27290f08a3de78d65a3771f477bd6a6caefa81b330dc34baf",
        "https://arxiv.org/abs/1610.02136",
    ),
    pixmix("cifar10-pixmix", CIFAR_10, 35_840_272, "https://cse.ovgu.de/files/cifar10-pixmix.pt"),
    pixmix("cifar100-pixmix", CIFAR_100, 35_932_792, "https://cse.ovgu.de/files/cifar100-pixmix.pt"),
];

/// A table of what pytorch-ood trained: for each training the SHA-256 by seed.
macro_rules! table {
    ($($training:literal of $base:ident: $($seed:literal $sum:literal)+;)+) => {
        [$($(PublishedWeights {
            name: concat!($training, "/", $seed),
            sha256: Some($sum),
            ..$base
        },)+)+]
    };
}

pub(super) static OWN: [PublishedWeights; 51] = table! {
    "resnet-18/imagenet200/crossentropy" of IMAGENET_200:
        "s0" "f4807cb4ea6828f3ebfa21bac46e04e340b242b90d46f2e9ea4cd70bcf300e76"
        "s1" "64022f83262be54a74a58ee8f2d64f69a515a7f64f7b2b7ab2d9ddd000e2534d"
        "s2" "ac9415e147eb6137516c6db7672b2899a5a0f2e8dbcdcbc7f4a8eaa37d5454d1";
    "resnet-18/imagenet200/energy" of IMAGENET_200:
        "s0" "e5694bf7d2bc162714e8c1accf01a3793977586e4905db6c69b27754a8ea0eb1"
        "s1" "d0792e4d01e8688f43ce739962b3a870df3931aa27d6c54d7eeb2e08cd7829d8"
        "s2" "cdd46dc500a0d80070d0784031c601e90abd3dbf0c7098a0ea10c649d3f0068c";
    "resnet-18/imagenet200/entropic" of IMAGENET_200:
        "s0" "93fef586a085e884bad7048d8195d5a5ba93f053f401ac30eeefd871dd31f3cc"
        "s1" "5db3425a88b59bf95c3b154f1b87df2fad77440adddfb40d679e96773959c494"
        "s2" "8d9119218862acf978013a2cde74bd1799efdeb9e590b6aceb9a2b7b70389da5";
    "resnet-18/imagenet200/logitnorm" of IMAGENET_200:
        "s0" "08eed212862970d40145cb78443cbacdcc52e93aeb2c49f17c25c0a4f6b544ea"
        "s1" "f252ad1c8d33caa4a3e33d8cdfa3850cb3f74d5cd440795d54142b026db473f0"
        "s2" "ce53f305ec80ee414aee0c9debf0cc597d87f290d319e53e63251af78f05dd93";
    "resnet-18/imagenet200/oe" of IMAGENET_200:
        "s0" "5798c74848753feef58215813c5f38a941459e58aa59637952f7e0bf42ce5b23"
        "s1" "4c1b951acf9503406f75484ba2cd5ef42c75bcca39588d0b1c186a3dd288b4cc"
        "s2" "da72bbbd08f4c70778a842ddf37caa7da05ee13c4c5cca92c896457830a646fb";
    "resnet-18/imagenet200/vos" of IMAGENET_200:
        "s0" "6125bfafe3b6c92d85b32007d83d247de54d72948fe68781eefa2e4d3d0739a1"
        "s1" "284911365e826187b2f77ce569284ff9545503863e8fd84945e2956b6ca7526c"
        "s2" "8f9642c7f6d66d39658e36bcc898c25e55cf24dd04434fdc27860d86709ad58f";
    "wrn-40-2/cifar10/crossentropy" of CIFAR_10:
        "s1" "b1b7465567ee249481b8ff631f9d96fcc80d4c27783dc117aa2020888607cdf7"
        "s2" "9c18ac23901a26b7787de79042051ec90a75e8036e5b2c7858c2db8ab437816b";
    "wrn-40-2/cifar10/energy" of CIFAR_10:
        "s0" "d798f066e7912d4a267c387121f2dcaa4b59611a2559269462972cb9eda4e812"
        "s2" "92f4f18cb4dfad21e22a4bf43d1674b952ffe60885fe3a0a7782929007001559";
    "wrn-40-2/cifar10/entropic" of CIFAR_10:
        "s0" "481c83f11ccb4b2ae1b99e7480c62582c93d08fc15c368f8708379b6a60f08da"
        "s1" "653ef4ffd71c68048527f1d7bcd8272c3c66a8c298acfa3ebe9997c388d4946a"
        "s2" "cb8865fedf8ed74eff2fbbb72c07d9e03e6c57c1cdba68bb4b3f788ee4b49b00";
    "wrn-40-2/cifar10/logitnorm" of CIFAR_10:
        "s0" "bcd6754f4a4cfbd8b0cc28d432ef3fe63b715ab8bf2776dec42059ae445b7419"
        "s1" "7d932b6fe7a6bb435d50345b88234286ab5d859e02cb2451146f3e4d2f9605ba"
        "s2" "7de464bd4ce3c4bf6efaa1dddddb23e38bed99653036a38ef02bcb50cff214f6";
    "wrn-40-2/cifar10/oe" of CIFAR_10:
        "s0" "4b018f801843365c8ba578d20caa97be2f995eb7eb93c5909f1c0273bc7b6022"
        "s1" "71896c06742c88c7135d2869682ee1fe190d3b5e1f63129c65f1fdd338908e2a"
        "s2" "0e08d73c2cc4259562f5bcd09abfb33c6b53c10e3010b807434d68da98165bb5";
    "wrn-40-2/cifar10/vos" of CIFAR_10:
        "s0" "8a70f61ad4ce2c6fdebf15ce5408a28d2880dfb890ed45614e906cc6a97e18f4"
        "s1" "3bc58d14199aabd838484318a36c58e0d0b2cf1e3e7556a3ce20dd538b4d0b41"
        "s2" "cda47e9257f785499473ebc9ff7a6b238bedc6d7c425a207408b21aaf2c1ec6b";
    "wrn-40-2/cifar100/crossentropy" of CIFAR_100:
        "s0" "4b5b3ed2f448b40cc48abe05221b4af39e351b04ce215edf2c0ea7a113593d2f"
        "s1" "1b8e15072dc0d88776dc59c23192628354b958fa22bdc21073664d60d862d685"
        "s2" "f1a77c51f747d58e16bc4a7a04d8a6b7f65d3a7c694e63e5b6480fd08a8f423e";
    "wrn-40-2/cifar100/energy" of CIFAR_100:
        "s0" "ebd0fcc793f5a22fbf20f1d29638138b36c69eebcf64f9cf96aa2c945259e420"
        "s2" "50d7d6802391a24f2f2aa32603f07d97a9761b6aadeb21e74f50857a5873ccbb";
    "wrn-40-2/cifar100/entropic" of CIFAR_100:
        "s0" "cbabacfd3c396d11d115afcdbd242dd863fb5de863907a3cf5d15e6630a6eeb6"
        "s1" "bd96368e7713e60b9f312767e9a883e097cc9e17ce3564ff7c8a5c23afd6a99b"
        "s2" "f572bdb2685bcede584ad3ad110ab77310983c4b99252f2bd457df5e1ff86593";
    "wrn-40-2/cifar100/logitnorm" of CIFAR_100:
        "s0" "cfd67c89d658c2c9b04b26b8ec82a1154ebb7e765fb0c4ba42c73b95c56416e6"
        "s1" "34c383093454288984d09ba998852f394eb3eb511727679a7e1a05bc65184e65"
        "s2" "663f69475582ae9f034755aa123e995cbd9b82f29a74fe2e4a5f62276ac60182";
    "wrn-40-2/cifar100/oe" of CIFAR_100:
        "s0" "f713cea10b512718f1dc8772f54b3220a827a23114713bcc9f50d95d1460d920"
        "s1" "4d9c5eaac646477b706f006337b4a0f7c49a2be4bc064f230dd7766229851e89"
        "s2" "51ec426d53fe2a2747bfa03301b905029166eaa09d38061158905265cf5fe05a";
    "wrn-40-2/cifar100/vos" of CIFAR_100:
        "s0" "49e6b2e898c7a486300273ee6bea7209ccfc11b6642de130319c60d9e6f3ff81"
        "s1" "7c9fd1931e5b1b62ba098fcafab550b93ff189ceae3f37f5bccbd27b95c445f7"
        "s2" "4eaffc7283aa6993cd86e378fbf877d14c1c1f07e8b8782bfe94eb0acbb44aca";
};
