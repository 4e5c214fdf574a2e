//! What is kept of a gateway, read from labels and annotations alone, and what has to go. Pure but for the types
//! of Kubernetes; the command line reads the same.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PartialObjectMeta;

use super::{BYTES, Summary};
use crate::bundle::Revision;
use crate::controller::build::REVISION_LABEL;

/// When the revision was published last. The only thing of a kept revision that changes.
pub const PUBLISHED_AT: &str = "postern.dev/published-at";
/// Numbers to choose a revision by, as JSON. Only part 0 has it.
pub const SUMMARY: &str = "postern.dev/summary";

/// A revision, or what is left of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub revision: Revision,
    pub published_at: Timestamp,
    /// `None`: its record is not there, so it cannot be used.
    pub summary: Option<Summary>,
    /// Its ConfigMaps, the one with the record first.
    pub maps: Vec<String>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.summary.as_ref().map_or(0, |summary| summary.bytes)
    }
}

/// Puts ConfigMaps that carry the label of a revision together, the revision published last first. `owner`: only
/// those of this gateway object.
pub fn read_listing(maps: &[PartialObjectMeta<ConfigMap>], owner: Option<&str>) -> Vec<Kept> {
    let mut found: BTreeMap<Revision, Kept> = BTreeMap::new();
    for PartialObjectMeta { metadata, .. } in maps {
        let owners = metadata.owner_references.iter().flatten();
        if owner.is_some_and(|owner| !owners.clone().any(|reference| reference.uid == owner)) {
            continue;
        }
        let revision = metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
        let Some(revision) = revision.and_then(|name| Revision::named(name)) else { continue };
        let kept = found.entry(revision.clone()).or_insert_with(|| Kept {
            revision,
            published_at: Timestamp::UNIX_EPOCH,
            summary: None,
            maps: Vec::new(),
        });
        let name = metadata.name.clone().unwrap_or_default();
        let made = metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
        match note(metadata, SUMMARY) {
            Some(summary) => {
                kept.summary = Some(serde_json::from_str(summary).unwrap_or_default());
                kept.maps.insert(0, name);
                kept.published_at =
                    note(metadata, PUBLISHED_AT).and_then(|text| text.parse().ok()).unwrap_or(made);
            }
            None => {
                kept.maps.push(name);
                // How old it is, as long as there is no record that says more.
                if kept.summary.is_none() {
                    kept.published_at = kept.published_at.max(made);
                }
            }
        }
    }
    let mut found: Vec<Kept> = found.into_values().collect();
    found.sort_by(|a, b| (b.published_at, &b.revision).cmp(&(a.published_at, &a.revision)));
    found
}

fn note<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What has to go so that at most `limit` revisions and [`BYTES`] are left, the oldest first; `needed` stay
/// whatever happens. What lost its record, or never got one, goes when it is old: it may be on its way.
pub fn excess<'a>(kept: &'a [Kept], needed: &[&Revision], limit: usize, now: Timestamp) -> Vec<&'a Kept> {
    const ON_ITS_WAY: i64 = 600;
    let mut gone = Vec::new();
    let is_needed = |kept: &Kept| needed.contains(&&kept.revision);
    let fixed = kept.iter().filter(|kept| is_needed(kept) && kept.summary.is_some());
    let (mut count, mut bytes) = fixed.fold((0, 0), |(count, bytes), kept| (count + 1, bytes + kept.bytes()));
    let mut full = false;
    for kept in kept.iter().filter(|kept| !is_needed(kept)) {
        if kept.summary.is_none() {
            if now.duration_since(kept.published_at).as_secs() > ON_ITS_WAY {
                gone.push(kept);
            }
            continue;
        }
        // From here on everything is older.
        full |= count + 1 > limit.max(1) || bytes + kept.bytes() > BYTES;
        if full {
            gone.push(kept);
        } else {
            (count, bytes) = (count + 1, bytes + kept.bytes());
        }
    }
    gone
}
