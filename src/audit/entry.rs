//! One event of the log. Its JSON is a contract: fields are added, never renamed (docs/audit.md lists them).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::diff::FieldChange;

/// What happened. A closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The log was opened by a process that writes it from now on.
    Opened,
    /// An object was there when the log began: its form is what later changes are compared with.
    Found,
    Create,
    Update,
    Delete,
    /// Every counting pod decides by this generation; of a gateway: by this revision.
    Ready,
    /// A pod refused a revision.
    Rejected,
    /// Networks that may relay because DNS says so have changed.
    ClientRanges,
    /// Somebody asks for something to be done or shown; written before it is.
    Act,
    /// What came of it.
    Acted,
    /// Somebody was refused.
    Refused,
    /// A standalone gateway took a changed folder.
    Reload,
    /// Retention removed what `detail.through` and before; the rest of the chain goes on from `detail.hash`.
    Expired,
}

impl Event {
    pub const fn as_str(self) -> &'static str {
        match self {
            Event::Opened => "opened",
            Event::Found => "found",
            Event::Create => "create",
            Event::Update => "update",
            Event::Delete => "delete",
            Event::Ready => "ready",
            Event::Rejected => "rejected",
            Event::ClientRanges => "clientRanges",
            Event::Act => "act",
            Event::Acted => "acted",
            Event::Refused => "refused",
            Event::Reload => "reload",
            Event::Expired => "expired",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One event. What is not known is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub at: Timestamp,
    pub event: Event,
    /// `Kind/namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The organisational unit it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The person or account, where the request was seen by somebody who had checked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Field managers that changed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managers: Vec<String>,
    /// kubectl, a GitOps controller, the gateway's API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What its author wrote into the annotation `postern.dev/reason`, or gave with the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revision that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// Changed fields beyond those listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
    /// What else there is to say of this kind of event.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Entry {
    pub fn new(at: Timestamp, event: Event) -> Self {
        Self {
            at,
            event,
            object: None,
            uid: None,
            generation: None,
            unit: None,
            user: None,
            managers: Vec::new(),
            source: None,
            reason: None,
            revision: None,
            fields: Vec::new(),
            omitted: 0,
            detail: Map::new(),
        }
    }

    pub fn about(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(object.to_string());
        self
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    /// The namespace in `Kind/namespace/name`.
    pub fn namespace(&self) -> Option<&str> {
        self.object.as_deref()?.split('/').nth(1)
    }
}
