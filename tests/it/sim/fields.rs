//! Who owns which field of an object: enough of server-side apply that drift comes back and fields of others stay.
//! Lists are atomic, except owner references, which have their uid as key; so are selectors.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Who wrote, how, and through which door.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    pub name: String,
    pub apply: bool,
    pub status: bool,
}

/// Fields by manager. A field is the path to it.
pub type Fields = BTreeMap<Manager, BTreeSet<Path>>;
pub type Path = Vec<String>;

/// The API marks these as atomic: whoever applies one owns it as a whole.
fn is_selector(path: &Path) -> bool {
    path.last().is_some_and(|key| matches!(key.as_str(), "selector" | "podSelector" | "namespaceSelector"))
}

/// What an object holds, field by field.
pub fn leaves(value: &Value) -> BTreeMap<Path, Value> {
    fn walk(value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
        match value {
            Value::Object(map) if !map.is_empty() && !is_selector(path) => {
                for (key, value) in map {
                    path.push(key.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            Value::Array(list) if path.last().is_some_and(|key| key == "ownerReferences") => {
                for owner in list {
                    let mut path = path.clone();
                    path.push(owner["uid"].as_str().unwrap_or_default().to_owned());
                    found.insert(path, owner.clone());
                }
            }
            other => drop(found.insert(path.clone(), other.clone())),
        }
    }
    let mut found = BTreeMap::new();
    walk(value, &mut Vec::new(), &mut found);
    found
}

/// The same, put together again.
pub fn assemble(leaves: &BTreeMap<Path, Value>) -> Value {
    let mut root = json!({});
    for (path, value) in leaves {
        let mut at = &mut root;
        for (depth, key) in path.iter().enumerate() {
            if key == "ownerReferences" && depth + 2 == path.len() {
                let map = at.as_object_mut().expect("metadata is an object");
                let list = map.entry(key.clone()).or_insert_with(|| json!([]));
                list.as_array_mut().expect("made here").push(value.clone());
                break;
            }
            if !at.is_object() {
                *at = json!({});
            }
            let map = at.as_object_mut().expect("made so");
            let last = depth + 1 == path.len();
            at = map.entry(key.clone()).or_insert_with(|| if last { Value::Null } else { json!({}) });
            if last && !(at.as_object().is_some_and(|map| !map.is_empty()) && *value == json!({})) {
                *at = value.clone();
            }
        }
    }
    root
}

/// What managers may own: not what the API server itself keeps.
pub fn owned_part(object: &Value, status: bool) -> Value {
    let mut part = Map::new();
    if status {
        if let Some(status) = object.get("status") {
            part.insert("status".to_owned(), status.clone());
        }
        return Value::Object(part);
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                let mut meta = Map::new();
                for name in ["labels", "annotations", "ownerReferences", "finalizers"] {
                    match value.get(name) {
                        None | Some(Value::Null) => {}
                        Some(found) if found.as_object().is_some_and(Map::is_empty) => {}
                        Some(found) => drop(meta.insert(name.to_owned(), found.clone())),
                    }
                }
                if !meta.is_empty() {
                    part.insert("metadata".to_owned(), Value::Object(meta));
                }
            }
            _ => drop(part.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(part)
}

/// Server-side apply of `wish` onto `part`. Without `force` a field of somebody else is a conflict: its path.
pub fn apply(
    part: &Value,
    fields: &mut Fields,
    wish: &Value,
    who: &Manager,
    force: bool,
) -> Result<Value, Path> {
    let (mut now, wished) = (leaves(part), leaves(wish));
    now.retain(|path, value| !(path.is_empty() && *value == json!({})));
    let owned = fields.get(who).cloned().unwrap_or_default();
    let mut taken = Vec::new();
    for (path, value) in &wished {
        if path.is_empty() {
            continue;
        }
        if now.get(path) != Some(value) {
            let others = fields.iter().any(|(manager, paths)| manager != who && paths.contains(path));
            if others && !force {
                return Err(path.clone());
            }
            taken.push(path.clone());
        }
    }
    for path in taken {
        for (_, paths) in fields.iter_mut().filter(|(manager, _)| *manager != who) {
            paths.remove(&path);
        }
        // A field becomes an object, or the other way round.
        now.retain(|other, _| !(other.starts_with(&path) || path.starts_with(other)));
        now.insert(path.clone(), wished[&path].clone());
    }
    for path in owned.iter().filter(|path| !wished.contains_key(*path)) {
        let others = fields.iter().any(|(manager, paths)| manager != who && paths.contains(path));
        if !others {
            now.remove(path);
        }
    }
    fields.insert(who.clone(), wished.into_keys().filter(|path| !path.is_empty()).collect());
    fields.retain(|_, paths| !paths.is_empty());
    Ok(assemble(&now))
}

/// Books a write of any other kind: who changed a field has it.
pub fn update(before: &Value, after: &Value, fields: &mut Fields, who: &Manager) {
    let (before, after) = (leaves(before), leaves(after));
    let changed: BTreeSet<Path> = before
        .keys()
        .chain(after.keys())
        .filter(|path| !path.is_empty() && before.get(*path) != after.get(*path))
        .cloned()
        .collect();
    for paths in fields.values_mut() {
        paths.retain(|path| !changed.contains(path));
    }
    let mine = fields.entry(who.clone()).or_default();
    mine.extend(changed.into_iter().filter(|path| after.contains_key(path)));
    fields.retain(|_, paths| !paths.is_empty());
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("made so");
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[test]
fn a_field_of_somebody_else_stays_and_drift_comes_back() {
    let manager = |name: &str, apply| Manager { name: name.to_owned(), apply, status: false };
    let (ours, people) = (manager("postern", true), manager("kubectl-edit", false));
    let mut fields = Fields::new();
    let wish = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 2, "list": [1]}});
    let made = apply(&json!({}), &mut fields, &wish, &ours, true).unwrap();
    assert_eq!(made, wish);
    let mut edited = made.clone();
    merge(&mut edited, &json!({"metadata": {"labels": {"a": "x", "c": "3"}}, "spec": {"replicas": 5}}));
    update(&made, &edited, &mut fields, &people);
    let again = apply(&edited, &mut fields, &wish, &ours, true).unwrap();
    assert_eq!(
        again,
        json!({"metadata": {"labels": {"a": "1", "b": "2", "c": "3"}}, "spec": {"replicas": 2, "list": [1]}})
    );
    // What is no longer wished goes, unless somebody else has it too.
    let less = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 2}});
    let last = apply(&again, &mut fields, &less, &ours, true).unwrap();
    assert_eq!(last, json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {"replicas": 2}}));
}
