//! base64url without padding (RFC 4648, section 5): tickets, and keys in messages and in the state file.
//!
//! Strict: one text for one value. Nothing outside this room uses it but to print keys.

use crate::identity::PublicKey;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(length(bytes.len()));
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

/// How many characters `bytes` bytes become.
pub(super) const fn length(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// Why a text is no base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The character at this place is not of the alphabet.
    Character(usize),
    /// No bytes have a text of this length, or bits are set that no byte uses.
    Length,
}

/// The bytes of `text`.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, Bad> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut word, mut bits) = (0u32, 0u32);
    for (at, &c) in text.iter().enumerate() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return Err(Bad::Character(at)),
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    if bits >= 6 || word != 0 { Err(Bad::Length) } else { Ok(out) }
}

/// Exactly `N` bytes.
pub(super) fn decode_exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != length(N) {
        return None;
    }
    decode(text.as_bytes()).ok()?.try_into().ok()
}

/// A public key.
pub(super) fn public_key(text: &str) -> Option<PublicKey> {
    decode_exactly(text).map(PublicKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for n in 0..70u8 {
            let bytes: Vec<u8> = (0..n).map(|i| i.wrapping_mul(37) ^ n).collect();
            assert_eq!(decode(encode(&bytes).as_bytes()), Ok(bytes));
        }
        assert_eq!(encode(b"\xfb\xff\xfe"), "-__-");
    }

    #[test]
    fn a_value_has_one_text() {
        assert_eq!(decode(b"AB"), Err(Bad::Length), "bits no byte uses");
        assert_eq!(decode(b"A"), Err(Bad::Length));
        assert_eq!(decode(b"AA=="), Err(Bad::Character(2)));
        assert_eq!(decode(b"AA+A"), Err(Bad::Character(2)));
    }
}
