//! The labels and annotations that make an object ours, and the names we may never take. Every plan asks here before it touches an object it did not make.
//!
//! Liqo's own words (v1.2) are kept where users or a stock Liqo read them; everything only we read is under `sluice.internal/`.

use crate::identity::ClusterId;

/// On everything we make or mark, value `true`: without it an object is never touched.
pub const MANAGED: &str = "sluice.internal/managed";
/// On ShadowPods and provider pods: the UID of the pod at home.
pub const HOME_UID: &str = "sluice.internal/home-uid";
/// On twin namespaces: the namespace's own UID, written once after it was made; one restored or copied by hand no longer matches.
pub const OWN_UID: &str = "sluice.internal/uid";
/// On reflected objects: the cluster ID they come from.
pub const ORIGIN: &str = "offloading.liqo.io/origin";
/// On reflected objects: the cluster ID they were sent to.
pub const DESTINATION: &str = "offloading.liqo.io/destination";
/// On reflected pods: the virtual node they were bound to.
pub const NODE_NAME: &str = "offloading.liqo.io/nodename";
/// On objects a provider renders from a shadow: `shadowpod` or `shadowendpointslice`.
pub const MANAGED_BY: &str = "liqo.io/managed-by";
/// On virtual nodes: `virtual-node`.
pub const TYPE: &str = "liqo.io/type";
/// The cluster a node, tenant or twin namespace belongs to.
pub const REMOTE_CLUSTER: &str = "liqo.io/remote-cluster-id";
/// On an offloaded namespace whose pods may leave.
pub const SCHEDULING: &str = "liqo.io/scheduling-enabled";
/// On twin namespaces: `<map namespace>/<map name>`.
pub const BY_MAP: &str = "liqo.io/managed-by-namespace-map";
/// On twin namespaces: the namespace's name at home.
pub const ORIGINAL_NAME: &str = "liqo.io/original-name";
/// Opts an object out of reflection.
pub const SKIP: &str = "liqo.io/skip-reflection";
/// The taint of virtual nodes.
pub const TAINT: &str = "virtual-node.liqo.io/not-allowed";
/// The daemon's namespace and ServiceAccount, the same in every cluster.
pub const DAEMON: &str = "sluice";

/// Whether a label or annotation key is ours or Liqo's to set, and so never copied from a user's or a peer's object.
pub fn reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain == "sluice.internal" || domain == "liqo.io" || domain.ends_with(".liqo.io")
}

/// Whether a namespace may never be offloaded nor serve as a twin.
pub fn forbidden_namespace(name: &str) -> bool {
    name == "default" || name.starts_with("kube-") || name.starts_with("sluice") || name.starts_with("liqo-") || name == "liqo"
}

/// Whether `name` is a DNS label (RFC 1123) of at most 63 characters.
pub fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// The default name of a namespace's twin.
pub fn twin_name(namespace: &str, home: &ClusterId) -> String {
    format!("{namespace}-{home}")
}

/// Whether an annotation of a pod may go along to a provider and onto the pod there.
pub fn carried_annotation(key: &str) -> bool {
    key.starts_with("prometheus.io/") || key == "kubectl.kubernetes.io/default-container" || key == "kubectl.kubernetes.io/restartedAt"
}

/// FNV-1a over `parts`: tells versions of an object apart, never more.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain([&0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_namespaces_are_never_twins() {
        for name in ["default", "kube-system", "sluice", "sluice-x", "liqo", "liqo-tenant-a"] {
            assert!(forbidden_namespace(name), "{name}");
        }
        assert!(!forbidden_namespace("shop"));
    }

    #[test]
    fn our_keys_cannot_be_brought_from_outside() {
        for key in [MANAGED, HOME_UID, ORIGIN, SCHEDULING, TYPE] {
            assert!(reserved(key), "{key}");
        }
        assert!(!reserved("app") && !reserved("app.kubernetes.io/name") && !reserved("notliqo.io/x"));
    }
}
