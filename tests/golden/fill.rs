//! Weights and images from a formula, the same as in `method.py`, so that no file needs to hold them.

/// The step from one state to the next random number of splitmix64.
pub fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Equally likely in 0..1.
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / 2_f64.powi(53)
}

/// splitmix64 from the FNV-1a hash of a name plus `i`.
fn random(name: &str, i: usize) -> u64 {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    splitmix64(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash).wrapping_add(i as u64))
}

/// The values of a parameter, each from the parameter's name and its place.
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let is_linear = name.starts_with("fc.") || name.starts_with("classify.");
    let value = |i: usize| {
        let unit = unit(random(name, i));
        let signed = 2.0 * unit - 1.0;
        match (shape, name.rsplit('.').next()) {
            (&[outputs, _, kernel, _], _) => signed * (6.0 / (kernel * kernel * outputs) as f64).sqrt(),
            (&[_, inputs], _) => signed / (inputs as f64).sqrt(),
            (_, Some("bias")) if is_linear => signed * 0.1,
            (_, Some("weight")) => 0.5 + unit,
            (_, Some("running_var")) => 0.5 + 1.5 * unit,
            _ => signed * 0.5,
        }
    };
    (0..shape.iter().product()).map(|i| value(i) as f32).collect()
}

/// Images of 32 x 32 as bytes `[count, 3, 32, 32]`.
pub fn images(count: usize) -> Vec<u8> {
    (0..count * 3 * 32 * 32).map(|i| (random("pictures", i) % 256) as u8).collect()
}
