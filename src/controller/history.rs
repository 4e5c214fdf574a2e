//! Revisions that are kept to go back to: immutable ConfigMaps `<gateway>-revision-<revision>` with all that a
//! publication was made of, so that it can be brought back although its objects changed or went.
//!
//! Nothing here stands on the way of a change: a revision is kept after its publication, by a task of its own, at
//! no more than [`RATE`]. The part with the record is written last and deleted first, so what has a record is
//! whole, whenever a controller is ended. A revision holds no secret: it names versions of Secrets.

mod keep;
mod listing;
mod restore;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::apply::ApplyError;
use super::metrics::Metrics;
use super::world::Bell;
use crate::api::OutboundGateway;
use crate::bundle::document::ObjectId;
use crate::bundle::material::MaterialVersion;
use crate::bundle::{Bundle, Manifest, Revision};
use crate::translate::ObjectKey;

pub use listing::{Kept, PUBLISHED_AT, SUMMARY, excess, read_listing};
pub use restore::{Former, RestoreError, restore};

/// All kept revisions of a gateway together.
pub const BYTES: usize = 16 << 20;
/// Bytes of one ConfigMap: below the 1 MiB that the API server allows.
const PART: usize = 900 << 10;
/// The key of the record.
pub const RECORD: &str = "revision.json";
/// Bytes a second, on average: a large bundle that changes all the time must not fill etcd's log. Revisions that
/// are replaced meanwhile are not kept.
const RATE: f64 = 512.0 * 1024.0;
/// A publication whose pods have not all taken it is kept after this all the same.
const SOON: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(5);

/// What part 0 says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub format: u32,
    pub revision: Revision,
    pub first_published: Timestamp,
    pub segments: Vec<Piecewise>,
    /// Which versions of Secrets and ConfigMaps it was decided with.
    pub materials: Vec<MaterialVersion>,
    /// How many ConfigMaps it takes.
    pub parts: usize,
    pub summary: Summary,
}

/// A segment, and how many pieces it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piecewise {
    pub name: String,
    pub hash: String,
    pub pieces: usize,
}

/// What people choose a revision by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    pub rules: usize,
    pub routes: usize,
    /// Rules that the revision published before it did not have; `None`: that one is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    pub bytes: usize,
    pub parts: usize,
}

/// Numbers of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
}

impl Summary {
    pub fn of(bundle: &Bundle, before: Option<&Bundle>) -> Self {
        let changes = before.map(|before| {
            let rules = |bundle: &Bundle| -> BTreeMap<ObjectId, (String, i64)> {
                let origins = bundle.rules.iter().map(|rule| &rule.origin);
                origins
                    .map(|origin| (origin.object.clone(), (origin.uid.clone(), origin.generation)))
                    .collect()
            };
            let (then, now) = (rules(before), rules(bundle));
            Changes {
                added: now.keys().filter(|object| !then.contains_key(object)).count(),
                changed: now
                    .iter()
                    .filter(|(object, g)| then.get(object).is_some_and(|then| then != *g))
                    .count(),
                removed: then.keys().filter(|object| !now.contains_key(object)).count(),
            }
        });
        Self { rules: bundle.rules.len(), routes: bundle.routes.len(), changes, ..Self::default() }
    }
}

/// Keeps the revisions of one gateway.
pub struct History {
    client: Client,
    metrics: Arc<Metrics>,
    gateway: ObjectKey,
    bell: Arc<Bell>,
    /// The gateway object whose revisions these are.
    owner: String,
    /// `None`: not read yet.
    kept: Option<Vec<Kept>>,
    /// What the published revision changed.
    summary: Option<(Revision, Summary)>,
    task: Option<JoinHandle<Result<keep::Done, ApplyError>>>,
    not_before: Instant,
    /// What was kept, deleted or found too large last: nothing is to do for it.
    done: Option<Wish>,
}

/// What there is to keep, and for how many.
#[derive(Debug, Clone, PartialEq)]
struct Wish {
    revision: Revision,
    at: Timestamp,
    pinned: Option<Revision>,
    limit: usize,
}

impl History {
    pub fn new(client: Client, metrics: Arc<Metrics>, gateway: ObjectKey, bell: Arc<Bell>) -> Self {
        Self {
            client,
            metrics,
            gateway,
            bell,
            owner: String::new(),
            kept: None,
            summary: None,
            task: None,
            not_before: Instant::now(),
            done: None,
        }
    }

    /// Notes what is about to be published over what.
    pub fn describe(&mut self, revision: &Revision, bundle: &Bundle, before: Option<&Bundle>) {
        self.summary = Some((revision.clone(), Summary::of(bundle, before)));
    }

    /// Has the published revision kept, in its own time: `arrived` when every pod has it. Returns when to be called
    /// again though nothing rings.
    pub async fn look(
        &mut self,
        gateway: &Arc<OutboundGateway>,
        manifest: &Manifest,
        bundle: Option<&Bundle>,
        arrived: bool,
    ) -> Option<Instant> {
        let owner = gateway.metadata.uid.clone().unwrap_or_default();
        if self.owner != owner {
            self.forget();
            self.owner = owner;
        }
        self.collect().await;
        let wish = Wish {
            revision: manifest.revision.clone(),
            at: manifest.published_at,
            pinned: gateway.spec.pinned_revision.as_deref().and_then(Revision::named),
            limit: gateway.spec.revision_history_limit as usize,
        };
        if self.task.is_some() || self.done.as_ref() == Some(&wish) {
            return None;
        }
        let bundle = bundle?;
        let age = Duration::try_from(Timestamp::now().duration_since(manifest.published_at)).unwrap_or(SOON);
        let soon = if arrived { Duration::ZERO } else { SOON.saturating_sub(age) };
        let at = self.not_before.max(Instant::now() + soon);
        if at > Instant::now() {
            return Some(at);
        }
        let summary = match &self.summary {
            Some((revision, summary)) if *revision == manifest.revision => summary.clone(),
            _ => Summary::of(bundle, None),
        };
        let keeper = keep::Keeper {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            gateway: gateway.clone(),
            key: self.gateway.clone(),
            kept: self.kept.clone(),
            manifest: manifest.clone(),
            summary,
            pinned: wish.pinned.clone(),
            limit: wish.limit,
        };
        self.done = Some(wish);
        let bell = self.bell.clone();
        self.task = Some(tokio::spawn(async move {
            let done = keeper.run().await;
            bell.cluster();
            done
        }));
        None
    }

    /// Takes in what the task has done.
    async fn collect(&mut self) {
        let Some(task) = self.task.take_if(|task| task.is_finished()) else { return };
        match task.await {
            Ok(Ok(keep::Done { kept, bytes, too_large })) => {
                debug!(gateway = %self.gateway, revisions = kept.len(), "kept");
                if too_large {
                    warn!(gateway = %self.gateway, bytes, "the published revision is too large to be kept: there is no way back to it");
                }
                self.kept = Some(kept);
                self.not_before = Instant::now() + Duration::from_secs_f64(bytes as f64 / RATE);
            }
            Ok(Err(error)) => {
                debug!(gateway = %self.gateway, %error, "the revision is not kept yet");
                self.try_later();
            }
            Err(error) => {
                warn!(gateway = %self.gateway, %error, "keeping a revision ended badly");
                self.try_later();
            }
        }
    }

    fn try_later(&mut self) {
        (self.kept, self.done) = (None, None);
        self.not_before = Instant::now() + RETRY;
    }

    /// Somebody deleted ConfigMaps, perhaps: they are looked at again with the next publication.
    fn forget(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        (self.kept, self.done, self.summary) = (None, None, None);
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
