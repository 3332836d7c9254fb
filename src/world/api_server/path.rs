//! Reads the path and query of a request as an API server does: resource, namespace, name, subresource, selectors.

use serde_json::Value;

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Plural and group, as in `pods` or `shadowpods.offloading.liqo.io`.
    pub resource: String,
    /// The `apiVersion` of objects there.
    pub api_version: String,
    /// Empty: of the cluster, or all namespaces.
    pub namespace: String,
    /// None: the collection.
    pub name: Option<String>,
    /// `status`, `token`, ...
    pub sub: Option<String>,
    /// The query, decoded, in order.
    pub query: Vec<(String, String)>,
}

impl Target {
    /// Reads `path?query`; `None` if no API server has such a path.
    pub fn parse(path: &str) -> Option<Target> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut segments = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<Vec<_>>>()?.into_iter().peekable();
        let (group, version) = match segments.next()?.as_str() {
            "api" => (String::new(), segments.next()?),
            "apis" => (segments.next()?, segments.next()?),
            _ => return None,
        };
        let mut plural = segments.next()?;
        let mut namespace = String::new();
        if plural == "namespaces" {
            let mut ahead = segments.clone();
            // `/namespaces/x/status` and `/finalize` are the namespace's own; anything else lies in it.
            if let (Some(within), Some(below)) = (ahead.next(), ahead.next())
                && below != "status"
                && below != "finalize"
            {
                (namespace, plural) = (within, below);
                segments = ahead;
            }
        }
        let name = segments.next();
        let sub = segments.next();
        if segments.next().is_some() || plural.is_empty() || name.as_deref() == Some("") {
            return None;
        }
        let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
        let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
        let query = query.split('&').filter(|q| !q.is_empty()).map(|q| {
            let (key, value) = q.split_once('=').unwrap_or((q, ""));
            Some((decode(key)?, decode(&value.replace('+', " "))?))
        });
        Some(Target { resource, api_version, namespace, name, sub, query: query.collect::<Option<_>>()? })
    }

    /// The first value of `key` in the query.
    pub fn asked(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The selectors of the query; `Err` with the API server's words if it would refuse them.
    pub fn selectors(&self) -> Result<Selectors, String> {
        let mut out = Selectors::default();
        for term in self.asked("labelSelector").unwrap_or("").split(',').filter(|t| !t.is_empty()) {
            out.0.push(label_term(term).ok_or_else(|| format!("unable to parse requirement: {term}"))?);
        }
        for term in self.asked("fieldSelector").unwrap_or("").split(',').filter(|t| !t.is_empty()) {
            let (field, value, equal) = match term.split_once("!=") {
                Some((field, value)) => (field, value, false),
                None => term.split_once("==").or_else(|| term.split_once('=')).map(|(f, v)| (f, v, true)).ok_or_else(|| format!("invalid selector: {term}"))?,
            };
            let known: &[&str] = if self.resource == "pods" { &["spec.nodeName", "status.phase"] } else { &[] };
            if !["metadata.name", "metadata.namespace"].contains(&field) && !known.contains(&field) {
                return Err(format!("field label not supported: {field}"));
            }
            let place = field.split('.').map(str::to_owned).collect();
            out.0.push(Term { place, test: if equal { Test::In(vec![value.into()]) } else { Test::NotIn(vec![value.into()]) } });
        }
        Ok(out)
    }
}

/// All terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    place: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Present,
    Absent,
}

impl Selectors {
    /// Whether `object` is selected.
    pub fn select(&self, object: &Value) -> bool {
        self.0.iter().all(|term| {
            let value = term.place.iter().try_fold(object, |at, key| at.get(key)).and_then(Value::as_str);
            match &term.test {
                Test::In(these) => these.iter().any(|v| v == value.unwrap_or("") && (value.is_some() || v.is_empty())),
                Test::NotIn(these) => !these.iter().any(|v| Some(v.as_str()) == value),
                Test::Present => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

fn label_term(term: &str) -> Option<Term> {
    let label = |key: &str| vec!["metadata".to_owned(), "labels".to_owned(), key.trim().to_owned()];
    let one = |v: &str| vec![v.trim().to_owned()];
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else if term.contains([' ', '(', ')']) {
        // Sets (`in (a, b)`) are not used by any of our calls.
        return None;
    } else {
        (term, Test::Present)
    };
    Some(Term { place: label(key), test })
}

fn decode(text: &str) -> Option<String> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = text.get(at + 1..at + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_taken_apart() {
        for (path, resource, namespace, name, sub) in [
            ("/api/v1/pods?watch=1", "pods", "", None, None),
            ("/api/v1/namespaces/shop/pods", "pods", "shop", None, None),
            ("/api/v1/namespaces/shop/pods/web-1/status", "pods", "shop", Some("web-1"), Some("status")),
            ("/api/v1/namespaces/shop", "namespaces", "", Some("shop"), None),
            ("/api/v1/namespaces/shop/status", "namespaces", "", Some("shop"), Some("status")),
            ("/apis/offloading.liqo.io/v1beta1/namespaces/a/shadowpods/b%2Fc", "shadowpods.offloading.liqo.io", "a", Some("b/c"), None),
            ("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", "leases.coordination.k8s.io", "kube-node-lease", Some("n"), None),
        ] {
            let target = Target::parse(path).expect(path);
            let found = (target.resource.as_str(), target.namespace.as_str(), target.name.as_deref(), target.sub.as_deref());
            assert_eq!(found, (resource, namespace, name, sub), "{path}");
        }
        for path in ["", "/", "/metrics", "/api/v1", "/api/v1/namespaces/a/pods/b/c/d", "/api/v1/pods/%zz"] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }

    #[test]
    fn selectors_select() {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "x/y": "1"}}, "spec": {"nodeName": "n1"}});
        for (query, is) in [
            ("labelSelector=app%3Dweb", true),
            ("labelSelector=app%3Dweb,x/y!%3D1", false),
            ("labelSelector=x/y,!z", true),
            ("labelSelector=!app", false),
            ("fieldSelector=spec.nodeName%3Dn1", true),
            ("fieldSelector=spec.nodeName!%3Dn1", false),
            ("fieldSelector=metadata.name%3Db", false),
        ] {
            let target = Target::parse(&format!("/api/v1/pods?{query}")).expect(query);
            assert_eq!(target.selectors().expect(query).select(&pod), is, "{query}");
        }
        let shadow = Target::parse("/apis/g/v1/things?fieldSelector=spec.nodeName%3Dn1").expect("a path");
        assert!(shadow.selectors().is_err(), "only the fields that Kubernetes knows can be selected by");
    }
}
