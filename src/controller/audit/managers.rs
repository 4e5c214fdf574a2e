//! Who changed what: the API server notes for each field manager which fields are its own, and when it wrote last.
//! Pure.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::diff::Step;

/// A field manager as an earlier form of an object had it: enough to see whether it has written since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub name: String,
    pub operation: String,
    pub time: Option<String>,
    /// Hash of the names of its fields.
    pub fields: String,
}

/// A field manager of an object as it is.
#[derive(Debug, Clone)]
pub struct Manager {
    pub known: Known,
    fields: Value,
}

/// Those who write what people mean; a status is the operator's own.
pub fn of(entries: Vec<ManagedFieldsEntry>) -> Vec<Manager> {
    let people = entries.into_iter().filter(|entry| entry.subresource.as_deref() != Some("status"));
    let managers = people.map(|entry| {
        let fields = entry.fields_v1.map(|fields| fields.0).unwrap_or_default();
        let known = Known {
            name: entry.manager.unwrap_or_default(),
            operation: entry.operation.unwrap_or_default(),
            time: entry.time.map(|time| time.0.to_string()),
            fields: blake3::hash(fields.to_string().as_bytes()).to_hex()[..16].to_owned(),
        };
        Manager { known, fields }
    });
    managers.collect()
}

/// Who has written since `before`: those who are new, and those whose time is another. (Whoever lost a field to
/// somebody else keeps his time.) Times have seconds only: of two writes by one manager in one second the second
/// shows at most in his fields, else it was the one who wrote last.
pub fn acting(before: &[Known], now: &[Manager]) -> Vec<String> {
    let same = |manager: &Known| {
        before.iter().find(|known| (&known.name, &known.operation) == (&manager.name, &manager.operation))
    };
    let at_another_time = |known: &Known| same(known).is_none_or(|before| before.time != known.time);
    let with_other_fields = |known: &Known| same(known).is_none_or(|before| before.fields != known.fields);
    let last = now.iter().filter_map(|manager| manager.known.time.as_ref()).max();
    let at_last = |known: &Known| known.time.as_ref() == last;
    let those = |chosen: &dyn Fn(&Known) -> bool| -> BTreeSet<String> {
        let chosen = now.iter().filter(|manager| chosen(&manager.known));
        chosen.map(|manager| manager.known.name.clone()).collect()
    };
    let found = [
        those(&at_another_time),
        those(&|known| with_other_fields(known) && at_last(known)),
        those(&with_other_fields),
        those(&at_last),
    ];
    found.into_iter().find(|names| !names.is_empty()).unwrap_or_default().into_iter().collect()
}

/// Whose a field is, or the nearest thing around it that is somebody's.
pub fn owners(managers: &[Manager], path: &[Step<'_>]) -> Vec<String> {
    let depth = |manager: &Manager| {
        let (mut fields, mut depth) = (&manager.fields, 0);
        for step in path {
            // Items of lists have names of their own kind; the list will do.
            let Step::Field(name) = step else { break };
            let Some(inner) = fields.get(format!("f:{name}")) else { break };
            (fields, depth) = (inner, depth + 1);
        }
        // One that owns a brother only is no owner of this.
        let named = path.iter().take_while(|step| matches!(step, Step::Field(_))).count();
        let is_leaf = fields.as_object().is_none_or(|inner| inner.is_empty() || inner.contains_key("."));
        if depth == named || (depth > 0 && is_leaf) { depth } else { 0 }
    };
    let deepest = managers.iter().map(depth).max().filter(|depth| *depth > 0);
    let Some(deepest) = deepest else { return Vec::new() };
    let mut names: Vec<String> = managers
        .iter()
        .filter(|manager| depth(manager) == deepest)
        .map(|manager| manager.known.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}
