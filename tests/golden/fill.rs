//! Weights and images from a formula, the same as in `method.py`, so that no file needs to hold them.

/// The step from one state to the next random number of splitmix64.
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Uniform in 0..1.
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / 2_f64.powi(53)
}

/// splitmix64 from the FNV-1a hash of a name plus `i`.
fn random(name: &str) -> impl Fn(usize) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    move |i| splitmix64(seed.wrapping_add(i as u64))
}

/// What convolution kernels are scaled by.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    /// The outputs that an input reaches, in `method.py`.
    Outputs,
    /// The inputs that an output reads, in `families.py`: deep networks keep their activations in range.
    Inputs,
}

/// The values of a parameter, each from the parameter's name and its place.
pub fn values_scaled(name: &str, shape: &[usize], scale: Scale) -> Vec<f32> {
    let is_linear = ["fc.", "classify.", "classifier.", "head."].iter().any(|layer| name.starts_with(layer));
    let random = random(name);
    let value = |i: usize| {
        let unit = unit(random(i));
        let signed = 2.0 * unit - 1.0;
        match (shape, name.rsplit('.').next()) {
            (&[outputs, inputs, kernel, _], _) => {
                let reached = if scale == Scale::Outputs { outputs } else { inputs };
                signed * (6.0 / (kernel * kernel * reached) as f64).sqrt()
            }
            (&[_, inputs], _) => signed / (inputs as f64).sqrt(),
            (_, Some("bias")) if is_linear => signed * 0.1,
            (_, Some("weight")) => 0.5 + unit,
            (_, Some("running_var")) => 0.5 + 1.5 * unit,
            _ => signed * 0.5,
        }
    };
    (0..shape.iter().product()).map(|i| value(i) as f32).collect()
}

/// [`values_scaled`] as in `method.py`.
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    values_scaled(name, shape, Scale::Outputs)
}

/// Images of 32 x 32 as bytes `[count, 3, 32, 32]`.
pub fn images(count: usize) -> Vec<u8> {
    bytes(count * 3 * 32 * 32)
}

/// The bytes of images of any size.
pub fn bytes(count: usize) -> Vec<u8> {
    let random = random("pictures");
    (0..count).map(|i| (random(i) % 256) as u8).collect()
}

/// A network in families.safetensors: its name there, family, settings, and the height and width of its two
/// images.
pub type Case = (&'static str, &'static str, &'static [(&'static str, f64)], [usize; 2]);

/// The networks in families.safetensors.
pub const CASES: [Case; 9] = [
    ("resnet18", "resnet", &[("depth", 18.0)], [97, 129]),
    ("resnet50", "resnet", &[("depth", 50.0)], [65, 97]),
    ("wide_resnet50_2", "resnet", &[("depth", 50.0), ("widen_factor", 2.0)], [64, 64]),
    ("tf_efficientnet_lite0", "efficientnet-lite", &[("member", 0.0)], [224, 224]),
    ("tf_efficientnet_lite1", "efficientnet-lite", &[("member", 1.0)], [97, 130]),
    ("tf_efficientnet_lite2", "efficientnet-lite", &[("member", 2.0)], [97, 97]),
    ("tf_efficientnet_lite3", "efficientnet-lite", &[("member", 3.0)], [129, 64]),
    ("tf_efficientnet_lite4", "efficientnet-lite", &[("member", 4.0)], [99, 81]),
    ("cifar-net", "cifar-net", &[], [33, 40]),
];
