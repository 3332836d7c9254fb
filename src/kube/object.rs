//! The metadata every Kubernetes object has, borrowed from its JSON. Views of kinds are built on it; it never holds a whole object.
//!
//! Labels and annotations stay raw until one is asked for: most objects are looked at for one key, and a map of all would be
//! an allocation a label. managedFields, a third of many objects, is passed over.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The head of an object. Absent texts are empty.
#[derive(Clone, Debug, Deserialize)]
pub struct Object<'a> {
    /// `metadata`.
    #[serde(borrow)]
    pub metadata: Metadata<'a>,
}

/// `metadata` of an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// Name, unique in its namespace and kind.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Namespace; empty for cluster-scoped objects.
    #[serde(borrow, default)]
    pub namespace: Cow<'a, str>,
    /// UID: another one is another object.
    #[serde(borrow, default)]
    pub uid: Cow<'a, str>,
    /// Version of this state.
    #[serde(borrow, default)]
    pub resource_version: Cow<'a, str>,
    /// Counts changes of the spec; 0 where the kind has none.
    #[serde(default)]
    pub generation: i64,
    /// When it was made, RFC 3339.
    #[serde(borrow, default)]
    pub creation_timestamp: Option<Cow<'a, str>>,
    /// Set once deletion was asked for, RFC 3339.
    #[serde(borrow, default)]
    pub deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
}

/// Reads the metadata of an object's JSON, or says in a few words why there is none.
pub fn metadata(json: &[u8]) -> Result<Metadata<'_>, String> {
    match serde_json::from_slice::<Object<'_>>(json) {
        Ok(Object { metadata }) if !metadata.name.is_empty() => Ok(metadata),
        Ok(_) => Err("the object has no name".to_owned()),
        Err(e) => Err(format!("the object's metadata cannot be read: {e}")),
    }
}

impl<'a> Metadata<'a> {
    /// Whether deletion was asked for.
    pub fn is_leaving(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<Cow<'a, str>> {
        self.labels.and_then(|map| value(map, key))
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<Cow<'a, str>> {
        self.annotations.and_then(|map| value(map, key))
    }
}

/// The text at `key` of a JSON object; none where it is absent or no text.
fn value<'a>(map: &'a RawValue, key: &str) -> Option<Cow<'a, str>> {
    struct Find<'k>(&'k str);

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = Option<Cow<'de, str>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
                if key == self.0 {
                    found = Some(map.next_value::<Text<'de>>()?.0);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_str(map.get()).deserialize_map(Find(key)).ok().flatten()
}

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &[u8] = br#"{"kind":"Pod","metadata":{"name":"web","namespace":"shop","uid":"u-1","resourceVersion":"42","generation":3,
        "deletionTimestamp":"2026-11-24T05:36:33Z","labels":{"app":"web","odd":"a\"b"},"annotations":null,"managedFields":[{"x":{}}]},"spec":{}}"#;

    #[test]
    fn the_head_of_an_object_is_read_without_the_rest() {
        let meta = metadata(POD).expect("metadata");
        assert_eq!((&*meta.name, &*meta.namespace, &*meta.uid, &*meta.resource_version, meta.generation), ("web", "shop", "u-1", "42", 3));
        assert!(meta.is_leaving());
        assert!(matches!(meta.name, Cow::Borrowed(_)));
    }

    #[test]
    fn labels_are_found_when_asked_for() {
        let meta = metadata(POD).expect("metadata");
        assert_eq!(meta.label("app").as_deref(), Some("web"));
        assert_eq!(meta.label("odd").as_deref(), Some("a\"b"));
        assert_eq!(meta.label("none"), None);
        assert_eq!(meta.annotation("app"), None);
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for json in ["", "{}", "[]", r#"{"metadata":{}}"#, r#"{"metadata":{"name":""}}"#, r#"{"metadata":{"name":7}}"#, "{\"metadata\":{\"name\":\"a"] {
            assert!(metadata(json.as_bytes()).is_err(), "{json}");
        }
        let meta = metadata(br#"{"metadata":{"name":"a","labels":7,"annotations":{"k":1}}}"#).expect("metadata");
        assert_eq!((meta.label("k"), meta.annotation("k")), (None, None));
    }
}
