//! What the loop knows of kinds: the key and view of a row, the step a plan yields, and [`read`], which turns one object into the small [`Seen`].
//!
//! `plan` is given views and facts and never an event: a lost event, a restart and the first run are one path.
//! A new kind is one file in `kinds/`, one variant here and in [`super::reflect`], one line in [`Sort::capacity`].

use super::kinds::{config_map, endpoint_slice, pod, service, shadow};
use super::{namespace, node};
use crate::budget;
use crate::identity::PeerId;
use crate::kube::call::{Call, Resource};
use crate::kube::reply::Reply;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// An object's UID. The API server makes 36 characters; more is refused.
pub type Uid = heapless::String<36, u8>;

/// The row peer of things that belong to this cluster itself.
pub(crate) const HERE: PeerId = PeerId(u8::MAX);

pub(crate) const NODES: Resource = Resource { group: "", version: "v1", plural: "nodes" };
pub(crate) const NAMESPACES: Resource = Resource { group: "", version: "v1", plural: "namespaces" };
pub(crate) const PODS: Resource = Resource { group: "", version: "v1", plural: "pods" };
pub(crate) const EVENTS: Resource = Resource { group: "", version: "v1", plural: "events" };
pub(crate) const SERVICES: Resource = Resource { group: "", version: "v1", plural: "services" };
pub(crate) const CONFIG_MAPS: Resource = Resource { group: "", version: "v1", plural: "configmaps" };
pub(crate) const SECRETS: Resource = Resource { group: "", version: "v1", plural: "secrets" };
pub(crate) const SLICES: Resource = Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };
pub(crate) const LEASES: Resource = Resource { group: "coordination.k8s.io", version: "v1", plural: "leases" };
pub(crate) const QUOTAS: Resource = Resource { group: "", version: "v1", plural: "resourcequotas" };
pub(crate) const BINDINGS: Resource = Resource { group: "rbac.authorization.k8s.io", version: "v1", plural: "rolebindings" };
pub(crate) const OFFLOADINGS: Resource = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "namespaceoffloadings" };
pub(crate) const MAPS: Resource = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "namespacemaps" };
pub(crate) const SHADOW_PODS: Resource = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "shadowpods" };
pub(crate) const SHADOW_SLICES: Resource = Resource { group: "offloading.liqo.io", version: "v1beta1", plural: "shadowendpointslices" };

/// What a watch carries; it tells [`read`] how to look at an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KindId {
    /// The virtual node.
    Node,
    /// Namespaces of this cluster.
    Namespace,
    /// NamespaceOffloadings of this cluster.
    Offloading,
    /// RoleBindings of ours in this cluster.
    Binding,
    /// A NamespaceMap, at the provider.
    NamespaceMap,
    /// Pods at home that are bound to a virtual node.
    HomePod,
    /// Pods at the provider, seen from home.
    FarPod,
    /// ShadowPods.
    ShadowPod,
    /// Pods this provider made from ShadowPods.
    MadePod,
    /// Services at home.
    Service,
    /// EndpointSlices at home.
    EndpointSlice,
    /// ConfigMaps at home.
    ConfigMap,
    /// Secrets at home: no value is kept.
    Secret,
    /// ShadowEndpointSlices at the provider.
    ShadowSlice,
    /// Our copy of any copied kind: metadata only.
    Copy,
}

/// For messages.
impl fmt::Display for KindId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KindId::Node => "virtual node",
            KindId::Namespace => "Namespace",
            KindId::Offloading => "NamespaceOffloading",
            KindId::Binding => "RoleBinding",
            KindId::NamespaceMap => "NamespaceMap",
            KindId::HomePod => "Pod",
            KindId::FarPod => "Pod at the provider",
            KindId::ShadowPod => "ShadowPod",
            KindId::MadePod => "Pod of a ShadowPod",
            KindId::Service => "Service",
            KindId::EndpointSlice => "EndpointSlice",
            KindId::ConfigMap => "ConfigMap",
            KindId::Secret => "Secret",
            KindId::ShadowSlice => "ShadowEndpointSlice",
            KindId::Copy => "copy",
        })
    }
}

