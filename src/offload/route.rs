//! What a seen object means: which row it belongs to and on which side, or which fact it is. A second half of [`super::agent`], apart so that each reads in one go.

use super::agent::{Agent, Event};
use super::facts::{About, Wake};
use super::kind::{HERE, Key, KindId, Seen, SeenView, Sort};
use super::kinds::copy::{Mirror, Source};
use super::kinds::pod::{Between, Reference, There};
use super::kinds::shadow;
use super::table::{Row, Side, Slot, View};
use super::watch::{self, Purpose, SWEPT};
use crate::kube::call::Cluster;
use std::collections::BTreeSet;

/// Namespaces remembered; beyond that only those of ours are.
const NAMESPACES_SEEN: usize = 1024;
/// RoleBindings remembered: twice what all namespaces and peers may have. One more is found by the conflict when it is made.
const BINDINGS_SEEN: usize = 1024;

/// Whether objects of this kind are facts, kept by name, and not rows.
pub(super) fn by_name(kind: KindId) -> bool {
    matches!(kind, KindId::Node | KindId::Namespace | KindId::Offloading | KindId::Binding | KindId::NamespaceMap)
}

/// The name under which such an object is kept.
pub(super) fn name_of(kind: KindId, seen: &Seen) -> Box<str> {
    match kind {
        KindId::Offloading => seen.namespace.clone(),
        KindId::Binding => format!("{}/{}", seen.namespace, seen.name).into(),
        _ => seen.name.clone(),
    }
}

