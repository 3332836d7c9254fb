//! Gets the cluster ready at start, on a thread of its own because it blocks: applies what is missing with the administrator's kubeconfig,
//! mints the daemon's own token, looks at the nodes, and forgets the administrator.
//!
//! While the API server does not answer it tries again, for ever: the tunnel is up meanwhile. What trying again will not change ends the daemon.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::kubeconfig::{self, Access, Credential};
use super::log::log;
use super::setup;
use super::tls::Times;
use crate::cli::admin::{Admin, explain};
use crate::identity::Prefix;
use crate::kube::call::Verb;
use crate::kube::reply::Reply;

/// How long the daemon's own token is asked for, in seconds.
pub const TOKEN_LIFE: u64 = 3600;
/// The pause after a try that found no API server, doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What the daemon is to know of its cluster.
#[derive(Debug)]
pub struct Prepared {
    /// The API server: where, under which name, whom to trust. Its credential is the daemon's own.
    pub access: Access,
    /// The address of the API server.
    pub address: SocketAddr,
    /// The daemon's token.
    pub token: String,
    /// How long it lives from now; none if somebody else renews it.
    pub lifetime: Option<Duration>,
    /// The names of the real nodes.
    pub nodes: Vec<String>,
    /// The nodes' architecture, as Kubernetes names it.
    pub architecture: String,
    /// The kubelets' version.
    pub version: String,
}

/// Where to look, and what must hold.
#[derive(Clone, Debug)]
pub struct Order {
    /// At which times the API server's certificate may be valid.
    pub times: Times,
    /// The administrator's kubeconfig.
    pub kubeconfig: String,
    /// The pod prefix that was configured.
    pub pods: Prefix,
}

/// What the driver hears of it.
#[derive(Debug)]
pub enum Told {
    /// It is tried again; why.
    Waits(String),
    /// It is over.
    Ended(Box<Result<Prepared, String>>),
}

