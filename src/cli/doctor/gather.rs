//! Looks at everything a diagnosis needs, at once and within [`WHOLE`]: the daemon over its socket, the host, the API server with the
//! administrator's kubeconfig, and the names of peers. What does not answer in time is a fact too.

use std::net::ToSocketAddrs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::facts::{Api, Daemon, Facts, Node, Place, Settings};
use crate::cli::Stopwatch;
use crate::cli::admin::{Admin, explain};
use crate::cli::protocol::{Failure, Request, Status};
use crate::cli::socket;
use crate::config::Config;
use crate::kube::call::Verb;
use crate::kube::reply::Reply;
use crate::shell::kubeconfig::{from_file, read_file};
use crate::shell::tls::Times;
use crate::shell::{inspect, setup, time};

/// The longest all of it may take.
const WHOLE: Duration = Duration::from_secs(12);
/// How long the daemon may take to look around and answer.
const DAEMON: Duration = Duration::from_secs(7);
/// How long a name may take to resolve.
const NAMES: Duration = Duration::from_secs(4);
/// Candidates that are looked up.
const PLACES: usize = 32;

/// All facts. `socket`: the daemon's, if it was named.
pub(super) fn gather(socket: Option<String>, configured: Result<Config, String>) -> Facts {
    let began = Stopwatch::start();
    let (configuration, config) = match configured {
        Ok(config) => (None, config),
        Err(why) => (Some(why), Config::default()),
    };
    let path = socket.unwrap_or_else(|| config.socket.clone());
    let daemon = daemon(&path);
    let settings = settings(&config, path, &daemon);
    let api = begin({
        let kubeconfig = settings.kubeconfig.clone();
        move |told| api(&kubeconfig, told)
    });
    let candidates: Vec<String> = match &daemon {
        Daemon::Answers(status) => status.peers.iter().flat_map(|p| p.tunnel.candidates.iter().cloned()).take(PLACES).collect(),
        _ => Vec::new(),
    };
    let lookups: Vec<(String, Receiver<Place>)> = candidates
        .into_iter()
        .map(|text| {
            let name = text.clone();
            (text, begin(move |told| drop(told.send(place(&name)))))
        })
        .collect();
    let host = inspect::host(&settings.interface, settings.port);
    let state = inspect::state(&settings.state);
    let places = lookups
        .into_iter()
        .map(|(text, found)| {
            let late = || Place { text, addresses: Err(format!("no answer from DNS in {} s", NAMES.as_secs())), unrouted: None };
            found.recv_timeout(NAMES.saturating_sub(began.passed()).max(Duration::from_millis(500))).unwrap_or_else(|_| late())
        })
        .collect();
    let api = last(&api, WHOLE.saturating_sub(began.passed()));
    Facts { version: env!("CARGO_PKG_VERSION").to_owned(), configuration, settings, host, state, api, daemon, places }
}

/// Runs `work` beside; a thread that does not come to its end goes with the program.
#[expect(clippy::disallowed_methods, reason = "names and API servers may hang, and a diagnosis must not")]
fn begin<T: Send + 'static>(work: impl FnOnce(&Sender<T>) + Send + 'static) -> Receiver<T> {
    let (told, heard) = channel();
    std::thread::spawn(move || work(&told));
    heard
}

/// What was told last within `limit`.
fn last(told: &Receiver<Api>, limit: Duration) -> Api {
    let began = Stopwatch::start();
    let mut api = Api::default();
    loop {
        match told.recv_timeout(limit.saturating_sub(began.passed())) {
            Ok(newer) => api = newer,
            Err(RecvTimeoutError::Disconnected) => return api,
            Err(RecvTimeoutError::Timeout) => {
                if api.version.is_none() && api.kubeconfig.is_none() && api.refused.is_none() {
                    api.silent.get_or_insert_with(|| "no answer in time".to_owned());
                }
                return api;
            }
        }
    }
}