/// One object, reduced to what plans look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The object's namespace; empty for cluster-scoped ones.
    pub(crate) namespace: Box<str>,
    /// The object's name.
    pub(crate) name: Box<str>,
    /// Its resourceVersion; 0 if it has none that is a number.
    pub(crate) version: u64,
    pub(crate) view: SeenView,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SeenView {
    Node(node::NodeView),
    Namespace(namespace::NamespaceView),
    Offloading(Box<namespace::OffloadingView>),
    /// That it is there is all there is to know.
    Binding,
    Map(Box<namespace::MapView>),
    HomePod(pod::HomeView),
    FarPod(pod::FarView),
    Shadow(shadow::ShadowView),
    MadePod(shadow::MadeView),
    Source(SourceView),
    Slice(endpoint_slice::SliceView),
    Copy(CopyView),
}

/// A source of a copied kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceView {
    /// Changes whenever what is copied may have changed.
    pub version: u64,
    /// Opted out, or of a sort that is never copied.
    pub skipped: bool,
}

/// A copy somewhere, ours or another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyView {
    pub uid: Uid,
    pub version: u64,
    pub ours: bool,
}

/// Reads one object's JSON as `kind`. Errors say what is wrong with the object; never panics.
pub fn read(kind: KindId, json: &[u8]) -> Result<Seen, String> {
    if json.len() > budget::OBJECT_MAX {
        return Err(format!("the object has {} bytes, more than the {} that are handled", json.len(), budget::OBJECT_MAX));
    }
    match kind {
        KindId::Node => node::read(json),
        KindId::Namespace => namespace::read_namespace(json),
        KindId::Offloading => namespace::read_offloading(json),
        KindId::Binding => parse::<OnlyMeta>(json)?.metadata.seen(SeenView::Binding),
        KindId::NamespaceMap => namespace::read_map(json),
        KindId::HomePod => pod::read_home(json),
        KindId::FarPod => pod::read_far(json),
        KindId::ShadowPod => shadow::read_shadow(json),
        KindId::MadePod => shadow::read_made(json),
        KindId::Service => service::read(json),
        KindId::EndpointSlice => endpoint_slice::read(json),
        KindId::ConfigMap => config_map::read(json),
        KindId::Secret => config_map::read_secret(json),
        KindId::ShadowSlice => read_source(json),
        KindId::Copy => read_copy(json),
    }
}

/// The metadata every kind looks at.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta<'a> {
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    pub uid: Cow<'a, str>,
    #[serde(borrow, default)]
    pub resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    pub deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub owner_references: Option<Vec<Owner>>,
    #[serde(default)]
    pub generation: i64,
}

#[derive(Deserialize)]
pub(crate) struct Owner {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub uid: String,
}

impl Meta<'_> {
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub(crate) fn ours(&self) -> bool {
        self.label(super::ownership::MANAGED) == Some("true")
    }

    /// The UID of the owner of `kind`, or an empty one.
    pub(crate) fn owner(&self, kind: &str) -> Uid {
        let owners = self.owner_references.iter().flatten();
        owners.filter(|o| o.kind == kind).find_map(|o| uid(&o.uid).ok()).unwrap_or_default()
    }

    pub(crate) fn skipped(&self) -> bool {
        self.annotation(super::ownership::SKIP).is_some_and(|v| !v.eq_ignore_ascii_case("false"))
    }

    /// `view` under this object's name, if the name is one.
    pub(crate) fn seen(&self, view: SeenView) -> Result<Seen, String> {
        if self.name.is_empty() || self.name.len() > 253 || self.namespace.len() > 63 {
            return Err("metadata.name or metadata.namespace is missing or too long".into());
        }
        Ok(Seen { namespace: (&*self.namespace).into(), name: (&*self.name).into(), version: self.resource_version.parse().unwrap_or(0), view })
    }
}

/// An object of which only metadata is read.
#[derive(Deserialize)]
pub(crate) struct OnlyMeta<'a> {
    #[serde(borrow, default)]
    pub metadata: Meta<'a>,
}

/// A field that may be null as well as absent.
pub(crate) fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Parses JSON; the error names the kind of trouble and never quotes the object.
pub(crate) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|e| format!("not what its kind promises: {:?} error at line {} column {}", e.classify(), e.line(), e.column()))
}

/// Checks the length of a UID.
pub(crate) fn uid(text: &str) -> Result<Uid, String> {
    Uid::try_from(text).map_err(|_| "metadata.uid has more than 36 characters".to_string())
}

/// The UID in the answer to a call that returned the object.
pub(crate) fn uid_of(body: &[u8]) -> Uid {
    parse::<OnlyMeta>(body).ok().and_then(|o| uid(&o.metadata.uid).ok()).unwrap_or_default()
}

