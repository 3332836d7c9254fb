//! Packet buffers, all made at start: the shell's sockets fill them, the cores read and write them, nothing grows.
//!
//! A [`Batch`] is a fixed number of slots in one block of memory, each with a length and a tag (who sent it, for datagrams).
//! It decides nothing; when it is full the reader stops and the kernel's queue waits or drops.

use std::io;

/// A fixed number of packets with a tag each.
pub struct Batch<T> {
    bytes: Box<[u8]>,
    rows: Box<[(usize, T)]>,
    slot: usize,
    count: usize,
}

impl<T: Copy> Batch<T> {
    /// `slots` places for packets of at most `size` bytes; `tag` fills the empty ones.
    pub fn new(slots: usize, size: usize, tag: T) -> Self {
        Batch { bytes: vec![0; slots * size].into_boxed_slice(), rows: vec![(0, tag); slots].into_boxed_slice(), slot: size, count: 0 }
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.count = 0;
    }

    /// How many packets are held.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no packet is held.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no slot is free.
    pub fn is_full(&self) -> bool {
        self.count == self.rows.len()
    }

    /// Packet `at` with its tag; the bytes may be changed in place.
    pub fn packet(&mut self, at: usize) -> Option<(&mut [u8], T)> {
        if at >= self.count {
            return None;
        }
        let (length, tag) = self.rows[at];
        let from = at * self.slot;
        Some((&mut self.bytes[from..from + length], tag))
    }

    /// All packets with their tags, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], T)> {
        self.rows[..self.count].iter().enumerate().map(|(at, &(length, tag))| (&self.bytes[at * self.slot..at * self.slot + length], tag))
    }

    /// Lets `read` fill the next free slot and say how long the packet is and its tag. `Ok(false)` when every slot is taken.
    ///
    /// # Errors
    /// What `read` returned; the slot stays free then.
    pub fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<(usize, T)>) -> io::Result<bool> {
        if self.is_full() {
            return Ok(false);
        }
        let from = self.count * self.slot;
        let (length, tag) = read(&mut self.bytes[from..from + self.slot])?;
        self.rows[self.count] = (length.min(self.slot), tag);
        self.count += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_what_was_read_and_refuses_more_than_its_slots() {
        let mut batch = Batch::new(2, 4, 0u8);
        let put = |batch: &mut Batch<u8>, text: &[u8], tag| {
            batch.fill(|slot| {
                slot[..text.len()].copy_from_slice(text);
                Ok((text.len(), tag))
            })
        };
        assert!(put(&mut batch, b"one", 1).is_ok_and(|filled| filled));
        assert!(batch.fill(|_| Err(io::ErrorKind::WouldBlock.into())).is_err());
        assert!(put(&mut batch, b"four", 2).is_ok_and(|filled| filled));
        assert!(put(&mut batch, b"x", 3).is_ok_and(|filled| !filled));
        assert_eq!(batch.iter().collect::<Vec<_>>(), [(&b"one"[..], 1), (&b"four"[..], 2)]);
        assert_eq!(batch.packet(1).map(|(bytes, tag)| (bytes.to_vec(), tag)), Some((b"four".to_vec(), 2)));
        assert!(batch.packet(2).is_none());
        batch.clear();
        assert!(batch.is_empty() && batch.packet(0).is_none());
    }
}
