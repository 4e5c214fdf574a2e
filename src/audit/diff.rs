//! What differs between two forms of an object, field by field, in words that can be kept for years: bounded, and
//! without secrets. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Fields of one change that are listed; of more, only their number.
pub const MOST: usize = 200;
/// Characters of a text that are shown.
const SHOWN: usize = 512;
/// Entries of a list that are shown as added or removed.
const ENTRIES: usize = 50;
/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// One field that is not what it was. `old` absent: it was not there; `new` absent: it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// `spec.action.reject.notice`, `spec.hosts[0].port`, `metadata.labels.team`.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
    /// Field managers to whom it belongs now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

/// The changes, and how many there are beyond those. `owner` says whose a field is.
pub fn diff(
    old: &Value,
    new: &Value,
    owner: &dyn Fn(&[Step<'_>]) -> Vec<String>,
) -> (Vec<FieldChange>, usize) {
    let mut walk = Walk { path: Vec::new(), changes: Vec::new(), omitted: 0, owner };
    walk.compare(Some(old), Some(new));
    (walk.changes, walk.omitted)
}

struct Walk<'a> {
    path: Vec<Step<'a>>,
    changes: Vec<FieldChange>,
    omitted: usize,
    owner: &'a dyn Fn(&[Step<'_>]) -> Vec<String>,
}

impl<'a> Walk<'a> {
    fn compare(&mut self, old: Option<&'a Value>, new: Option<&'a Value>) {
        if old == new {
            return;
        }
        match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => self.objects(Some(old), Some(new)),
            // A part that came or went as a whole is still told field by field.
            (Some(Value::Object(old)), None) if !old.is_empty() => self.objects(Some(old), None),
            (None, Some(Value::Object(new))) if !new.is_empty() => self.objects(None, Some(new)),
            (Some(Value::Array(old)), Some(Value::Array(new))) => self.lists(old, new),
            _ => self.note(old.map(|value| self.shown(value)), new.map(|value| self.shown(value))),
        }
    }

    fn objects(&mut self, old: Option<&'a Map<String, Value>>, new: Option<&'a Map<String, Value>>) {
        let names: BTreeMap<&'a str, ()> =
            old.into_iter().chain(new).flat_map(Map::keys).map(|name| (name.as_str(), ())).collect();
        for name in names.into_keys() {
            self.path.push(Step::Field(name));
            let of = |map: Option<&'a Map<String, Value>>| map.and_then(|map| map.get(name));
            self.compare(of(old), of(new));
            self.path.pop();
        }
    }

    /// Lists of plain values by what came and went; of objects, place by place.
    fn lists(&mut self, old: &'a [Value], new: &'a [Value]) {
        let plain = |list: &[Value]| list.iter().all(|value| !value.is_object() && !value.is_array());
        if !plain(old) || !plain(new) {
            for at in 0..old.len().max(new.len()) {
                self.path.push(Step::Item(at));
                self.compare(old.get(at), new.get(at));
                self.path.pop();
            }
            return;
        }
        let (gone, come) = (missing(old, new), missing(new, old));
        if gone.is_empty() && come.is_empty() {
            // The same in another order.
            return self.note(Some(self.some_of(old.iter())), Some(self.some_of(new.iter())));
        }
        let part = |of: Vec<&Value>, name: &str| {
            (!of.is_empty()).then(|| json!({ name: self.some_of(of.iter().copied()) }))
        };
        let (removed, added) = (part(gone, "removed"), part(come, "added"));
        self.note(removed, added);
    }

    fn some_of<'v>(&self, values: impl ExactSizeIterator<Item = &'v Value>) -> Value {
        let all = values.len();
        let mut shown: Vec<Value> = values.take(ENTRIES).map(|value| self.shown(value)).collect();
        if all > ENTRIES {
            shown.push(format!("… and {} more", all - ENTRIES).into());
        }
        shown.into()
    }

    fn shown(&self, value: &Value) -> Value {
        let field = self.path.iter().rev().find_map(|step| match step {
            Step::Field(name) => Some(*name),
            Step::Item(_) => None,
        });
        clean(field.unwrap_or_default(), value)
    }

    fn note(&mut self, old: Option<Value>, new: Option<Value>) {
        if self.changes.len() == MOST {
            self.omitted += 1;
            return;
        }
        let by = (self.owner)(&self.path);
        self.changes.push(FieldChange { path: text(&self.path), old, new, by });
    }
}

/// Those of `of` that `other` has not, or has fewer times.
fn missing<'v>(of: &'v [Value], other: &[Value]) -> Vec<&'v Value> {
    let mut left: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    for value in other {
        *left.entry(value.to_string()).or_default() += 1;
    }
    let is_missing = |value: &&Value| match left.get_mut(&value.to_string()) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    of.iter().filter(is_missing).collect()
}

fn text(path: &[Step<'_>]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for step in path {
        let _ = match step {
            Step::Item(at) => write!(text, "[{at}]"),
            // Keys of labels and annotations have dots themselves.
            Step::Field(name) if name.contains('.') => write!(text, "[\"{name}\"]"),
            Step::Field(name) if text.is_empty() => write!(text, "{name}"),
            Step::Field(name) => write!(text, ".{name}"),
        };
    }
    text
}

/// A value as it may be kept. Objects of ours hold references and no secrets; what somebody put in a wrong place
/// is not spread further.
pub fn clean(field: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if is_secret(field) => REDACTED.into(),
        Value::String(text) => short(&without_secrets(text)).into(),
        Value::Array(list) => {
            let mut shown: Vec<Value> = list.iter().take(ENTRIES).map(|value| clean(field, value)).collect();
            if list.len() > ENTRIES {
                shown.push(format!("… and {} more", list.len() - ENTRIES).into());
            }
            shown.into()
        }
        Value::Object(map) => {
            map.iter().map(|(name, value)| (name.clone(), clean(name, value))).collect::<Map<_, _>>().into()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn is_secret(field: &str) -> bool {
    let field = field.rsplit('/').next().unwrap_or(field).to_ascii_lowercase();
    // `passwordRef` and the like are objects, and named otherwise.
    ["password", "passwd", "secret", "token", "privatekey", "private-key", "apikey", "api-key"].iter().any(
        |name| field == *name || field.ends_with(&format!("-{name}")) || field.ends_with(&format!(".{name}")),
    )
}

/// `scheme://user:password@host` without the password; a private key not at all.
fn without_secrets(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains("PRIVATE KEY-----") {
        return REDACTED.into();
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((login, host)) if login.contains(':') => {
            let user = login.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:{REDACTED}@{host}{}", &rest[authority.len()..]).into()
        }
        _ => text.into(),
    }
}

/// A long text is known again by its hash.
fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => {
            format!("{}… ({} octets, blake3 {})", &text[..end], text.len(), blake3::hash(text.as_bytes()))
        }
    }
}