/// A source of which every change counts.
pub(crate) fn read_source(json: &[u8]) -> Result<Seen, String> {
    let meta = parse::<OnlyMeta>(json)?.metadata;
    let skipped = meta.skipped() || meta.deletion_timestamp.is_some();
    meta.seen(SeenView::Source(SourceView { version: super::ownership::digest([meta.resource_version.as_bytes()]), skipped }))
}

/// The metadata of a copy.
pub(crate) fn read_copy(json: &[u8]) -> Result<Seen, String> {
    let meta = parse::<OnlyMeta>(json)?.metadata;
    meta.seen(SeenView::Copy(CopyView { uid: uid(&meta.uid)?, version: super::ownership::digest([meta.resource_version.as_bytes()]), ours: meta.ours() }))
}

/// What a row is about; the peer and names in its [`Key`] are as said there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// A provider's virtual node and lease: (provider, "", "").
    Node,
    /// What a provider is asked to map: (provider, "", "").
    Map,
    /// An offloaded namespace at home: (HERE, "", namespace).
    Space,
    /// A pod: (provider, home namespace, pod).
    Pod,
    /// A copied kind: (provider, home namespace, name).
    Service,
    Slice,
    ConfigMap,
    Secret,
    /// What a consumer's map has come to: (consumer, "", "").
    Tenant,
    /// A twin namespace: (consumer, "", home namespace).
    Twin,
    /// A ShadowPod and its Pod here: (HERE, namespace, name).
    Shadow,
    /// A ShadowEndpointSlice and its EndpointSlice here: (HERE, namespace, name).
    Render,
}

impl Sort {
    pub(crate) const COUNT: usize = 12;

    /// All of them with their names, in the order of their counts.
    pub(crate) const ALL: [(Sort, &'static str); Sort::COUNT] = [
        (Sort::Node, "node"),
        (Sort::Map, "map"),
        (Sort::Space, "namespace"),
        (Sort::Pod, "pod"),
        (Sort::Service, "service"),
        (Sort::Slice, "endpoint_slice"),
        (Sort::ConfigMap, "config_map"),
        (Sort::Secret, "secret"),
        (Sort::Tenant, "tenant"),
        (Sort::Twin, "twin"),
        (Sort::Shadow, "shadow_pod"),
        (Sort::Render, "shadow_endpoint_slice"),
    ];

    /// How many rows there may be; one more is refused, and the object waits with an event until a row is free.
    pub(crate) const fn capacity(self) -> usize {
        match self {
            Sort::Node | Sort::Map | Sort::Tenant => budget::PEERS,
            Sort::Space => budget::NAMESPACES,
            Sort::Twin => budget::TWINS,
            Sort::Pod | Sort::Shadow => budget::ROWS,
            Sort::Service | Sort::Slice | Sort::ConfigMap | Sort::Secret | Sort::Render => budget::ROWS,
        }
    }
}

/// The name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub sort: Sort,
    pub peer: PeerId,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

impl Key {
    pub(crate) fn new(sort: Sort, peer: PeerId, namespace: &str, name: &str) -> Key {
        Key { sort, peer, namespace: namespace.into(), name: name.into() }
    }
}

/// What a plan wants next for its row.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing until something changes.
    Settled,
    /// The row is no longer needed.
    Forget,
    /// Look again after this long, or when something changes.
    Wait(Duration),
    /// This call; its reply is settled as `op`.
    Do(Op, Call),
}

/// What a call was for; one word, read again when the reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Update,
    Look,
    Remove,
    Status,
    Latch,
    Confirm,
    Hold,
    Finish,
    Label,
    Bind(u8),
    Quota,
    Unbind,
    Record,
    Lease,
    LeaseMake,
    LeaseRemove,
    Cordon,
    Evict,
    Complete,
}

/// What a settled reply means for the row.
#[derive(Debug)]
pub(crate) enum Next {
    /// Plan again at once.
    Again,
    /// This call first.
    Call(Op, Call),
    /// Plan again after this long.
    After(Duration),
    /// Plan again after the row's back-off.
    BackOff,
}

/// A reply was older than what the watch has told, so nothing was taken from it: planned again when the watch tells more, or after this long.
pub(crate) const STALE: Next = Next::After(Duration::from_secs(1));

/// The usual reading of a reply no kind has more to say about.
pub(crate) fn usual(reply: &Reply) -> Next {
    match reply {
        Reply::Done(_) | Reply::NotFound | Reply::Conflict => Next::Again,
        _ => Next::BackOff,
    }
}
