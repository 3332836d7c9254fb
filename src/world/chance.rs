//! Chance from a seed: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). Not for secrets.

/// A stream of numbers that is the same for the same seed.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end - 1`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// True in `permille` of 1000 cases.
    pub fn happens(&mut self, permille: u16) -> bool {
        self.below(1000) < u64::from(permille)
    }

    /// One of `choices`; none if there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len() as u64) as usize)
    }

    /// 32 bytes, for keys and core seeds in tests.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        for part in out.chunks_exact_mut(8) {
            part.copy_from_slice(&self.bits().to_le_bytes());
        }
        out
    }

    /// A stream of its own, so that what one part of the world draws does not shift what another gets.
    pub fn split(&mut self) -> Chance {
        Chance(self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_the_reference_ones() {
        let mut chance = Chance::new(1_234_567);
        assert_eq!([chance.bits(), chance.bits()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn a_rate_is_about_what_it_says() {
        let mut chance = Chance::new(7);
        let hits = (0..10_000).filter(|_| chance.happens(250)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert_eq!((0..1000).filter(|_| chance.happens(0)).count(), 0);
        assert_eq!((0..1000).filter(|_| !chance.happens(1000)).count(), 0);
    }
}
