//! Watches of the API server: streamed lists, events in the order of versions, bookmarks, cuts, forgotten history.
//!
//! A stream is pulled: the world asks for the next thing when it wants it told, so a slow watcher is one that is not asked.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use serde_json::Value;

use super::path::{Selectors, Target};
use super::server::ApiServer;
use super::store::Change;
use crate::kube::watch;

/// What a watch of this server tells, before a kind has read the object.
pub type Told = watch::Told<Rc<Value>>;

/// A watch of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u64);

#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<StreamId, Stream>,
    opened: u64,
}

#[derive(Debug)]
struct Stream {
    target: Target,
    selectors: Selectors,
    /// The initial objects still to be told.
    first: VecDeque<Rc<Value>>,
    /// Told once `first` is empty.
    sync: Option<u64>,
    /// Everything up to here has been told.
    seen: u64,
    /// The version last told to the watcher, by an event or a bookmark.
    told: u64,
    /// Said as the stream's only and last word.
    last: Option<Told>,
}

impl ApiServer {
    /// Opens a watch of a collection `path` with selectors in its query, from a version or with the initial objects first.
    pub fn watch(&mut self, path: &str, from: Option<&str>) -> StreamId {
        let mut stream = Stream {
            target: Target { resource: String::new(), api_version: String::new(), namespace: String::new(), name: None, sub: None, query: Vec::new() },
            selectors: Selectors::default(),
            first: VecDeque::new(),
            sync: None,
            seen: self.store.version(),
            told: 0,
            last: None,
        };
        match Target::parse(path).filter(|t| t.name.is_none()).map(|t| (t.selectors(), t)) {
            None => stream.last = Some(Told::Refused("404: the server could not find the requested resource".into())),
            Some((Err(why), _)) => stream.last = Some(Told::Refused(format!("400: {why}"))),
            Some((Ok(selectors), target)) => (stream.selectors, stream.target) = (selectors, target),
        }
        match from.map(str::parse::<u64>) {
            _ if stream.last.is_some() => {}
            _ if self.faults.down => stream.last = Some(Told::Cut),
            Some(Err(_)) => stream.last = Some(Told::Refused("400: invalid resource version".into())),
            Some(Ok(version)) if self.store.after(version).is_err() => stream.last = Some(Told::Expired),
            Some(Ok(version)) => (stream.seen, stream.told) = (version, version),
            None => {
                let found = self.store.all(&stream.target.resource, &stream.target.namespace).map(|(_, o)| o.clone());
                stream.first = found.filter(|o| stream.selectors.select(o)).collect();
                stream.sync = Some(self.store.version());
            }
        }
        self.streams.opened += 1;
        let id = StreamId(self.streams.opened);
        self.streams.open.insert(id, stream);
        id
    }

    /// The watcher hangs up.
    pub fn unwatch(&mut self, id: StreamId) {
        self.streams.open.remove(&id);
    }

    /// The next thing the watch tells; none if it has nothing to say now. After `Cut`, `Expired` and `Refused` it is closed.
    pub fn told(&mut self, id: StreamId) -> Option<Told> {
        let stream = self.streams.open.get_mut(&id)?;
        let told = match stream.last.take() {
            Some(last) => Some(last),
            None if self.faults.down || self.chance.happens(self.faults.cut) => Some(stream.ended()),
            None => stream.next(&self.store),
        };
        if matches!(told, Some(Told::Cut | Told::Expired | Told::Refused(_))) {
            self.streams.open.remove(&id);
        }
        told
    }

    /// Whether the watch would tell something now, faults aside.
    pub fn has_news(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.open.get_mut(&id) else { return false };
        stream.last.is_some() || !stream.first.is_empty() || stream.sync.is_some() || stream.skip(&self.store)
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.streams.open.len()
    }

    /// A bookmark is told on every watch that has fallen behind, as the real server does once a minute.
    pub fn bookmark(&mut self, id: StreamId) -> Option<Told> {
        let news = self.has_news(id);
        let stream = self.streams.open.get_mut(&id)?;
        if news || stream.told == self.store.version() {
            return None;
        }
        (stream.seen, stream.told) = (self.store.version(), self.store.version());
        Some(Told::Bookmark(stream.told.to_string()))
    }
}

impl Stream {
    /// The end of a good stream; before it, as the shell does, how far it has come.
    fn ended(&mut self) -> Told {
        if self.sync.is_some() || !self.first.is_empty() || self.told == 0 {
            return Told::Cut;
        }
        self.last = Some(Told::Cut);
        Told::Bookmark(self.told.to_string())
    }

    fn next(&mut self, store: &super::store::Store) -> Option<Told> {
        if let Some(object) = self.first.pop_front() {
            return Some(Told::Seen(object));
        }
        if let Some(version) = self.sync.take() {
            (self.seen, self.told) = (version, version);
            return Some(Told::Synced(version.to_string()));
        }
        if !self.skip(store) {
            return None;
        }
        // A stream that is open but has fallen out of the history ends with a 410 in it.
        let Ok(change) = store.after(self.seen) else { return Some(Told::Expired) };
        let change = change?;
        (self.seen, self.told) = (change.version, change.version);
        self.reads(change)
    }

    /// Goes past all that this watch does not tell. Whether it has something to tell then.
    fn skip(&mut self, store: &super::store::Store) -> bool {
        loop {
            match store.after(self.seen) {
                Ok(None) => return false,
                Ok(Some(change)) if self.reads(change).is_none() => self.seen = change.version,
                _ => return true,
            }
        }
    }

    /// What the change is to this watch: an object that no longer matches is gone.
    fn reads(&self, change: &Change) -> Option<Told> {
        let target = &self.target;
        if change.key.resource != target.resource || !(target.namespace.is_empty() || target.namespace == change.key.namespace) {
            return None;
        }
        let matched = |o: &&Rc<Value>| self.selectors.select(o);
        match (change.before.as_ref().filter(matched), change.after.as_ref().filter(matched)) {
            (_, Some(after)) => Some(Told::Seen(after.clone())),
            (Some(before), None) => {
                let mut last = (**change.after.as_ref().unwrap_or(before)).clone();
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(Told::Gone(Rc::new(last)))
            }
            (None, None) => None,
        }
    }
}

/// The told thing as a core hears it: the object read by its kind.
pub fn read<V>(told: Told, read: impl Fn(&[u8]) -> Result<V, String>) -> watch::Told<V> {
    let object = |o: Rc<Value>, make: fn(V) -> watch::Told<V>| match read(o.to_string().as_bytes()) {
        Ok(view) => make(view),
        Err(why) => watch::Told::Unreadable(o["metadata"]["name"].as_str().map(str::to_owned), why),
    };
    match told {
        Told::Seen(o) => object(o, watch::Told::Seen),
        Told::Gone(o) => object(o, watch::Told::Gone),
        Told::Synced(version) => watch::Told::Synced(version),
        Told::Bookmark(version) => watch::Told::Bookmark(version),
        Told::Cut => watch::Told::Cut,
        Told::Expired => watch::Told::Expired,
        Told::Refused(why) => watch::Told::Refused(why),
        Told::Unreadable(name, why) => watch::Told::Unreadable(name, why),
    }
}
