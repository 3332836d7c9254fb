//! The only source of chance: bytes from the kernel, used for keys, tickets and the seeds of the cores.
//!
//! Called by the driver and the verbs that make keys. Never a seeded generator of our own.

use ring::rand::{SecureRandom, SystemRandom};

/// `N` random bytes. Blocks early in a boot until the kernel's pool is ready.
///
/// # Panics
/// When the kernel has no random bytes to give at all: without them no key is safe, and there is nothing left to do.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// Fills `bytes` as [`bytes`] does.
///
/// # Panics
/// As [`bytes`].
pub fn fill(bytes: &mut [u8]) {
    SystemRandom::new().fill(bytes).expect("the kernel gives random bytes (getrandom or /dev/urandom)");
}

/// A random number, the seed of a core's own generator.
pub fn seed() -> u64 {
    u64::from_ne_bytes(bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(bytes::<32>(), bytes::<32>());
    }
}
