//! Training devices.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    text::numbered,
};

/// The device that a network is trained on; as text `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device with this number.
    Cuda(u32),
}

impl Device {
    /// Whether it trains faster in bfloat16 than in float32: a CPU with AMX, or an AMD CPU with AVX512-BF16. On an
    /// Intel CPU without AMX, AVX512-BF16 gains nothing; a GPU trains in TF32.
    #[cfg(feature = "train")]
    #[must_use]
    pub fn is_faster_in_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has_fast_bf16 = {
            let processor = raw_cpuid::CpuId::new();
            let has_amx =
                processor.get_extended_feature_info().is_some_and(|features| features.has_amx_bf16());
            let is_of_amd =
                processor.get_vendor_info().is_some_and(|vendor| vendor.as_str() == "AuthenticAMD");
            has_amx || is_of_amd && std::arch::is_x86_feature_detected!("avx512bf16")
        };
        #[cfg(not(target_arch = "x86_64"))]
        let has_fast_bf16 = false;
        self == Self::Cpu && has_fast_bf16
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match numbered(text) {
            Some(("cpu", None)) => Ok(Self::Cpu),
            Some(("cuda", number)) => Ok(Self::Cuda(number.unwrap_or(0))),
            _ => Err(Error::setting("device", format!("`{text}`"), "must be cpu, cuda or cuda:N")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_a_round_trip_through_text() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        for wrong in ["", "tpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:4294967295"] {
            let error = wrong.parse::<Device>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("device = `{wrong}`")), "{error}");
        }
    }
}
