//! Against a real API server, named by `SLUICE_TEST_KUBECONFIG`; left out otherwise. Works in a namespace of its own and removes it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::WallTime;
use crate::identity::PeerId;
use crate::kube::call::{Body, Call, Cluster, Forge, Verb};
use crate::kube::object::metadata;
use crate::kube::reply::Reply;
use crate::kube::watch::{Told, Watch};
use crate::shell::api::{Api, target};
use crate::shell::dial::{Through, Way};
use crate::shell::kubeconfig;
use crate::shell::listener::{Answer, Asked, Control, bind};
use crate::shell::tls::Times;

/// Objects made through the passage.
const MAPS: usize = 200;

fn here() -> WallTime {
    WallTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64))
}

async fn ask(api: &Api, verb: Verb, path: &str, body: Body) -> Reply {
    let (answers, mut heard) = mpsc::channel(1);
    api.call((), Call { to: Cluster::Home, verb, path: path.to_owned(), body }, answers);
    timeout(Duration::from_secs(20), heard.recv()).await.expect("in time").expect("an answer").1
}

fn json(text: &str) -> Body {
    Body::Json(text.to_owned())
}

type Heard = mpsc::Receiver<(u32, Told<String>)>;

fn open(api: &Api, id: u32, path: String, from: Option<String>) -> Heard {
    let (mailbox, heard) = mpsc::channel(4);
    api.open_watch(id, Watch { on: Cluster::Home, path, from }, |json| metadata(json).map(|m| m.name.into_owned()), mailbox);
    heard
}

async fn next(heard: &mut Heard) -> Told<String> {
    timeout(Duration::from_secs(20), heard.recv()).await.expect("in time").expect("told").1
}

