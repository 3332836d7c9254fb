//! How one JSON value changes another: merge patch (RFC 7386) and a simplified server-side apply.
//!
//! Apply is simpler than the real one in that lists are whole (atomic) but for those of containers, ports and the like, which merge by
//! `name` or `ip`; and in that it knows no conflicts between managers, because all our applies are forced.

use serde_json::{Map, Value};

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies `wanted`; `before` is what the same manager applied last, so what it no longer names goes.
pub(super) fn apply(target: &mut Value, before: Option<&Value>, wanted: &Value) {
    if let Some(before) = before {
        forget(target, before, wanted);
    }
    lay(target, wanted);
}

fn forget(target: &mut Value, before: &Value, wanted: &Value) {
    let (Some(fields), Some(before)) = (target.as_object_mut(), before.as_object()) else { return };
    for (key, was) in before {
        match (wanted.get(key), fields.get_mut(key)) {
            (None, Some(now)) if was.is_object() && now.is_object() => {
                forget(now, was, &Value::Object(Map::new()));
                if now.as_object().is_some_and(Map::is_empty) {
                    fields.remove(key);
                }
            }
            (None, Some(_)) => {
                fields.remove(key);
            }
            (Some(wanted), Some(now)) => forget(now, was, wanted),
            (_, None) => {}
        }
    }
}

fn lay(target: &mut Value, wanted: &Value) {
    match (target, wanted) {
        (Value::Object(fields), Value::Object(wanted)) => {
            for (key, value) in wanted {
                lay(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(items), Value::Array(wanted)) if keyed(items) && keyed(wanted) => {
            for want in wanted {
                match items.iter_mut().find(|i| i.get("name") == want.get("name")) {
                    Some(item) => lay(item, want),
                    None => items.push(want.clone()),
                }
            }
            items.retain(|i| wanted.iter().any(|w| w.get("name") == i.get("name")));
        }
        (target, wanted) => *target = wanted.clone(),
    }
}

fn keyed(items: &[Value]) -> bool {
    !items.is_empty() && items.iter().all(|i| i.get("name").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_is_that_of_the_rfc() {
        for (target, patch, is) in [
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": [2, 3]}), json!({"a": [2, 3]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut out = target;
            merge(&mut out, &patch);
            assert_eq!(out, is);
        }
    }

    #[test]
    fn what_a_manager_no_longer_applies_goes_and_what_others_set_stays() {
        let mut object = json!({"data": {"theirs": "1"}});
        let first = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"ours": "2"}});
        apply(&mut object, None, &first);
        apply(&mut object, Some(&first), &json!({"metadata": {"labels": {"a": "1"}}}));
        assert_eq!(object, json!({"metadata": {"labels": {"a": "1"}}, "data": {"theirs": "1"}}));
    }

    #[test]
    fn lists_of_named_things_merge_by_name() {
        let mut object = json!({"containers": [{"name": "a", "image": "x", "defaulted": true}, {"name": "gone"}]});
        apply(&mut object, None, &json!({"containers": [{"name": "a", "image": "y"}, {"name": "b"}]}));
        assert_eq!(object, json!({"containers": [{"name": "a", "image": "y", "defaulted": true}, {"name": "b"}]}));
    }
}
