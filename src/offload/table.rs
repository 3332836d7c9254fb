//! One row an object: what is known of it on each side, when it is due, whether a call for it is under way. Filled by [`super::agent`], driven by [`super::reflect`].
//!
//! A list is mark and sweep in place: every row side carries the round in which its feed last told of it. A full table refuses; nothing grows.

use super::kind::{Key, Sort};
use super::kinds::copy::CopyRow;
use super::kinds::pod::PodRow;
use super::kinds::shadow::ShadowRow;
use super::node::NodeRow;
use super::space::{MapRow, SpaceRow};
use super::twin::{TenantRow, TwinRow};
use crate::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// The side of a row a feed tells about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where the object comes from.
    Source,
    /// What became of it.
    Mirror,
    /// What lies between (a ShadowPod, seen from home).
    Between,
}

/// The views of a row.
#[derive(Debug)]
pub(crate) enum View {
    Node(NodeRow),
    Map(MapRow),
    Space(SpaceRow),
    Pod(Box<PodRow>),
    Copy(CopyRow),
    Tenant(TenantRow),
    Twin(TwinRow),
    Shadow(Box<ShadowRow>),
}

impl View {
    fn new(sort: Sort) -> View {
        match sort {
            Sort::Node => View::Node(NodeRow::default()),
            Sort::Map => View::Map(MapRow),
            Sort::Space => View::Space(SpaceRow::default()),
            Sort::Pod => View::Pod(Box::default()),
            Sort::Service | Sort::Slice | Sort::ConfigMap | Sort::Secret | Sort::Render => View::Copy(CopyRow::default()),
            Sort::Tenant => View::Tenant(TenantRow),
            Sort::Twin => View::Twin(TwinRow::default()),
            Sort::Shadow => View::Shadow(Box::default()),
        }
    }
}

/// A row.
#[derive(Debug)]
pub(crate) struct Row {
    pub key: Key,
    pub view: View,
    pub marks: [u32; 3],
    pub attempts: u8,
    /// Calls that were answered well since the row was last content, and until when it is left alone after too many.
    pub streak: u8,
    pub calm: Option<Instant>,
    /// A call for this object is under way.
    pub busy: bool,
    /// Something changed while it was.
    pub dirty: bool,
    due: Option<Instant>,
}

/// A row's place; it stays while the row lives.
pub(crate) type Slot = u32;

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Option<Row>>,
    free: Vec<Slot>,
    index: BTreeMap<Key, Slot>,
    due: BTreeSet<(Instant, Slot)>,
    counts: [usize; Sort::COUNT],
}

/// No row is free for this sort of object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Table {
    pub(crate) fn find(&self, key: &Key) -> Option<Slot> {
        self.index.get(key).copied()
    }

    /// How many rows there are of this sort.
    pub(crate) fn count(&self, sort: Sort) -> usize {
        self.counts[sort as usize]
    }

    /// The row under `key`, made if there is none.
    pub(crate) fn enter(&mut self, key: Key) -> Result<Slot, Full> {
        if let Some(slot) = self.find(&key) {
            return Ok(slot);
        }
        let count = &mut self.counts[key.sort as usize];
        if *count >= key.sort.capacity() {
            return Err(Full);
        }
        *count += 1;
        let row = Row { view: View::new(key.sort), key: key.clone(), marks: [0; 3], attempts: 0, streak: 0, calm: None, busy: false, dirty: false, due: None };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.rows.push(None);
                (self.rows.len() - 1) as Slot
            }
        };
        self.rows[slot as usize] = Some(row);
        self.index.insert(key, slot);
        Ok(slot)
    }

    pub(crate) fn row(&mut self, slot: Slot) -> Option<&mut Row> {
        self.rows.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        if let Some(row) = self.rows.get_mut(slot as usize).and_then(Option::take) {
            if let Some(due) = row.due {
                self.due.remove(&(due, slot));
            }
            self.counts[row.key.sort as usize] -= 1;
            self.index.remove(&row.key);
            self.free.push(slot);
        }
    }

    /// Makes the row due at `at` and at no other time.
    pub(crate) fn set_due(&mut self, slot: Slot, at: Option<Instant>) {
        let Some(row) = self.rows.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if let Some(before) = row.due.take() {
            self.due.remove(&(before, slot));
        }
        row.due = at;
        if let Some(at) = at {
            self.due.insert((at, slot));
        }
    }

    /// Something about the row has changed: due now, or once its call is answered or its back-off is over.
    pub(crate) fn touch(&mut self, slot: Slot, now: Instant) {
        let Some(row) = self.row(slot) else { return };
        if row.busy {
            row.dirty = true;
        } else if row.attempts == 0 || row.due.is_none() {
            self.set_due(slot, Some(now));
        }
    }

    /// Touches every row that `wanted` picks; `fresh` forgets their back-off.
    pub(crate) fn touch_where(&mut self, now: Instant, fresh: bool, wanted: impl Fn(&Key) -> bool) {
        for slot in self.slots(wanted) {
            if fresh && let Some(row) = self.row(slot) {
                row.attempts = 0;
            }
            self.touch(slot, now);
        }
    }

    /// The places of all rows that `wanted` picks, in the order of their keys.
    pub(crate) fn slots(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Slot> {
        self.index.iter().filter(|(key, _)| wanted(key)).map(|(_, slot)| *slot).collect()
    }

    /// The next row that is due, taken off the queue.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Slot> {
        let &(at, slot) = self.due.first()?;
        if at > now {
            return None;
        }
        self.set_due(slot, None);
        Some(slot)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerId;
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::from_boot(Duration::from_secs(seconds))
    }

    fn key(name: &str) -> Key {
        Key::new(Sort::Space, PeerId(0), "", name)
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_when_a_row_is_gone() {
        let mut table = Table::default();
        let slots: Vec<Slot> = (0..Sort::Space.capacity()).map(|i| table.enter(key(&i.to_string())).expect("room")).collect();
        assert_eq!(table.enter(key("more")), Err(Full));
        assert_eq!(table.enter(key("0")), Ok(slots[0]));
        table.remove(slots[0]);
        assert!(table.enter(key("more")).is_ok());
    }

    #[test]
    fn rows_come_due_in_time_order_and_once() {
        let mut table = Table::default();
        let (a, b) = (table.enter(key("a")).expect("room"), table.enter(key("b")).expect("room"));
        table.set_due(a, Some(at(5)));
        table.set_due(b, Some(at(3)));
        assert_eq!((table.pop_due(at(2)), table.next_due()), (None, Some(at(3))));
        assert_eq!((table.pop_due(at(9)), table.pop_due(at(9)), table.pop_due(at(9))), (Some(b), Some(a), None));
    }

    #[test]
    fn a_change_during_a_call_is_kept_and_a_change_in_back_off_waits() {
        let mut table = Table::default();
        let a = table.enter(key("a")).expect("room");
        table.row(a).expect("a").busy = true;
        table.touch(a, at(1));
        assert_eq!((table.next_due(), table.row(a).expect("a").dirty), (None, true));
        table.row(a).expect("a").busy = false;
        table.row(a).expect("a").attempts = 2;
        table.set_due(a, Some(at(8)));
        table.touch(a, at(1));
        assert_eq!(table.next_due(), Some(at(8)));
    }
}
