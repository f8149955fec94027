//! Where and how a run computes: `device`, `precision` and the seeds of its random streams.

use serde::{Deserialize, Serialize};

/// `device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceConfig {
    /// CUDA where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This CUDA device.
    Cuda(usize),
}

impl TryFrom<String> for DeviceConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(DeviceConfig::Auto),
            "cpu" => Ok(DeviceConfig::Cpu),
            "cuda" => Ok(DeviceConfig::Cuda(0)),
            other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(n) => Ok(DeviceConfig::Cuda(n)),
                None => Err(format!(
                    "`device` must be `auto`, `cpu`, `cuda` or `cuda:N`: `{other}`"
                )),
            },
        }
    }
}

impl From<DeviceConfig> for String {
    fn from(device: DeviceConfig) -> String {
        match device {
            DeviceConfig::Auto => "auto".to_string(),
            DeviceConfig::Cpu => "cpu".to_string(),
            DeviceConfig::Cuda(n) => format!("cuda:{n}"),
        }
    }
}

/// `precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on CUDA, f32 on the CPU.
    #[default]
    Auto,
    /// All in f32.
    F32,
    /// Layers in bf16; parameters, moments, router and losses in f32.
    Bf16,
}

/// Seeds of single streams; each defaults to the run's `seed`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedsConfig {
    /// Order of the training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<u64>,
    /// Masks of the training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<u64>,
    /// Initial weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<u64>,
    /// Dropout and router jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<u64>,
}