fn daemon(path: &str) -> Daemon {
    let asked = |verb: &str| socket::ask_within(path, &Request::new(verb), DAEMON, &mut |_| {});
    let answer = match asked("look") {
        // A daemon from before there was this verb.
        Err(Failure { reason, .. }) if reason == "unknown-verb" => asked("status"),
        answer => answer,
    };
    match answer {
        Ok(done) => done.status.map_or_else(|| Daemon::Mute("the answer holds no status".to_owned()), |status| Daemon::Answers(Box::new(status))),
        Err(failure) => match failure.reason.as_str() {
            "not-running" => Daemon::Absent,
            "not-root" => Daemon::Forbidden,
            "mismatch" => Daemon::Mute("it is of another version, or no sluice".to_owned()),
            _ => Daemon::Mute(failure.message),
        },
    }
}

/// What is in force at the daemon, else what is configured.
fn settings(config: &Config, socket: String, daemon: &Daemon) -> Settings {
    let none = Status::default();
    let status = if let Daemon::Answers(status) = daemon { status } else { &none };
    let of = |key: &str| status.settings.iter().find(|s| s.key == key).map(|s| s.value.as_str());
    let text = |key: &str, otherwise: &str| of(key).unwrap_or(otherwise).to_owned();
    let prefix = |key: &str, otherwise| of(key).and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    Settings {
        state: text("state", &config.state),
        kubeconfig: text("kubeconfig", &config.kubeconfig),
        interface: text("interface", &config.interface),
        port: of("port").and_then(|v| v.parse().ok()).unwrap_or(config.port),
        pods: prefix("pods", config.pods),
        services: prefix("services", config.services),
        external: prefix("external", config.external),
        socket,
    }
}

fn place(text: &str) -> Place {
    let addresses = text.to_socket_addrs().map(|all| all.take(8).collect::<Vec<_>>()).map_err(|why| why.to_string());
    let addresses = addresses.and_then(|all| if all.is_empty() { Err("it has no address".to_owned()) } else { Ok(all) });
    let reasons: Vec<Option<String>> = addresses.iter().flatten().map(|to| inspect::unrouted(*to)).collect();
    // One that can be reached is enough.
    let unrouted = if reasons.iter().all(Option::is_some) { reasons.into_iter().flatten().next() } else { None };
    Place { text: text.to_owned(), addresses, unrouted }
}

/// Asks the API server step by step; each is told as soon as it is known.
fn api(kubeconfig: &str, told: &Sender<Api>) {
    let mut api = Api { server: kubeconfig.to_owned(), ..Api::default() };
    let access = match from_file(std::path::Path::new(kubeconfig), &read_file) {
        Ok(access) => access,
        Err(why) => {
            api.kubeconfig = Some(why);
            return drop(told.send(api));
        }
    };
    api.server = format!("https://{}:{}", access.host, access.port);
    let _ = told.send(api.clone());
    let admin = match Admin::new(&access, &Times::new(time::wall)) {
        Ok(admin) => admin,
        Err(why) => {
            api.kubeconfig = Some(why);
            return drop(told.send(api));
        }
    };
    match admin.call(Verb::Get, "/version", None) {
        Reply::Done(body) => api.version = version(&body),
        Reply::Unreachable(why) => {
            api.silent = Some(why);
            return drop(told.send(api));
        }
        other => {
            api.refused = Some(explain("it", &other));
            return drop(told.send(api));
        }
    }
    api.clock_ahead = admin.clock_ahead();
    let _ = told.send(api.clone());
    match admin.call(Verb::Get, "/api/v1/nodes?limit=200", None) {
        Reply::Done(body) => api.nodes = nodes(&body),
        Reply::Unauthorized | Reply::Refused(_) => api.refused = Some("it may not list nodes".to_owned()),
        _ => {}
    }
    let _ = told.send(api.clone());
    for object in setup::objects().unwrap_or_default() {
        let what = format!("{} {}", object.kind, object.title);
        let mut reply = admin.call(Verb::Get, &object.path, None);
        if let (Reply::NotFound, Some(older)) = (&reply, object.older()) {
            reply = admin.call(Verb::Get, &older.path, None);
        }
        match reply {
            Reply::Done(body) if setup::is_ours(&body) => {}
            Reply::Done(_) => api.foreign.push(what),
            Reply::NotFound => api.missing.push(what),
            _ => return drop(told.send(api)),
        }
        let _ = told.send(api.clone());
    }
    api.whole = true;
    let _ = told.send(api);
}