impl Agent {
    /// An object was seen, or seen to be gone.
    pub(super) fn seen(&mut self, purpose: &Purpose, round: u32, seen: Seen, gone: bool) {
        let Seen { namespace, name, version, view } = seen;
        self.told_up_to(purpose, version);
        match view {
            SeenView::Node(node) => {
                let Some(provider) = self.facts.providers.get_mut(&purpose.peer) else { return };
                if !gone {
                    provider.labels = node.labels.clone();
                }
                provider.node = (!gone).then_some(node);
                self.touch_key(Key::new(Sort::Node, purpose.peer, "", ""));
                self.changed();
            }
            SeenView::Namespace(view) => {
                let (ending, ours) = (gone || view.deleting, view.marked || !view.consumer.is_empty());
                let before = self.facts.namespaces.get(&name).map(|n| (n.consumer.clone(), n.deleting));
                if gone {
                    self.facts.namespaces.remove(&name);
                    self.facts.twins.remove(&name);
                } else if ours || self.facts.namespaces.len() < NAMESPACES_SEEN || self.facts.namespaces.contains_key(&name) {
                    self.facts.namespaces.insert(name.clone(), view);
                }
                let now = self.now.mono;
                let asked = self.facts.consumers.values().filter_map(|c| c.map.as_ref()).any(|m| m.desired.values().any(|twin| *twin == name));
                if ours || asked || before.is_some_and(|(consumer, _)| !consumer.is_empty()) {
                    self.find_twins();
                    self.loops.table.touch_where(now, true, |k| matches!(k.sort, Sort::Twin | Sort::Tenant));
                }
                if ending {
                    self.loops.table.touch_where(now, true, |k| k.sort == Sort::Pod && k.namespace == name);
                }
                if self.facts.namespaces_synced {
                    self.look_at_marked(&name);
                    self.changed();
                }
            }
            SeenView::Offloading(view) => {
                if &*name != "offloading" {
                    self.facts.event(Event::Trouble { what: format!("NamespaceOffloading {namespace}/{name} is ignored: it must be named offloading") });
                    return;
                }
                let fresh = !self.facts.offloadings.contains_key(&namespace);
                if gone {
                    self.facts.offloadings.remove(&namespace);
                } else if !fresh || self.facts.offloadings.len() < crate::budget::NAMESPACES {
                    self.facts.offloadings.insert(namespace.clone(), view);
                } else {
                    self.facts.event(Event::Full { what: format!("namespace {namespace} is not offloaded: {} already are", crate::budget::NAMESPACES) });
                    return;
                }
                self.look_at_space(&namespace);
                self.changed();
            }
            SeenView::Binding => {
                if gone || self.facts.bindings.len() < BINDINGS_SEEN {
                    self.facts.bind(&namespace, &name, !gone);
                }
                if self.facts.bindings_synced {
                    self.look_at_bound(&namespace);
                }
            }
            SeenView::Map(map) => {
                let map = (!gone).then_some(map);
                match purpose.on {
                    Cluster::Home => {
                        let Some(consumer) = self.facts.consumers.get_mut(&purpose.peer) else { return };
                        consumer.map = map;
                        self.find_twins();
                        let peer = purpose.peer;
                        self.loops.table.touch_where(self.now.mono, true, |k| matches!(k.sort, Sort::Twin | Sort::Tenant) && k.peer == peer);
                    }
                    Cluster::Peer(peer) => {
                        let Some(provider) = self.facts.providers.get_mut(&peer) else { return };
                        provider.map = map;
                        self.touch_key(Key::new(Sort::Map, peer, "", ""));
                        self.touch_key(Key::new(Sort::Node, peer, "", ""));
                        self.changed();
                    }
                }
            }
            SeenView::HomePod(view) => {
                let key = Key::new(Sort::Pod, purpose.peer, &namespace, &name);
                let Some(slot) = self.row_for(&key, gone, "pod") else {
                    if !gone {
                        let why = "more pods are offloaded than this cluster keeps in step; this one waits until others are gone";
                        self.facts.note(self.now, About { kind: "Pod", namespace: &namespace, name: &name, uid: &view.uid }, "OffloadingBackOff", why);
                    }
                    return;
                };
                let Some(Row { view: View::Pod(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Source as usize] = round;
                let before = row.home.as_ref().map(|h| h.references.clone());
                let ran = row.counted;
                // A late word about an earlier pod of the name says nothing about this one.
                if gone && row.home.as_ref().is_some_and(|h| h.uid != view.uid) {
                    return;
                }
                let after = (!gone).then(|| view.references.clone());
                let runs = !gone && !view.stage.terminal();
                if gone {
                    row.lose_home(true)
                } else {
                    row.take_home(view)
                }
                row.counted = runs;
                self.count_pod(purpose, ran, runs);
                self.use_references(purpose, &namespace, before.as_deref(), after.as_deref());
                self.loops.table.touch(slot, self.now.mono);
            }
            SeenView::FarPod(view) => {
                let key = Key::new(Sort::Pod, purpose.peer, &purpose.namespace, &name);
                let Some(slot) = self.row_for(&key, gone, "pod") else { return };
                let Some(Row { view: View::Pod(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Mirror as usize] = round;
                if gone && row.far.as_ref().is_some_and(|f| f.uid != view.uid) {
                    return;
                }
                row.far = (!gone).then_some(view);
                self.loops.table.touch(slot, self.now.mono);
            }
            SeenView::Shadow(view) if purpose.sort == Sort::Pod => {
                let key = Key::new(Sort::Pod, purpose.peer, &purpose.namespace, &name);
                let Some(slot) = self.row_for(&key, gone, "pod") else { return };
                let Some(Row { view: View::Pod(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Between as usize] = round;
                row.between = if gone { Between::Absent } else { Between::There(There::from(&view)) };
                self.loops.table.touch(slot, self.now.mono);
            }
            SeenView::Shadow(view) => {
                let key = Key::new(Sort::Shadow, HERE, &namespace, &name);
                let Some(slot) = self.row_for(&key, gone, "ShadowPod") else { return };
                let Some(Row { view: View::Shadow(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Source as usize] = round;
                (row.shadow, row.gone) = ((!gone).then_some(view), gone);
                self.loops.table.touch(slot, self.now.mono);
            }
            SeenView::MadePod(view) => {
                let key = Key::new(Sort::Shadow, HERE, &namespace, &name);
                let Some(slot) = self.row_for(&key, gone, "pod") else { return };
                let Some(Row { view: View::Shadow(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Mirror as usize] = round;
                if gone && row.made.as_ref().is_some_and(|m| m.uid != view.uid) {
                    return;
                }
                row.told_at.note(version);
                let amount = view.amount;
                let counts = !gone && !view.stage.terminal();
                row.take_made(view, gone);
                // Pods found at a start are counted before any new one is judged.
                if counts && row.held.is_none() {
                    shadow::hold(&mut self.facts, &key, row, amount);
                }
                self.loops.table.touch(slot, self.now.mono);
            }
            SeenView::Source(view) => {
                let source = if gone || view.skipped { Source::Gone } else { Source::Here(view.version) };
                self.take_source(purpose, round, &namespace, &name, source);
            }
            SeenView::Slice(view) => {
                if gone || view.skipped {
                    self.facts.transit.release(purpose.peer, &namespace, &name);
                } else if !self.facts.transit.take(purpose.peer, &namespace, &name, view.endpoints.iter().map(|(address, ..)| *address)) {
                    let what = format!("EndpointSlice {namespace}/{name}: endpoints of third clusters are left out of what a provider is told");
                    self.facts.event(Event::Full { what });
                }
                let node = self.facts.providers.get(&purpose.peer).map_or("", |p| p.spec.node.as_str());
                let (version, any) = view.filtered(&self.facts.pods, node, self.facts.transit.of(purpose.peer, &namespace, &name));
                let known = self.loops.table.find(&Key::new(Sort::Slice, purpose.peer, &namespace, &name)).is_some();
                // A slice without an endpoint to tell is told only if it had one before.
                let source = if gone || view.skipped || !(any || known) { Source::Gone } else { Source::Here(version) };
                self.take_source(purpose, round, &namespace, &name, source);
            }
            SeenView::Copy(view) => {
                let key = match purpose.on {
                    Cluster::Home => Key::new(Sort::Render, HERE, &namespace, &name),
                    Cluster::Peer(peer) => Key::new(purpose.sort, peer, &purpose.namespace, &name),
                };
                let Some(slot) = self.row_for(&key, gone, "copy") else { return };
                let unknown = self.source_synced(&key);
                let Some(Row { view: View::Copy(row), marks, .. }) = self.loops.table.row(slot) else { return };
                marks[Side::Mirror as usize] = round;
                row.told_at.note(version);
                if gone {
                    row.mirror = Mirror::Absent;
                } else {
                    row.take_copy(&view);
                }
                if row.source == Source::Unknown && unknown {
                    row.source = Source::Gone;
                }
                self.loops.table.touch(slot, self.now.mono);
            }
        }
    }

    /// A watch on facts has told all up to this version.
    pub(super) fn told_up_to(&mut self, purpose: &Purpose, version: u64) {
        let facts = &mut self.facts;
        match (purpose.kind, purpose.on) {
            (KindId::Namespace, _) => facts.namespaces_at.note(version),
            (KindId::Binding, _) => facts.bindings_at.note(version),
            (KindId::Node, _) => facts.providers.get_mut(&purpose.peer).into_iter().for_each(|p| p.node_at.note(version)),
            (KindId::NamespaceMap, Cluster::Peer(peer)) => facts.providers.get_mut(&peer).into_iter().for_each(|p| p.map_at.note(version)),
            (KindId::NamespaceMap, Cluster::Home) => facts.consumers.get_mut(&purpose.peer).into_iter().for_each(|c| c.map_at.note(version)),
            _ => {}
        }
    }

    /// All initial objects of a watch have been told, as they were at version `at`: what was not among them is gone. Without `names` the list was
    /// flawed: nothing is gone, and facts that were not known yet stay so until a list is whole.
    pub(super) fn synced(&mut self, purpose: &Purpose, round: u32, at: u64, names: Option<&BTreeSet<Box<str>>>) {
        let now = self.now.mono;
        let Some(names) = names else {
            if !by_name(purpose.kind) {
                self.sweep(purpose, round, at, false);
            }
            return;
        };
        match (purpose.kind, purpose.on) {
            (KindId::Node, _) => {
                if let Some(provider) = self.facts.providers.get_mut(&purpose.peer) {
                    provider.node_synced = true;
                    if names.is_empty() {
                        provider.node = None;
                    }
                }
                self.facts.wake(Wake::Peer(purpose.peer));
                self.changed();
            }
            (KindId::Namespace, _) => {
                self.facts.namespaces.retain(|name, _| names.contains(name));
                let known = &self.facts.namespaces;
                self.facts.twins.retain(|twin, _| known.contains_key(twin));
                self.facts.namespaces_synced = true;
                for name in self.facts.namespaces.keys().cloned().collect::<Vec<_>>() {
                    self.look_at_marked(&name);
                }
                self.find_twins();
                self.changed();
                self.loops.table.touch_where(now, true, |_| true);
            }
            (KindId::Binding, _) => {
                self.facts.bindings.retain(|name| names.contains(name));
                self.facts.bindings_synced = true;
                self.find_twins();
                for name in self.facts.bindings.iter().filter_map(|b| Some(b.strip_suffix("/sluice-home")?.into())).collect::<Vec<Box<str>>>() {
                    self.look_at_bound(&name);
                }
                self.loops.table.touch_where(now, true, |k| matches!(k.sort, Sort::Space | Sort::Twin | Sort::Tenant));
            }
            (KindId::Offloading, _) => {
                let gone: Vec<Box<str>> = self.facts.offloadings.keys().filter(|n| !names.contains(*n)).cloned().collect();
                for namespace in gone {
                    self.facts.offloadings.remove(&namespace);
                    self.look_at_space(&namespace);
                }
                self.facts.offloadings_synced = true;
                self.changed();
                self.loops.table.touch_where(now, true, |_| true);
            }
            (KindId::NamespaceMap, Cluster::Peer(peer)) => {
                if let Some(provider) = self.facts.providers.get_mut(&peer) {
                    provider.map_synced = true;
                    if names.is_empty() {
                        provider.map = None;
                    }
                }
                self.changed();
                self.loops.table.touch_where(now, true, |k| k.peer == peer);
            }
            (KindId::NamespaceMap, Cluster::Home) => {
                if let Some(consumer) = self.facts.consumers.get_mut(&purpose.peer) {
                    consumer.map_synced = true;
                    if names.is_empty() {
                        consumer.map = None;
                    }
                }
                self.loops.table.touch_where(now, true, |k| k.peer == purpose.peer);
            }
            _ => self.sweep(purpose, round, at, true),
        }
    }

    /// Mark and sweep of one side of the rows a watch tells about.
    fn sweep(&mut self, purpose: &Purpose, round: u32, at: u64, whole: bool) {
        let now = self.now.mono;
        // Before a ShadowPod or its Pod goes, the API server is asked: a list that left something out does no harm there.
        let whole = whole || matches!((purpose.kind, purpose.on), (KindId::HomePod, _) | (KindId::ShadowPod, Cluster::Home));
        let known = self.feeds.whole(purpose);
        let of = |key: &Key| key.sort == purpose.sort && key.peer == purpose.peer && (purpose.namespace.is_empty() || key.namespace == purpose.namespace);
        for slot in self.loops.table.slots(of) {
            if whole {
                self.sweep_row(purpose, round, at, slot);
            }
            self.loops.table.touch(slot, now);
        }
        let facts = &mut self.facts;
        match (purpose.kind, purpose.on) {
            (KindId::HomePod, _) => {
                if let Some(provider) = facts.providers.get_mut(&purpose.peer) {
                    (provider.pods_synced, provider.pods_whole) = (true, known);
                }
                facts.wake(Wake::Peer(purpose.peer));
            }
            (KindId::FarPod, _) => {
                if let Some(link) = facts.links.get_mut(&(purpose.peer, purpose.namespace.clone())) {
                    link.far_synced = true;
                }
            }
            (KindId::ShadowPod, Cluster::Home) => facts.shadows_synced = true,
            (KindId::MadePod, _) => facts.made_synced = true,
            (KindId::ShadowSlice, _) => facts.shadow_slices_synced = true,
            _ => {}
        }
        if purpose.kind == KindId::MadePod || purpose.kind == KindId::ShadowPod && purpose.on == Cluster::Home {
            self.loops.table.touch_where(now, true, |k| k.sort == Sort::Shadow);
        }
        if purpose.once
            && let Some(link) = self.facts.links.get_mut(&(purpose.peer, purpose.namespace.clone()))
            && let Some(bit) = SWEPT.iter().position(|(kind, sort, _)| *kind == purpose.kind && *sort == purpose.sort)
        {
            link.sweep &= !(1 << bit);
            self.stale = true;
        }
    }

    fn sweep_row(&mut self, purpose: &Purpose, round: u32, at: u64, slot: Slot) {
        let Some(row) = self.loops.table.row(slot) else { return };
        let stale = |side: Side| row.marks[side as usize] != round;
        let (source, mirror, between) = (stale(Side::Source), stale(Side::Mirror), stale(Side::Between));
        match (&mut row.view, purpose.kind) {
            (View::Pod(pod), KindId::HomePod) if source && pod.home.is_some() => {
                let (before, ran) = (pod.home.take(), pod.counted);
                pod.lose_home(false);
                let namespace = row.key.namespace.clone();
                self.count_pod(purpose, ran, false);
                self.use_references(purpose, &namespace, before.as_ref().map(|h| &*h.references), None);
            }
            (View::Pod(pod), KindId::FarPod) if mirror => pod.far = None,
            (View::Pod(pod), KindId::ShadowPod) if between && !row.busy && matches!(pod.between, Between::There(_)) => {
                pod.between = Between::Unknown;
            }
            (View::Shadow(shadow), KindId::ShadowPod) if source => (shadow.shadow, shadow.gone) = (None, false),
            // A reply that is still under way may tell of one that was taken away before the list.
            (View::Shadow(shadow), KindId::MadePod) if mirror => {
                shadow.made = None;
                shadow.told_at.note(at);
            }
            (View::Copy(copy), KindId::Copy) if mirror => {
                copy.told_at.note(at);
                if matches!(copy.mirror, Mirror::Ours(_)) && !row.busy {
                    copy.mirror = Mirror::Unknown;
                }
            }
            (View::Copy(copy), KindId::Service | KindId::EndpointSlice | KindId::ConfigMap | KindId::Secret | KindId::ShadowSlice) if source => {
                copy.source = Source::Gone;
                if purpose.kind == KindId::EndpointSlice {
                    self.facts.transit.release(purpose.peer, &row.key.namespace, &row.key.name);
                }
            }
            _ => {}
        }
    }

    fn take_source(&mut self, purpose: &Purpose, round: u32, namespace: &str, name: &str, source: Source) {
        let peer = if purpose.sort == Sort::Render { HERE } else { purpose.peer };
        let key = Key::new(purpose.sort, peer, namespace, name);
        let by_use = matches!(purpose.sort, Sort::ConfigMap | Sort::Secret);
        // Only what pods use has a row; the rest of a namespace's ConfigMaps and Secrets passes by.
        let Some(slot) = self.row_for(&key, source == Source::Gone || by_use, "object") else { return };
        let now = self.now.mono;
        let Some(row) = self.loops.table.row(slot) else { return };
        row.marks[Side::Source as usize] = round;
        if let View::Copy(copy) = &mut row.view
            && copy.source != source
        {
            copy.source = source;
            row.attempts = 0;
            self.loops.table.touch(slot, now);
        }
    }

    /// Whether the list that a copy's source would be in has been told, every object of it taken. Of ConfigMaps and Secrets only those in use are.
    fn source_synced(&self, key: &Key) -> bool {
        if key.sort == Sort::Render {
            return self.facts.shadow_slices_synced;
        }
        let kind = watch::SOURCES.iter().find(|(_, sort, _)| *sort == key.sort).map(|(kind, ..)| *kind);
        kind.is_some_and(|kind| self.feeds.whole(&watch::source(kind, key.sort, key.peer, &key.namespace)))
    }

    /// Counts the pods bound to a provider's node that have not ended: only these are waited for when it leaves.
    fn count_pod(&mut self, purpose: &Purpose, before: bool, after: bool) {
        if let Some(provider) = self.facts.providers.get_mut(&purpose.peer) {
            match (before, after) {
                (false, true) => provider.home_pods += 1,
                (true, false) => provider.home_pods = provider.home_pods.saturating_sub(1),
                _ => {}
            }
            if provider.leaving.is_some() {
                self.facts.wake(Wake::Row(Key::new(Sort::Node, purpose.peer, "", "")));
            }
        }
    }

    /// Counts the users of ConfigMaps and Secrets, which get a row with the first.
    fn use_references(&mut self, purpose: &Purpose, namespace: &str, before: Option<&[Reference]>, after: Option<&[Reference]>) {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        if before == after {
            return;
        }
        let now = self.now.mono;
        for (reference, more) in after.iter().map(|r| (r, true)).chain(before.iter().map(|r| (r, false))) {
            let (kind, sort) = if reference.secret { (KindId::Secret, Sort::Secret) } else { (KindId::ConfigMap, Sort::ConfigMap) };
            let key = Key::new(sort, purpose.peer, namespace, &reference.name);
            let Some(slot) = self.row_for(&key, !more, "ConfigMap or Secret") else { continue };
            let round = self.feeds.round(&watch::source(kind, sort, purpose.peer, namespace));
            let Some(row) = self.loops.table.row(slot) else { continue };
            if let View::Copy(copy) = &mut row.view {
                copy.users = if more { copy.users.saturating_add(1) } else { copy.users.saturating_sub(1) };
                // The watch may have told of it while nobody used it: taken for present, the forge finds out.
                if more && !matches!(copy.source, Source::Here(_)) {
                    copy.source = Source::Here(1);
                    row.marks[Side::Source as usize] = round;
                }
            }
            self.loops.table.touch(slot, now);
        }
    }

    /// The row of a key, made unless only an existing one will do. A full table is told, and the object waits.
    fn row_for(&mut self, key: &Key, existing: bool, what: &str) -> Option<Slot> {
        if existing {
            return self.loops.table.find(key);
        }
        match self.loops.table.enter(key.clone()) {
            Ok(slot) => Some(slot),
            Err(_) => {
                self.facts.event(Event::Full { what: format!("{what} {}/{}: the table is full", key.namespace, key.name) });
                self.refused = true;
                None
            }
        }
    }

    fn touch_key(&mut self, key: Key) {
        if let Ok(slot) = self.loops.table.enter(key) {
            self.loops.table.touch(slot, self.now.mono);
        }
    }

    /// A RoleBinding of ours came or went in this namespace: who wants it there, or does not, is asked.
    fn look_at_bound(&mut self, name: &str) {
        let tenant = self.facts.consumers.iter().find(|(_, c)| c.spec.tenant_namespace == name).map(|(peer, _)| *peer);
        if let Some(peer) = tenant {
            return self.touch_key(Key::new(Sort::Tenant, peer, "", ""));
        }
        match self.facts.namespaces.get(name) {
            Some(view) if !view.consumer.is_empty() => self.find_twins(),
            Some(view) if !view.made => self.look_at_space(name),
            _ => {}
        }
    }

    /// A namespace that carries our marks without being a twin has a row, so that they go when they should.
    fn look_at_marked(&mut self, name: &str) {
        let marked = self.facts.namespaces.get(name).is_some_and(|n| n.marked && !n.made && n.consumer.is_empty());
        if marked || self.facts.offloadings.contains_key(name) {
            self.look_at_space(name);
        }
    }
}