/// Anonymous memory of this process in KiB.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
#[ignore = "needs an API server, named by SLUICE_TEST_KUBECONFIG"]
async fn calls_and_watches_work_on_a_real_api_server() {
    let path = std::env::var("SLUICE_TEST_KUBECONFIG").expect("SLUICE_TEST_KUBECONFIG");
    let access = kubeconfig::from_file(Path::new(&path), &kubeconfig::read_file).expect("a kubeconfig");
    let (notices, _heard) = mpsc::channel(4);
    let api = Api::new(notices, 3);
    api.set_target(Cluster::Home, target(&access, &Times::new(here)).await.expect("a target"));

    // A namespace that is being deleted keeps its name for a while.
    let name = format!("sluice-api-test-{}", std::process::id());
    let place = format!("/api/v1/namespaces/{name}");
    let space = ask(&api, Verb::Create, "/api/v1/namespaces", json(&format!(r#"{{"metadata":{{"name":"{name}"}}}}"#))).await;
    assert!(matches!(space, Reply::Done(_) | Reply::Conflict), "{space:?}");
    let maps = format!("{place}/configmaps");
    // The controller-manager puts its own into every namespace.
    let watched = format!("{maps}?fieldSelector=metadata.name%21%3Dkube-root-ca.crt");
    let one = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one"},"data":{"a":"1"}}"#;
    assert!(matches!(ask(&api, Verb::Create, &maps, json(one)).await, Reply::Done(_)));
    assert_eq!(ask(&api, Verb::Create, &maps, json(one)).await, Reply::Conflict);

    let mut heard = open(&api, 1, watched.clone(), None);
    assert_eq!(next(&mut heard).await, Told::Seen("one".into()));
    let Told::Synced(version) = next(&mut heard).await else { panic!("not synced") };
    assert!(matches!(ask(&api, Verb::Merge, &format!("{maps}/one"), json(r#"{"data":{"a":"2"}}"#)).await, Reply::Done(_)));
    assert_eq!(next(&mut heard).await, Told::Seen("one".into()));
    let copy = Body::Forge(Forge {
        from: Cluster::Home,
        path: format!("{maps}/one"),
        make: Box::new(|source| Ok(format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"two"}},"data":{{"size":"{}"}}}}"#, source.len()))),
    });
    assert!(matches!(ask(&api, Verb::Apply, &format!("{maps}/two"), copy).await, Reply::Done(_)));
    assert_eq!(next(&mut heard).await, Told::Seen("two".into()));
    let wrong = ask(&api, Verb::Delete, &format!("{maps}/two"), json(r#"{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}"#)).await;
    assert_eq!(wrong, Reply::Conflict);
    assert!(matches!(ask(&api, Verb::Delete, &format!("{maps}/one"), Body::None).await, Reply::Done(_)));
    assert_eq!(next(&mut heard).await, Told::Gone("one".into()));
    assert_eq!(ask(&api, Verb::Get, &format!("{maps}/one"), Body::None).await, Reply::NotFound);
    assert!(matches!(ask(&api, Verb::Create, &maps, json("{")).await, Reply::Refused(_)));

    api.drop_connections(Cluster::Home);
    let Told::Bookmark(last) = next(&mut heard).await else { panic!("no bookmark") };
    assert_eq!(next(&mut heard).await, Told::Cut);
    assert_ne!(last, version);
    let mut heard = open(&api, 1, watched.clone(), Some(version));
    for expected in [Told::Seen("one".into()), Told::Seen("two".into()), Told::Gone("one".into())] {
        assert_eq!(next(&mut heard).await, expected, "what was told after the version is told again");
    }
    assert!(matches!(next(&mut open(&api, 3, "/api/v1/nonsense".into(), None)).await, Told::Refused(why) if why.starts_with("404")));

    let before = anonymous();
    let mut kept = Vec::new();
    for count in [1, 20, 60] {
        for n in kept.len()..count {
            let mut heard = open(&api, 100 + n as u32, format!("{maps}?labelSelector=x%3D{n}"), None);
            while !matches!(next(&mut heard).await, Told::Synced(_)) {}
            kept.push(heard);
        }
        println!("{count} open TLS watches: {} KiB of anonymous memory more", anonymous() - before);
    }

    // The same server as a peer's, behind its API passage.
    let mut far = target(&access, &Times::new(here)).await.expect("a target");
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Some("lo")).expect("a listener");
    let (requests, mut asked) = mpsc::channel::<Asked>(1);
    let way = Way { to: listener.local_addr().expect("an address"), through: Some(Through { source: [127, 0, 1, 7].into(), interface: "lo".into() }) };
    let control = Control::serve(listener, far.way.to, requests);
    tokio::spawn(async move {
        while let Some(asked) = asked.recv().await {
            let _ = asked.answer.send(if asked.bearer.as_deref() == Some("proof") { Answer::Passage } else { Answer::Json(401, Vec::new()) });
        }
    });
    (far.way, far.passage) = (way, Some("proof".into()));
    let peer = Cluster::Peer(PeerId(4));
    api.set_target(peer, far);
    let (mailbox, mut heard) = mpsc::channel(4);
    api.open_watch(9, Watch { on: peer, path: watched.clone(), from: None }, |json| metadata(json).map(|m| m.name.into_owned()), mailbox);
    while !matches!(next(&mut heard).await, Told::Synced(_)) {}
    let (answers, mut made) = mpsc::channel(8);
    let begun = Instant::now();
    let (mut sent, mut answered, mut seen) = (0, 0, 0);
    while answered < MAPS || seen < MAPS {
        while sent < MAPS && api.has_room() {
            let body = format!(r#"{{"metadata":{{"name":"m{sent}"}},"data":{{"x":"{}"}}}}"#, "y".repeat(4000));
            api.call(sent, Call { to: peer, verb: Verb::Create, path: maps.clone(), body: Body::Json(body) }, answers.clone());
            sent += 1;
        }
        tokio::select! {
            reply = made.recv() => { assert!(matches!(reply, Some((_, Reply::Done(_)))), "{reply:?}"); answered += 1; }
            told = next(&mut heard) => { assert!(matches!(told, Told::Seen(_) | Told::Bookmark(_)), "{told:?}"); seen += usize::from(matches!(told, Told::Seen(_))); }
        }
    }
    println!("{MAPS} objects made and seen through a passage: {} ms, {:?} open, refused {:?}", begun.elapsed().as_millis(), control.open(), control.refusals());
    control.close([127, 0, 1, 7].into());
    while next(&mut heard).await != Told::Cut {}
    assert!(matches!(ask(&api, Verb::Delete, &place, Body::None).await, Reply::Done(_)));
}
