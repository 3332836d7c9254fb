//! Amounts of what a provider lends: what was granted, what a pod asks for, whether it still fits. Called by the node (capacity) and by the provider's
//! shadow kind before a Pod is made. What counts is a container's request,
//! without one its limit, without either [`DEFAULT_CPU`] and [`DEFAULT_MEMORY`], and never less than [`LEAST_CPU`] and [`LEAST_MEMORY`].

use std::fmt;

/// The least a container counts as and requests, in thousandths of a cpu: the kernel's smallest share is 10.
pub(crate) const LEAST_CPU: u64 = 20;
/// The same in bytes: with less the runtime itself finds no room to start a container.
pub(crate) const LEAST_MEMORY: u64 = 32 << 20;
/// What a container without a cpu request or limit is given, in thousandths of a cpu.
pub(crate) const DEFAULT_CPU: u64 = 100;
/// What a container without a memory request or limit is given, in bytes.
pub(crate) const DEFAULT_MEMORY: u64 = 128 << 20;

/// An amount of resources: granted, used or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Thousandths of a cpu.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Pods.
    pub pods: u64,
}

impl Amount {
    /// Both together; saturating.
    pub fn plus(self, other: Amount) -> Amount {
        Amount { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory), pods: self.pods.saturating_add(other.pods) }
    }

    /// This without `other`; never below zero.
    pub fn minus(self, other: Amount) -> Amount {
        Amount { cpu: self.cpu.saturating_sub(other.cpu), memory: self.memory.saturating_sub(other.memory), pods: self.pods.saturating_sub(other.pods) }
    }

    /// The larger of the two, each resource by itself.
    pub fn most(self, other: Amount) -> Amount {
        Amount { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory), pods: self.pods.max(other.pods) }
    }

    /// The first resource of which `more` on top of `self` would exceed `grant`, in words; `None` if it fits.
    pub fn beyond(self, more: Amount, grant: Amount) -> Option<String> {
        let sum = self.plus(more);
        let say = |what, left: String, asked: String| Some(format!("the provider granted {what} for {left} more, the pod asks for {asked}"));
        if sum.pods > grant.pods {
            return Some(format!("the provider granted {} pods and all are in use", grant.pods));
        }
        if sum.cpu > grant.cpu {
            return say("cpu", cpu_text(grant.cpu.saturating_sub(self.cpu)), cpu_text(more.cpu));
        }
        if sum.memory > grant.memory {
            return say("memory", memory_text(grant.memory.saturating_sub(self.memory)), memory_text(more.memory));
        }
        None
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cpu, {}, {} pods", cpu_text(self.cpu), memory_text(self.memory), self.pods)
    }
}

/// A cpu quantity as Kubernetes writes it.
pub(crate) fn cpu_text(milli: u64) -> String {
    if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
}

/// A memory quantity as Kubernetes writes it.
pub(crate) fn memory_text(bytes: u64) -> String {
    for (shift, suffix) in [(30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Reads a Kubernetes quantity, rounded up, in units of 10^-`digits` (3 for cpu in thousandths, 0 for bytes). `None` if it is none or does not fit.
pub(crate) fn quantity(text: &str, digits: u32) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    if number.is_empty() || number.len() > 24 {
        return None;
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (scale, exponent): (u128, i32) = match suffix {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| (-18..=18).contains(e))?),
    };
    let fraction = &fraction[..fraction.len().min(9)];
    let digits_value: u128 = format!("{whole}{fraction}").parse().ok()?;
    let power = exponent + digits as i32 - fraction.len() as i32;
    let scaled = digits_value.checked_mul(scale)?;
    let ten = 10_u128.checked_pow(power.unsigned_abs())?;
    let value = if power >= 0 { scaled.checked_mul(ten)? } else { scaled.div_ceil(ten) };
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, digits, value) in [
            ("1", 3, Some(1000)),
            ("250m", 3, Some(250)),
            ("0.5", 3, Some(500)),
            ("100u", 3, Some(1)),
            ("128Mi", 0, Some(128 << 20)),
            ("1.5Gi", 0, Some(3 << 29)),
            ("1e3", 0, Some(1000)),
            ("5k", 0, Some(5000)),
            ("", 0, None),
            ("-1", 0, None),
            ("1.2.3", 0, None),
            ("999999999999E", 0, None),
            ("12Zi", 0, None),
        ] {
            assert_eq!(quantity(text, digits), value, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let grant = Amount { cpu: 1000, memory: 1 << 30, pods: 2 };
        let one = Amount { cpu: 600, memory: 1 << 20, pods: 1 };
        assert_eq!(Amount::default().beyond(one, grant), None);
        assert_eq!(one.beyond(one, grant).as_deref(), Some("the provider granted cpu for 400m more, the pod asks for 600m"));
        let huge = Amount { cpu: u64::MAX, ..one };
        assert!(one.beyond(huge, grant).is_some());
    }
}
