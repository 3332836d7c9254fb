//! What an API server has: objects, one version for every write, and a history that watches read and that is forgotten from the front.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde_json::{Value, json};

/// Where an object is: resource (plural and group), namespace (empty: cluster-wide), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// As in `pods` or `shadowpods.offloading.liqo.io`.
    pub resource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// The key of these three.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Key {
        Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// One write.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version it made.
    pub version: u64,
    /// Who made it.
    pub who: Rc<str>,
    /// Of which object.
    pub key: Key,
    /// The object before; none: it was made.
    pub before: Option<Rc<Value>>,
    /// The object after; none: it is gone.
    pub after: Option<Rc<Value>>,
}

/// Objects and their history.
#[derive(Debug)]
pub struct Store {
    /// Who writes now.
    pub writer: Rc<str>,
    objects: BTreeMap<Key, Rc<Value>>,
    /// The last version given.
    version: u64,
    /// The last version that was not a lease's.
    touched: u64,
    history: VecDeque<Change>,
    /// All changes up to this version are forgotten.
    forgotten: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { writer: "cluster".into(), objects: BTreeMap::new(), version: 0, touched: 0, history: VecDeque::new(), forgotten: 0 }
    }
}

impl Store {
    /// The version of the last write.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version of the last write to anything but a lease.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    fn next_version(&mut self, key: &Key) {
        self.version += 1;
        if !key.resource.starts_with("leases.") {
            self.touched = self.version;
        }
    }

    /// The object at `key`.
    pub fn at(&self, key: &Key) -> Option<&Rc<Value>> {
        self.objects.get(key)
    }

    /// All of `resource`, in `namespace` if one is named, by namespace and name.
    pub fn all<'a>(&'a self, resource: &'a str, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Rc<Value>)> + 'a {
        self.objects
            .range(Key::new(resource, namespace, "")..)
            .take_while(move |(k, _)| k.resource == resource && (namespace.is_empty() || k.namespace == namespace))
    }

    /// Everything.
    pub fn everything(&self) -> impl Iterator<Item = (&Key, &Rc<Value>)> {
        self.objects.iter()
    }

    /// Makes or replaces; the new version is written into the object. Nothing happens when nothing is different.
    pub fn put(&mut self, key: Key, mut object: Value) -> Rc<Value> {
        let before = self.objects.get(&key).cloned();
        if let Some(before) = &before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if object == **before {
                return before.clone();
            }
        }
        self.next_version(&key);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Rc::new(object);
        self.objects.insert(key.clone(), after.clone());
        self.history.push_back(Change { version: self.version, who: self.writer.clone(), key, before, after: Some(after.clone()) });
        after
    }

    /// Takes the object away for good.
    pub fn remove(&mut self, key: &Key) {
        if let Some(before) = self.objects.remove(key) {
            self.next_version(key);
            self.history.push_back(Change { version: self.version, who: self.writer.clone(), key: key.clone(), before: Some(before), after: None });
        }
    }

    /// The first change after `version`, or `Err` if that part of the history is forgotten.
    pub fn after(&self, version: u64) -> Result<Option<&Change>, Forgotten> {
        if version < self.forgotten {
            return Err(Forgotten);
        }
        Ok(self.history.get(self.history.partition_point(|c| c.version <= version)))
    }

    /// Forgets all history but the last `keep` changes, as etcd's compaction does.
    pub fn forget(&mut self, keep: usize) {
        while self.history.len() > keep {
            if let Some(change) = self.history.pop_front() {
                self.forgotten = change.version;
            }
        }
    }
}

/// The history asked for is compacted (410).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_changes_nothing_makes_no_version() {
        let mut store = Store::default();
        let key = Key::new("configmaps", "a", "b");
        let first = store.put(key.clone(), json!({"metadata": {"name": "b"}, "data": {"x": "1"}}));
        store.put(key.clone(), (*first).clone());
        assert_eq!(store.version(), 1);
        store.remove(&key);
        assert_eq!((store.version(), store.at(&key)), (2, None));
    }

    #[test]
    fn forgotten_history_cannot_be_read() {
        let mut store = Store::default();
        for n in 0..5 {
            store.put(Key::new("configmaps", "a", &n.to_string()), json!({"metadata": {}}));
        }
        store.forget(2);
        assert!(store.after(2).is_err());
        assert_eq!(store.after(3).map(|c| c.map(|c| c.version)), Ok(Some(4)));
        assert_eq!(store.after(5).map(|c| c.is_some()), Ok(false));
    }
}
