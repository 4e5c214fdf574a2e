//! Ways out that an administrator has closed for a while: a route, or a recipient domain whatever the route. Their
//! mail stays in the spool, is not attempted and so not given up (see [`super::worker`]). Who closes and opens
//! them, and where that is remembered over a restart, is the gateway's business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Closed {
    /// As logs and metrics call it: `namespace/name`, `default`, `mx`.
    Route(String),
    /// In ASCII form and lower case; not its subdomains.
    Domain(String),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Route(name) => write!(f, "route {name}"),
            Closed::Domain(name) => write!(f, "domain {name}"),
        }
    }
}

/// Since when, by whom and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since: Timestamp,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

pub type Closures = BTreeMap<Closed, Pause>;

/// A cheap handle; clones share one set.
#[derive(Debug, Clone, Default)]
pub struct Pauses(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    current: ArcSwap<Closures>,
    /// Opened again, and nobody has looked after the mail that waits for it yet.
    opened: Mutex<Closures>,
}

impl Pauses {
    pub fn current(&self) -> Arc<Closures> {
        self.0.current.load_full()
    }

    pub fn set(&self, closures: Closures) {
        // Whoever looks in between sees both, and wakes rather one too many.
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.current.swap(Arc::new(closures));
        let now = self.0.current.load();
        let gone = before.iter().filter(|(closed, _)| !now.contains_key(closed));
        opened.extend(gone.map(|(closed, pause)| (closed.clone(), pause.clone())));
    }

    /// What was opened again since the last call, however short it was closed.
    pub(super) fn take_opened(&self) -> Closures {
        std::mem::take(&mut *self.0.opened.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What closes the way of a recipient, if something does.
pub fn closed(closures: &Closures, route: &str, domain: &str) -> Option<Closed> {
    if closures.is_empty() {
        return None;
    }
    [Closed::Route(route.to_owned()), Closed::Domain(domain.to_ascii_lowercase())]
        .into_iter()
        .find(|closed| closures.contains_key(closed))
}
