//! X25519 and HKDF-SHA256 (RFC 7748, RFC 5869) as four functions: the only file of this room that names a cipher library.
//!
//! Tickets and bearers are made from these. Nothing here keeps a key.

use crate::identity::{PublicKey, SecretKey};
use ring::{digest, hkdf};
use x25519_dalek::StaticSecret;

/// The public key that belongs to `secret`.
pub fn public_of(secret: &SecretKey) -> PublicKey {
    PublicKey(*x25519_dalek::PublicKey::from(&StaticSecret::from(secret.0)).as_bytes())
}

/// The secret both ends share; none if `public` is a point that shares the same secret with everybody.
pub(super) fn agree(secret: &SecretKey, public: &PublicKey) -> Option<[u8; 32]> {
    let shared = StaticSecret::from(secret.0).diffie_hellman(&x25519_dalek::PublicKey::from(public.0));
    shared.was_contributory().then(|| *shared.as_bytes())
}

/// 32 bytes drawn from `material`, apart for each purpose, salt and context.
pub(super) fn derive(salt: &[u8], material: &[u8], context: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    let drawn = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(material);
    drawn.expand(context, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out)).expect("32 bytes are within HKDF's limit of 8160");
    out
}

/// Makes 32 random bytes an X25519 secret.
pub fn clamp(mut bytes: [u8; 32]) -> SecretKey {
    bytes[0] &= 248;
    bytes[31] = bytes[31] & 127 | 64;
    SecretKey(bytes)
}

/// Whether the two are equal, in a time that does not tell where they differ (only whether their lengths do).
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0u8, |differ, (x, y)| std::hint::black_box(differ | (x ^ y)));
    a.len() == b.len() && differ == 0
}

/// The first four bytes of SHA-256: finds typing errors, proves nothing.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 4] {
    let full = digest::digest(&digest::SHA256, bytes);
    let mut out = [0; 4];
    out.copy_from_slice(&full.as_ref()[..4]);
    out
}
