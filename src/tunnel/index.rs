//! Receiver index -> row of the peer. boringtun numbers its sessions `index << 8 | n`; the 24 bits of `index` are ours: the row in the
//! lowest bits, above it a number that changes with every use of the row, so that a message to a peer that left finds nobody. Sets of rows are here too.

use crate::budget::PEERS;

const ROW_BITS: u32 = PEERS.next_power_of_two().trailing_zeros();
const ROW_MASK: u32 = (1 << ROW_BITS) - 1;
const INDEX_MASK: u32 = (1 << 24) - 1;

/// The indexes in use, one a row.
pub(crate) struct Index {
    rows: [Option<u32>; PEERS],
    turn: u32,
}

impl Index {
    /// No index in use; `start` is where the numbers begin, any value.
    pub(crate) const fn new(start: u32) -> Self {
        Index { rows: [None; PEERS], turn: start }
    }

    /// A fresh index for a row.
    pub(crate) fn allot(&mut self, row: usize) -> u32 {
        self.turn = self.turn.wrapping_add(1);
        let index = ((self.turn << ROW_BITS) | row as u32 & ROW_MASK) & INDEX_MASK;
        self.rows[row] = Some(index);
        index
    }

    /// Forgets the index of a row.
    pub(crate) fn release(&mut self, row: usize) {
        self.rows[row] = None;
    }

    /// The row that a receiver index belongs to.
    pub(crate) fn find(&self, receiver: u32) -> Option<usize> {
        let index = receiver >> 8;
        let row = (index & ROW_MASK) as usize;
        (*self.rows.get(row)? == Some(index)).then_some(row)
    }
}

/// A set of rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows(u64);

const _: () = assert!(PEERS <= 64, "a row is a bit of Rows");

impl Rows {
    pub(crate) const NONE: Rows = Rows(0);

    pub(crate) fn set(&mut self, row: usize) {
        self.0 |= 1 << row;
    }

    pub(crate) fn clear(&mut self, row: usize) {
        self.0 &= !(1 << row);
    }

    pub(crate) fn first(&self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_finds_its_row_until_it_is_released() {
        let mut index = Index::new(u32::MAX - 2);
        for row in 0..PEERS {
            let number = index.allot(row);
            assert!(number <= INDEX_MASK);
            assert_eq!(index.find(number << 8 | 0xff), Some(row));
        }
        let old = index.allot(5);
        let new = index.allot(5);
        assert_eq!(index.find(old << 8), None, "a row used again has another index");
        index.release(5);
        assert_eq!(index.find(new << 8), None);
    }
}