/// Gets the cluster ready; blocks until it is, or until it is clear that it will not be. `waits` hears why it is tried again.
///
/// # Errors
/// What is wrong, for the person who started the daemon.
pub fn prepare(order: &Order, waits: &mut dyn FnMut(String)) -> Result<Prepared, String> {
    let (mut pause, mut told) = (PAUSE.0, String::new());
    loop {
        let why = match once(order) {
            Ok(prepared) => return Ok(prepared),
            Err(Failed::Final(why)) => return Err(why),
            Err(Failed::NotNow(why)) => why,
        };
        if told.is_empty() {
            log!(Warn, "prepare", "{why}; trying again, the tunnel is up meanwhile");
        }
        if told != why {
            waits(why.clone());
            told = why;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

enum Failed {
    NotNow(String),
    Final(String),
}

fn once(order: &Order) -> Result<Prepared, Failed> {
    let path = Path::new(&order.kubeconfig);
    let administrator = path.exists();
    let access = if administrator {
        kubeconfig::from_file(path, &kubeconfig::read_file)
    } else {
        let variable = |name| std::env::var(name).ok();
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
        kubeconfig::mounted(Path::new(kubeconfig::MOUNTED), host.as_deref(), port.as_deref(), &kubeconfig::read_file)
            .map_err(|_| format!("there is no kubeconfig at {} and no mounted ServiceAccount; name one with --kubeconfig PATH", order.kubeconfig))
    }
    .map_err(Failed::Final)?;
    let address = resolve(&access.host, access.port).map_err(Failed::NotNow)?;
    let admin = Admin::new(&access, &order.times).map_err(Failed::Final)?;
    match admin.call(Verb::Get, "/version", None) {
        Reply::Done(_) => {}
        reply @ (Reply::Unreachable(_) | Reply::Throttled(_)) => return Err(Failed::NotNow(explain(&format!("the API server {}", admin.server()), &reply))),
        reply => return Err(Failed::Final(explain(&format!("the API server {}", admin.server()), &reply))),
    }
    let again = |why: String| match admin.call(Verb::Get, "/version", None) {
        Reply::Unreachable(_) | Reply::Throttled(_) => Failed::NotNow(why),
        _ => Failed::Final(why),
    };
    let (token, lifetime) = match (&access.credential, administrator) {
        (Credential::TokenFile(_, token), false) => (token.clone(), None),
        _ => {
            setup::apply(&admin, &mut |line| log!(Info, "prepare", "{line}")).map_err(again)?;
            let minted = setup::mint(&admin, TOKEN_LIFE).map_err(again)?;
            (minted.token, Some(Duration::from_secs(minted.seconds)))
        }
    };
    let nodes = nodes(&admin).map_err(again)?;
    whole(&nodes, order.pods).map_err(Failed::Final)?;
    let first = nodes.first();
    Ok(Prepared {
        address,
        token,
        lifetime,
        architecture: first.map_or_else(String::new, |n| n.status.node_info.architecture.clone()),
        version: first.map_or_else(String::new, |n| n.status.node_info.kubelet_version.clone()),
        nodes: nodes.into_iter().map(|n| n.metadata.name).collect(),
        access,
    })
}

#[derive(Deserialize)]
struct Nodes {
    items: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(rename = "podCIDR", default)]
    pod_cidr: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    node_info: NodeInfo,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct NodeInfo {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    kubelet_version: String,
}

/// The real nodes.
fn nodes(admin: &Admin) -> Result<Vec<Node>, String> {
    let reply = admin.call(Verb::Get, "/api/v1/nodes?limit=200", None);
    let Reply::Done(body) = reply else { return Err(explain("the list of nodes", &reply)) };
    let all: Nodes = serde_json::from_slice(&body).map_err(|e| format!("the list of nodes cannot be read: {e}"))?;
    Ok(all.items.into_iter().filter(|n| n.metadata.labels.get("liqo.io/type").map(String::as_str) != Some("virtual-node")).collect())
}

/// Whether Sluice can serve this cluster.
fn whole(nodes: &[Node], pods: Prefix) -> Result<(), String> {
    if nodes.len() > 1 {
        let names: Vec<&str> = nodes.iter().take(4).map(|n| n.metadata.name.as_str()).collect();
        return Err(format!(
            "this cluster has {} nodes ({}{}); sluice serves clusters of one node for now, as pods on the others would have no route to a peer",
            nodes.len(),
            names.join(", "),
            if nodes.len() > 4 { ", ..." } else { "" }
        ));
    }
    for node in nodes {
        let Some(cidr) = &node.spec.pod_cidr else { continue };
        match cidr.parse::<Prefix>() {
            Ok(prefix) if pods.contains(prefix.address()) && prefix.length() >= pods.length() => {}
            _ => {
                return Err(format!(
                    "node {} has the pod prefix {cidr}, the configuration says pods = {pods}; correct it (K3s: --cluster-cidr)",
                    node.metadata.name
                ));
            }
        }
    }
    Ok(())
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut found = (host, port).to_socket_addrs().map_err(|e| format!("the API server's host {host} cannot be resolved: {e}"))?;
    found.next().ok_or_else(|| format!("the API server's host {host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> Node {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"podCIDR":"{cidr}"}},"status":{{"nodeInfo":{{"architecture":"arm64"}}}}}}"#);
        serde_json::from_str(&json).expect("a node")
    }

    #[test]
    fn a_cluster_of_several_nodes_or_with_other_prefixes_is_refused_with_a_word() {
        let pods: Prefix = "10.42.0.0/16".parse().expect("a prefix");
        assert_eq!(whole(&[node("a", "10.42.0.0/24")], pods), Ok(()));
        assert_eq!(whole(&[], pods), Ok(()));
        assert!(whole(&[node("a", "10.42.0.0/24"), node("b", "10.42.1.0/24")], pods).unwrap_err().contains("2 nodes (a, b)"));
        assert!(whole(&[node("a", "10.244.0.0/24")], pods).unwrap_err().contains("pods = 10.42.0.0/16"));
        assert!(whole(&[node("a", "fd00::/64")], pods).is_err());
    }
}
