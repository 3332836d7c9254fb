//! The Internet checksum's sum (RFC 1071), over many bytes at once. Pure; called by `remap`, `segment` and `coalesce`.
//!
//! The sum does not depend on the order of bytes in the machine's words (section 2 of the RFC): it is taken over little-endian words of
//! 64 bits with the carry put back in, in four lanes that do not wait for each other, and turned round at the end.

use std::net::Ipv4Addr;

/// The one's complement sum of `bytes` as big-endian words of 16 bits, an odd last byte filled up with zero; not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<4>();
    let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
    // Each by its name: an array of lanes lives in memory where the compiler builds for size, and costs twice the time.
    for &[one, two, three, four] in blocks {
        a = carried(a, u64::from_le_bytes(one));
        b = carried(b, u64::from_le_bytes(two));
        c = carried(c, u64::from_le_bytes(three));
        d = carried(d, u64::from_le_bytes(four));
    }
    let mut all = carried(carried(a, b), carried(c, d));
    for &word in words {
        all = carried(all, u64::from_le_bytes(word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    all = carried(all, u64::from_le_bytes(last));
    let all = (all & 0xffff_ffff) + (all >> 32);
    let all = (all & 0xffff_ffff) + (all >> 32);
    fold(all as u32).swap_bytes()
}

/// The sum over the pseudo header of a transport of `len` bytes between two addresses (RFC 793, RFC 768).
pub fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> u16 {
    let words = |address: Ipv4Addr| (address.to_bits() >> 16) + (address.to_bits() & 0xffff);
    fold(words(source) + words(destination) + u32::from(protocol) + len as u32)
}

/// A sum brought down to 16 bits.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The one's complement sum of two.
pub fn plus(a: u16, b: u16) -> u16 {
    fold(u32::from(a) + u32::from(b))
}

#[inline(always)]
fn carried(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    // With a carry the sum is at most the largest number less one.
    sum + u64::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b));
        }
        fold(sum)
    }

    #[test]
    fn any_length_and_content_sums_up_as_word_by_word() {
        let mut x = 1u32;
        let bytes: Vec<u8> = (0..3000)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            })
            .collect();
        for from in 0..40 {
            for len in (0..120).chain([1368, 1379, 1420, 2900]) {
                let part = &bytes[from..from + len];
                assert_eq!(sum(part), plain(part), "{from} {len}");
            }
        }
        for len in [0, 1, 2, 31, 32, 33, 1420, 1421] {
            assert_eq!(sum(&vec![0xff; len]), plain(&vec![0xff; len]), "{len} times ff");
            assert_eq!(sum(&vec![0; len]), 0);
        }
    }

    #[test]
    fn the_pseudo_header_is_that_of_the_rfc() {
        let header = [10, 42, 0, 9, 10, 42, 3, 7, 0, 6, 0, 25];
        assert_eq!(pseudo([10, 42, 0, 9].into(), [10, 42, 3, 7].into(), 6, 25), plain(&header));
        assert_eq!(plus(0xffff, 1), 1);
    }
}