fn version(body: &[u8]) -> Option<(u32, u32)> {
    #[derive(serde::Deserialize)]
    struct Version {
        major: String,
        minor: String,
    }
    let version: Version = serde_json::from_slice(body).ok()?;
    // A distribution's may end in a plus sign.
    Some((version.major.parse().ok()?, version.minor.trim_end_matches('+').parse().ok()?))
}

fn nodes(body: &[u8]) -> Option<Vec<Node>> {
    let list: serde_json::Value = serde_json::from_slice(body).ok()?;
    let real = list["items"].as_array()?.iter().filter(|n| n["metadata"]["labels"]["liqo.io/type"] != "virtual-node");
    let ready =
        |n: &serde_json::Value| n["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    let text = |v: &serde_json::Value| v.as_str().map(str::to_owned);
    Some(real.map(|n| Node { name: text(&n["metadata"]["name"]).unwrap_or_default(), ready: ready(n), pods: text(&n["spec"]["podCIDR"]) }).collect())
}

/// Names of objects of ours, a line each, for the support file.
pub(super) fn objects(kubeconfig: &str, limit: Duration) -> String {
    let kubeconfig = kubeconfig.to_owned();
    let heard = begin(move |told: &Sender<String>| {
        let Ok(access) = from_file(std::path::Path::new(&kubeconfig), &read_file) else { return };
        let Ok(admin) = Admin::new(&access, &Times::new(time::wall)) else { return };
        for list in [
            "/api/v1/nodes",
            "/api/v1/namespaces",
            "/apis/rbac.authorization.k8s.io/v1/rolebindings",
            "/apis/offloading.liqo.io/v1beta1/namespaceoffloadings",
            "/apis/offloading.liqo.io/v1beta1/namespacemaps",
            "/apis/offloading.liqo.io/v1beta1/shadowpods",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
        ] {
            let Reply::Done(body) = admin.call(Verb::Get, &format!("{list}?limit=200"), None) else { continue };
            let Ok(all) = serde_json::from_slice::<serde_json::Value>(&body) else { continue };
            for object in all["items"].as_array().into_iter().flatten() {
                let metadata = &object["metadata"];
                let ours = list.contains("liqo.io") || metadata["labels"][setup::MARK] == "true" || metadata["labels"]["liqo.io/type"] == "virtual-node";
                if ours {
                    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
                    let _ =
                        told.send(format!("{} {}/{}\n", list.rsplit('/').next().unwrap_or_default(), text(&metadata["namespace"]), text(&metadata["name"])));
                }
            }
        }
    });
    let began = Stopwatch::start();
    let mut lines = String::new();
    while let Ok(line) = heard.recv_timeout(limit.saturating_sub(began.passed())) {
        lines.push_str(&line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_nodes_are_read() {
        assert_eq!(version(br#"{"major":"1","minor":"36+"}"#), Some((1, 36)));
        assert_eq!(version(b"{}"), None);
        let list = br#"{"items":[{"metadata":{"name":"a"},"spec":{"podCIDR":"10.42.0.0/24"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
            {"metadata":{"name":"hub","labels":{"liqo.io/type":"virtual-node"}}},{"metadata":{"name":"b"}}]}"#;
        let nodes = nodes(list).unwrap();
        assert_eq!(nodes.iter().map(|n| (n.name.as_str(), n.ready)).collect::<Vec<_>>(), [("a", true), ("b", false)]);
        assert_eq!(nodes[0].pods.as_deref(), Some("10.42.0.0/24"));
    }

    #[test]
    fn a_place_is_looked_up_and_one_that_is_none_says_why() {
        assert_eq!(place("127.0.0.1:9").addresses.unwrap().len(), 1);
        assert!(place("nowhere.invalid:9").addresses.is_err() && place("no port").addresses.is_err());
    }

    #[test]
    fn without_a_daemon_the_configuration_counts_and_nothing_hangs() {
        let config = Config { kubeconfig: "/nonexistent/kubeconfig".into(), state: "/nonexistent/state".into(), port: 7, ..Config::default() };
        let facts = gather(Some("/nonexistent/socket".into()), Ok(config));
        assert!(matches!(facts.daemon, Daemon::Absent));
        assert!(facts.api.kubeconfig.is_some());
        assert_eq!((facts.settings.port, facts.state.exists), (7, false));
        assert!(gather(Some("/nonexistent/socket".into()), Err("f:1: no".into())).configuration.is_some());
    }
}
