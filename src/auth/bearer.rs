//! Proof of the caller: a bearer that only the holders of two static keys can make, different in each direction.
//!
//! Pods share a node and may wear its address, so an address proves nothing; every control request and every opening of the API passage carries this.
//! HKDF over the keys' Diffie-Hellman secret, salt "sluice control v1", context caller then callee (PROTOCOL.md, Inside the tunnel).

use super::keys;
use crate::identity::{PublicKey, SecretKey};

const SALT: &[u8] = b"sluice control v1";

/// The proof of one caller towards one callee. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer([u8; 32]);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Bearer {
    /// What `own` shows when it calls `callee`, and what `callee` shows when it calls back; none if `callee` is no usable key.
    pub fn pair(own: &SecretKey, own_public: &PublicKey, callee: &PublicKey) -> Option<(Bearer, Bearer)> {
        let shared = keys::agree(own, callee)?;
        let one = |from: &PublicKey, to: &PublicKey| Bearer(keys::derive(SALT, &shared, &[&from.0, &to.0]));
        Some((one(own_public, callee), one(callee, own_public)))
    }

    /// As it stands in `Authorization` behind `Bearer `: 64 hex digits.
    pub fn text(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Whether `shown` is this bearer, with or without the scheme in front.
    pub fn is(&self, shown: &str) -> bool {
        let shown = shown.strip_prefix("Bearer ").unwrap_or(shown).trim();
        keys::equal(self.text().as_bytes(), shown.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_make_the_same_two_bearers_and_no_one_else() {
        let (a, b, c) = (keys::clamp([1; 32]), keys::clamp([2; 32]), keys::clamp([3; 32]));
        let (pa, pb, pc) = (keys::public_of(&a), keys::public_of(&b), keys::public_of(&c));
        let (a_to_b, b_to_a) = Bearer::pair(&a, &pa, &pb).expect("keys");
        let (b_calls, b_hears) = Bearer::pair(&b, &pb, &pa).expect("keys");
        assert!(b_hears.is(&a_to_b.text()) && b_hears.is(&format!("Bearer {}", a_to_b.text())));
        assert!(b_to_a.is(&b_calls.text()));
        assert!(!b_hears.is(&b_to_a.text()), "a direction is not the other");
        assert!(!b_hears.is(&Bearer::pair(&c, &pc, &pb).expect("keys").0.text()));
        for hostile in ["", "Bearer ", "é", &"0".repeat(64), &a_to_b.text()[..63]] {
            assert!(!b_hears.is(hostile));
        }
    }

    #[test]
    fn a_key_that_shares_one_secret_with_everybody_gives_no_bearer() {
        let a = keys::clamp([1; 32]);
        assert!(Bearer::pair(&a, &keys::public_of(&a), &PublicKey([0; 32])).is_none());
    }
}
