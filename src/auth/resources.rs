//! What one cluster lends another: cpu, memory, pods. Read from `cpu=2,memory=1Gi,pods=50`, printed the same way the README shows it.
//!
//! Amounts are whole millicores and MiB, so that a ticket holds them in ten bytes. Used by tickets, messages, the ledger and offload.

use miniserde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Amounts of each resource; a value of this type lends at least one pod and some of each of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// Pods.
    pub pods: u16,
}

impl Resources {
    /// Whether each amount is above zero; anything else is no offer.
    pub const fn some_of_each(&self) -> bool {
        self.cpu > 0 && self.memory > 0 && self.pods > 0
    }

    /// Ten bytes, as a ticket holds them.
    pub(super) fn to_bytes(self) -> [u8; 10] {
        let mut out = [0; 10];
        out[..4].copy_from_slice(&self.cpu.to_be_bytes());
        out[4..8].copy_from_slice(&self.memory.to_be_bytes());
        out[8..].copy_from_slice(&self.pods.to_be_bytes());
        out
    }

    /// From ten bytes; none if an amount is zero.
    pub(super) fn from_bytes(b: [u8; 10]) -> Option<Resources> {
        let it = Resources {
            cpu: u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
            memory: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
            pods: u16::from_be_bytes([b[8], b[9]]),
        };
        it.some_of_each().then_some(it)
    }
}

/// Why a text names no resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadResources {
    /// A part that is not `NAME=AMOUNT`, or a name other than cpu, memory, pods, or one named twice.
    Part(String),
    /// An amount that cannot be read, is zero, or is out of range.
    Amount(&'static str, String),
    /// This one is not named.
    Missing(&'static str),
}

impl fmt::Display for BadResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadResources::Part(part) => write!(f, "'{part}' is not understood; write cpu=2,memory=1Gi,pods=50"),
            BadResources::Amount(name, text) => write!(f, "{name} cannot be '{text}'; write cpu=2 or cpu=500m, memory=1Gi or memory=512Mi, pods=50"),
            BadResources::Missing(name) => write!(f, "{name} is missing; write cpu=2,memory=1Gi,pods=50"),
        }
    }
}

impl std::error::Error for BadResources {}

impl FromStr for Resources {
    type Err = BadResources;

    fn from_str(text: &str) -> Result<Self, BadResources> {
        let (mut cpu, mut memory, mut pods) = (None, None, None);
        for part in text.split(',').map(str::trim) {
            let shown = || BadResources::Part(part.chars().take(40).collect());
            let (name, amount) = part.split_once('=').ok_or_else(shown)?;
            let bad = |name| BadResources::Amount(name, amount.chars().take(40).collect());
            let fresh = match name {
                "cpu" => cpu.replace(millicores(amount).ok_or_else(|| bad("cpu"))?).is_none(),
                "memory" => memory.replace(mebibytes(amount).ok_or_else(|| bad("memory"))?).is_none(),
                "pods" => pods.replace(amount.parse::<u16>().ok().filter(|&n| n > 0).ok_or_else(|| bad("pods"))?).is_none(),
                _ => false,
            };
            if !fresh {
                return Err(shown());
            }
        }
        let missing = BadResources::Missing;
        Ok(Resources { cpu: cpu.ok_or(missing("cpu"))?, memory: memory.ok_or(missing("memory"))?, pods: pods.ok_or(missing("pods"))? })
    }
}

fn millicores(text: &str) -> Option<u32> {
    let value = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<u32>().ok()?,
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|c| c.is_ascii_digit()) {
                return None;
            }
            let scale = 10u32.pow(3 - part.len() as u32);
            whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part.parse::<u32>().ok()? * scale)?
        }
    };
    (value > 0).then_some(value)
}

fn mebibytes(text: &str) -> Option<u32> {
    const UNITS: [(&str, u64); 7] =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];
    let (number, unit) = UNITS.iter().find_map(|&(suffix, unit)| text.strip_suffix(suffix).map(|n| (n, unit))).unwrap_or((text, 1));
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    u32::try_from(bytes >> 20).ok().filter(|&m| m > 0)
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cpu % 1000 {
            0 => write!(f, "{} cpu, ", self.cpu / 1000)?,
            _ => write!(f, "{}m cpu, ", self.cpu)?,
        }
        match self.memory % 1024 {
            0 => write!(f, "{}Gi, ", self.memory / 1024)?,
            _ => write!(f, "{}Mi, ", self.memory)?,
        }
        write!(f, "{} pods", self.pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, shown) in [
            ("cpu=2,memory=1Gi,pods=50", "2 cpu, 1Gi, 50 pods"),
            ("pods=1, cpu=500m, memory=512Mi", "500m cpu, 512Mi, 1 pods"),
            ("cpu=0.25,memory=2G,pods=9", "250m cpu, 1907Mi, 9 pods"),
        ] {
            let read: Resources = text.parse().expect(text);
            assert_eq!(read.to_string(), shown);
            assert_eq!(Resources::from_bytes(read.to_bytes()), Some(read));
        }
    }

    #[test]
    fn nonsense_amounts_say_what_is_wrong() {
        for (text, word) in [
            ("", "''"),
            ("cpu=2", "memory is missing"),
            ("cpu=2,cpu=2,memory=1Gi,pods=1", "'cpu=2'"),
            ("cpu=0,memory=1Gi,pods=1", "cpu cannot be '0'"),
            ("cpu=1.,memory=1Gi,pods=1", "cpu cannot be"),
            ("cpu=4294968,memory=1Gi,pods=1", "cpu cannot be"),
            ("cpu=1,memory=5,pods=1", "memory cannot be '5'"),
            ("cpu=1,memory=99999999999Ti,pods=1", "memory cannot be"),
            ("cpu=1,memory=1Gi,pods=70000", "pods cannot be"),
            ("gpu=1", "'gpu=1'"),
        ] {
            assert!(text.parse::<Resources>().unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
