//! Providers: the runtimes and devices that run a network.

use std::{fmt, mem::discriminant, str::FromStr};

use crate::{
    error::{Error, Result},
    model::{Manifest, ModelPrecision},
    text::numbered,
};

/// The runtime and device that run a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// tract: pure Rust, on all CPU cores.
    #[default]
    Cpu,
    /// ONNX Runtime on the CPU.
    OnnxRuntime,
    /// ONNX Runtime on the CUDA device with this number.
    Cuda(u32),
    /// ONNX Runtime with TensorRT on the CUDA device with this number.
    TensorRt(u32),
    /// ONNX Runtime with Intel's OpenVINO, on the device that it chooses.
    OpenVino,
    /// ONNX Runtime with Intel's OpenVINO on a CPU with AVX512-BF16, in bfloat16 (7-bit mantissa), which is
    /// several times as fast with AMX. Scores differ from those in float32, from which the threshold was
    /// chosen.
    OpenVinoBf16,
    /// ONNX Runtime with Apple's Core ML.
    CoreMl,
    /// ONNX Runtime with Microsoft's DirectML on the adapter with this number.
    DirectMl(u32),
    /// ONNX Runtime with WebGPU.
    WebGpu,
}

impl Provider {
    /// All providers; those that take a device, with device 0.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::OnnxRuntime,
        Self::Cuda(0),
        Self::TensorRt(0),
        Self::OpenVino,
        Self::OpenVinoBf16,
        Self::CoreMl,
        Self::DirectMl(0),
        Self::WebGpu,
    ];

    /// Checks that the provider works on this machine; returns the name of its runtime. ONNX Runtime's
    /// providers run a network of one operator.
    ///
    /// # Errors
    /// [`Error::Provider`] with the reason.
    pub fn check(self) -> Result<String> {
        match self {
            #[cfg(feature = "tract")]
            Self::Cpu => Ok(super::tract::description()),
            #[cfg(not(feature = "tract"))]
            Self::Cpu => Err(self.error_without("tract")),
            #[cfg(feature = "onnxruntime")]
            _ => super::onnxruntime::check(self),
            #[cfg(not(feature = "onnxruntime"))]
            _ => Err(self.error_without("onnxruntime")),
        }
    }

    /// Why the held-out scores in the file may differ from those of new known images on this provider, if so: then
    /// neither the threshold nor [`drift`](crate::drift) has a guarantee. It is a reason that holds on every provider,
    /// [`Manifest::doubt_of_held_out`], or that scores on this one differ by more than rounding.
    #[must_use]
    pub fn doubt_of_held_out(self, manifest: &Manifest) -> Option<&'static str> {
        manifest.doubt_of_held_out().or_else(|| self.doubt_of_rounding(manifest))
    }

    /// Why the scores on this provider differ from the held-out ones in the file by more than rounding, if they do.
    fn doubt_of_rounding(self, manifest: &Manifest) -> Option<&'static str> {
        let Some(recalibration) = &manifest.history.recalibration else {
            let doubt = "the held-out scores are those of the network in float32, not in bfloat16";
            return (self == Self::OpenVinoBf16).then_some(doubt);
        };
        let other = recalibration.provider.parse().ok();
        // The device does not matter.
        let is_other = other.is_none_or(|other| discriminant(&other) != discriminant(&self));
        let is_coarse = manifest.history.precision == Some(ModelPrecision::Int8)
            || [Some(self), other].contains(&Some(Self::OpenVinoBf16));
        let doubt = "the held-out scores are those of another provider, and int8 and bfloat16 scores differ \
                     between providers";
        (is_other && is_coarse).then_some(doubt)
    }

    #[cfg(not(all(feature = "tract", feature = "onnxruntime")))]
    pub(super) fn error_without(self, feature: &str) -> Error {
        let reason = format!("this program was built without the feature `{feature}`");
        Error::Provider { provider: self.to_string(), reason }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::OnnxRuntime => f.write_str("onnxruntime"),
            Self::Cuda(device) => write!(f, "cuda:{device}"),
            Self::TensorRt(device) => write!(f, "tensorrt:{device}"),
            Self::OpenVino => f.write_str("openvino"),
            Self::OpenVinoBf16 => f.write_str("openvino:bf16"),
            Self::CoreMl => f.write_str("coreml"),
            Self::DirectMl(device) => write!(f, "directml:{device}"),
            Self::WebGpu => f.write_str("webgpu"),
        }
    }
}

impl FromStr for Provider {
    type Err = Error;

    /// Parses what `Display` writes; the default device is 0.
    fn from_str(text: &str) -> Result<Self> {
        match numbered(text) {
            Some(("cpu", None)) => Ok(Self::Cpu),
            Some(("onnxruntime", None)) => Ok(Self::OnnxRuntime),
            Some(("cuda", device)) => Ok(Self::Cuda(device.unwrap_or(0))),
            Some(("tensorrt", device)) => Ok(Self::TensorRt(device.unwrap_or(0))),
            Some(("openvino", None)) => Ok(Self::OpenVino),
            Some(("coreml", None)) => Ok(Self::CoreMl),
            Some(("directml", device)) => Ok(Self::DirectMl(device.unwrap_or(0))),
            Some(("webgpu", None)) => Ok(Self::WebGpu),
            _ if text == "openvino:bf16" => Ok(Self::OpenVinoBf16),
            _ => {
                let reason = "must be cpu, onnxruntime, cuda, tensorrt, openvino, openvino:bf16, coreml, directml \
                              or webgpu; cuda, tensorrt and directml take a device as :N";
                Err(Error::setting("provider", format!("`{text}`"), reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_survive_a_round_trip_through_text() {
        for (text, provider) in [
            ("cpu", Provider::Cpu),
            ("onnxruntime", Provider::OnnxRuntime),
            ("cuda", Provider::Cuda(0)),
            ("cuda:3", Provider::Cuda(3)),
            ("tensorrt", Provider::TensorRt(0)),
            ("directml:1", Provider::DirectMl(1)),
            ("openvino:bf16", Provider::OpenVinoBf16),
        ] {
            assert_eq!(text.parse::<Provider>().unwrap(), provider);
        }
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
        }
        for wrong in [
            "",
            "gpu",
            "cuda:",
            "cuda:x",
            "cuda:-1",
            "cuda:4294967295",
            "cpu:0",
            "openvino:1",
            "openvino:f32",
        ] {
            assert!(wrong.parse::<Provider>().is_err(), "{wrong}");
        }
    }
}
