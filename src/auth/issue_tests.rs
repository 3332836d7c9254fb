//! One state a test: what each step asks, and what each answer leads to.

use super::*;

const NOW: Instant = Instant::from_boot(Duration::from_secs(100));
const OURS: &str = r#"{"metadata":{"uid":"u1","labels":{"sluice.internal/managed":"true","liqo.io/remote-cluster-id":"edge"}}}"#;
const TOKEN: &str = r#"{"spec":{"expirationSeconds":3607},"status":{"token":"a.b.c","expirationTimestamp":"2026-11-24T06:36:00Z"}}"#;

fn edge() -> ClusterId {
    "edge".parse().expect("id")
}

fn issue(exists: bool) -> Issue {
    Issue::begin(edge(), Account { namespace: "sluice".into(), name: "sluice".into() }, exists)
}

fn done(body: &str) -> Reply {
    Reply::Done(body.as_bytes().to_vec())
}

fn path(call: Option<Call>) -> String {
    call.expect("a call").path
}

#[test]
fn a_new_consumer_gets_namespace_bindings_account_and_token_in_this_order() {
    let mut it = issue(false);
    let mut bodies = Vec::new();
    for (path, reply) in [
        ("/api/v1/namespaces", OURS),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/liqo-tenant-edge/rolebindings", "{}"),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/liqo-tenant-edge/rolebindings", "{}"),
        ("/api/v1/namespaces/liqo-tenant-edge/resourcequotas", "{}"),
        ("/api/v1/namespaces/liqo-tenant-edge/serviceaccounts", "{}"),
    ] {
        let call = it.poll_call().expect("a call");
        assert_eq!((call.verb, call.path.as_str()), (Verb::Create, path));
        assert!(it.poll_call().is_none(), "one call at a time");
        let Body::Json(body) = call.body else { panic!("a body") };
        assert!(body.contains(r#""sluice.internal/managed":"true""#), "{body}");
        bodies.push(body);
        assert_eq!(it.handle_reply(done(reply), NOW), None);
    }
    assert!(bodies[1].contains(r#""name":"sluice-tenant-admin""#) && bodies[2].contains(r#""name":"sluice-tenant""#));
    assert!(bodies[3].contains(r#""count/namespacemaps.offloading.liqo.io":"4""#));
    assert!(bodies[2].contains(r#""namespace":"liqo-tenant-edge""#) && bodies[0].contains(r#""liqo.io/tenant-namespace":"true""#));
    assert_eq!(path(it.poll_call()), "/api/v1/namespaces/liqo-tenant-edge/serviceaccounts/sluice-peer/token");
    let issued = Outcome::Issued { token: "a.b.c".into(), lifetime: 3607, uid: Some("u1".into()) };
    assert_eq!(it.handle_reply(done(TOKEN), NOW), Some(issued));
}

#[test]
fn a_renewal_is_one_call_and_begins_anew_when_the_account_is_gone() {
    let mut it = issue(true);
    assert!(path(it.poll_call()).ends_with("/token"));
    assert_eq!(it.handle_reply(Reply::NotFound, NOW), None);
    assert!(it.poll_call().is_none(), "it waits a moment");
    it.handle_timeout(it.poll_timeout().expect("a time"));
    assert_eq!(path(it.poll_call()), "/api/v1/namespaces");
}

#[test]
fn what_is_there_already_is_used_if_it_bears_our_mark() {
    for (namespace, ours) in
        [(OURS, true), (&OURS.replace("true", "false"), false), (&OURS.replace("edge", "other"), false), (r#"{"metadata":{"uid":"u1"}}"#, false), ("{}", false)]
    {
        let mut it = issue(false);
        it.poll_call();
        it.handle_reply(Reply::Conflict, NOW);
        let look = it.poll_call().expect("a look");
        assert_eq!((look.verb, look.path.as_str()), (Verb::Get, "/api/v1/namespaces/liqo-tenant-edge"));
        match it.handle_reply(done(namespace), NOW) {
            None => assert!(ours && path(it.poll_call()).ends_with("rolebindings")),
            Some(Outcome::Refused(why)) => assert!(!ours && why.reason == Reason::Foreign),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_namespace_on_its_way_out_is_waited_for() {
    let mut it = issue(false);
    it.poll_call();
    it.handle_reply(Reply::Conflict, NOW);
    it.poll_call();
    let going = OURS.replace(r#""uid""#, r#""deletionTimestamp":"2026-11-24T06:36:00Z","uid""#);
    assert_eq!(it.handle_reply(done(&going), NOW), None);
    assert!(it.poll_call().is_none());
    it.handle_timeout(NOW + Duration::from_secs(1));
    it.poll_call();
    it.handle_reply(Reply::NotFound, NOW);
    it.handle_timeout(NOW + Duration::from_secs(20));
    assert_eq!(path(it.poll_call()), "/api/v1/namespaces");
}

#[test]
fn a_silent_api_server_is_asked_for_ever_and_less_often() {
    let mut it = issue(true);
    let (mut now, mut waits) = (NOW, Vec::new());
    for _ in 0..12 {
        assert!(it.poll_call().is_some());
        assert_eq!(it.handle_reply(Reply::Unreachable("reset".into()), now), None);
        let at = it.poll_timeout().expect("a time");
        waits.push(at.since(now));
        now = at;
        it.handle_timeout(now);
    }
    assert!(waits.is_sorted() && waits[0] == Duration::from_millis(100) && waits[11] == Duration::from_secs(10), "{waits:?}");
    it.poll_call();
    it.handle_reply(Reply::Throttled(Duration::from_secs(30)), now);
    assert_eq!(it.poll_timeout(), Some(now + Duration::from_secs(30)));
}

#[test]
fn a_refusal_is_final_after_a_few_tries() {
    let mut it = issue(true);
    for n in 1..=REFUSALS {
        it.handle_timeout(NOW + Duration::from_secs(3600));
        assert!(it.poll_call().is_some());
        let outcome = it.handle_reply(Reply::Refused("forbidden".into()), NOW);
        assert_eq!(outcome.is_some(), n == REFUSALS);
    }
}

#[test]
fn nonsense_instead_of_a_token_is_a_refusal() {
    for body in ["", "{}", r#"{"spec":{},"status":{"token":""}}"#] {
        let mut it = issue(true);
        it.poll_call();
        assert!(matches!(it.handle_reply(done(body), NOW), Some(Outcome::Refused(r)) if r.reason == Reason::ApiRefused));
    }
}

#[test]
fn taking_back_ends_the_account_first_and_then_only_our_own_namespace() {
    let mut it = Revoke::begin(edge(), "u1".into());
    let call = it.poll_call().expect("a call");
    assert_eq!((call.verb, call.path.as_str()), (Verb::Delete, "/api/v1/namespaces/liqo-tenant-edge/serviceaccounts/sluice-peer"));
    assert!(!it.handle_reply(done("{}"), NOW));
    it.poll_call();
    assert!(!it.handle_reply(done(OURS), NOW));
    let call = it.poll_call().expect("a call");
    let Body::Json(body) = call.body else { panic!("options") };
    assert_eq!((call.verb, call.path.as_str()), (Verb::Delete, "/api/v1/namespaces/liqo-tenant-edge"));
    assert!(body.contains(r#""preconditions":{"uid":"u1"}"#));
    assert!(!it.handle_reply(done("{}"), NOW));
    it.handle_timeout(NOW + Duration::from_secs(1));
    it.poll_call();
    assert!(it.handle_reply(Reply::NotFound, NOW));
}

#[test]
fn taking_back_leaves_a_namespace_alone_that_is_not_the_one_made() {
    for (uid, namespace) in [("u2", OURS), ("", r#"{"metadata":{"uid":"u1"}}"#)] {
        let mut it = Revoke::begin(edge(), uid.into());
        it.poll_call();
        it.handle_reply(Reply::Refused("forbidden".into()), NOW);
        it.poll_call();
        assert!(it.handle_reply(done(namespace), NOW));
    }
}
