//! One cluster of the world with the daemon's way to it: carries out [`Call`]s as `shell::api` does, forging included.

use super::api_server::controllers::Controllers;
use super::api_server::{ApiServer, Faults};
use super::chance::Chance;
use crate::budget::OBJECT_MAX;
use crate::clock::{Instant, Now};
use crate::kube::call::{Body, Call, Cluster, Unfit, Verb};
use crate::kube::reply::Reply;
use std::time::Duration;

/// A cluster: its API server and its controllers.
#[derive(Debug)]
pub struct Site {
    /// Its API server.
    pub api: ApiServer,
    /// The rest of it.
    pub controllers: Controllers,
    /// How much later than usual the API server answers.
    pub slow: Duration,
}

impl Site {
    /// A cluster with one real node, `NAME-1`.
    pub fn new(name: &str, chance: &mut Chance) -> Self {
        let mut api = ApiServer::new(chance.split());
        let controllers = Controllers::new(&mut api, &[&format!("{name}-1")]);
        Site { api, controllers, slow: Duration::ZERO }
    }

    /// Lets the cluster do what is due.
    pub fn step(&mut self, now: Now) {
        self.api.wall = now.wall;
        self.controllers.step(&mut self.api, now);
    }

    /// When the cluster has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.controllers.next()
    }

    /// Has nothing to do.
    pub fn is_quiet(&mut self, now: Now) -> bool {
        self.controllers.is_quiet(&mut self.api, now)
    }

    /// From now on these things go wrong here.
    pub fn set_faults(&mut self, faults: Faults) {
        self.api.faults = faults;
    }
}

/// Carries out `call` for the daemon called `who`. `way` says which site a cluster is to it, none if it has no way or credential.
pub fn carry_out(sites: &mut [Site], who: &str, way: impl Fn(Cluster) -> Option<usize>, call: Call) -> Reply {
    let mut ask = |to: Cluster, verb: Verb, path: &str, body: Option<&str>| match way(to) {
        Some(site) => sites[site].api.carry_out(who, verb, path, body),
        None => Reply::Unreachable("the API server is not known".into()),
    };
    let body = match call.body {
        Body::None => None,
        Body::Json(json) => Some(json),
        Body::Forge(forge) => match ask(forge.from, Verb::Get, &forge.path, None) {
            Reply::Done(source) => match (forge.make)(&source) {
                Ok(json) => Some(json),
                Err(unfit) => return Reply::Unfit(unfit),
            },
            Reply::NotFound => return Reply::Unfit(Unfit::Changed),
            Reply::Unauthorized => return Reply::Unreachable("the source's API server does not accept the credential".into()),
            other => return other,
        },
    };
    if body.as_ref().is_some_and(|b| b.len() > OBJECT_MAX) {
        return Reply::Refused(format!("the object to be sent is larger than {OBJECT_MAX} bytes"));
    }
    ask(call.to, call.verb, &call.path, body.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PeerId;
    use crate::kube::call::Forge;
    use serde_json::{Value, json};

    fn copy(path: &str) -> Call {
        let make = |source: &[u8]| {
            let source: Value = serde_json::from_slice(source).map_err(|e| Unfit::Refused(e.to_string()))?;
            Ok(json!({"metadata": {"name": "copy"}, "data": source["data"]}).to_string())
        };
        let forge = Forge { from: Cluster::Home, path: path.into(), make: Box::new(make) };
        Call { to: Cluster::Peer(PeerId(0)), verb: Verb::Create, path: "/api/v1/namespaces/default/configmaps".into(), body: Body::Forge(forge) }
    }

    #[test]
    fn a_forged_body_is_made_of_the_source_as_it_is_at_that_moment() {
        let mut chance = Chance::new(1);
        let mut sites = [Site::new("edge", &mut chance), Site::new("hub", &mut chance)];
        sites[0].api.make("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}, "data": {"x": "1"}}));
        let way = |to| Some(usize::from(to != Cluster::Home));
        let source = "/api/v1/namespaces/default/configmaps/a";
        assert!(matches!(carry_out(&mut sites, "edge", way, copy(source)), Reply::Done(_)));
        assert_eq!(sites[1].api.look("/api/v1/namespaces/default/configmaps/copy").map(|o| o["data"].clone()), Some(json!({"x": "1"})));
        assert_eq!(carry_out(&mut sites, "edge", way, copy("/api/v1/namespaces/default/configmaps/b")), Reply::Unfit(Unfit::Changed));
        assert!(matches!(carry_out(&mut sites, "edge", |_| None, copy(source)), Reply::Unreachable(_)));
    }
}
