//! Writes one revision down and clears away what is too much. Runs beside the passes; whatever it is interrupted
//! in, the next one goes on: parts first, the record last; the record deleted first, parts last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tracing::info;

use super::listing::{Kept, PUBLISHED_AT, SUMMARY, excess, read_listing};
use super::{BYTES, PART, Piecewise, RECORD, Record, Summary};
use crate::api::OutboundGateway;
use crate::bundle::{Manifest, Revision};
use crate::controller::apply::{ApplyError, MANAGER, bounded};
use crate::controller::build::{
    GATEWAY_LABEL, REVISION_LABEL, bundle_map_name, revision_map, revision_map_name,
};
use crate::controller::metrics::Metrics;
use crate::translate::ObjectKey;

pub struct Keeper {
    pub client: Client,
    pub metrics: Arc<Metrics>,
    pub gateway: Arc<OutboundGateway>,
    pub key: ObjectKey,
    /// `None`: to be listed first.
    pub kept: Option<Vec<Kept>>,
    pub manifest: Manifest,
    pub summary: Summary,
    pub pinned: Option<Revision>,
    pub limit: usize,
}

pub struct Done {
    pub kept: Vec<Kept>,
    /// Written, or too many to be written.
    pub bytes: usize,
    pub too_large: bool,
}

type Pieces = BTreeMap<String, Vec<u8>>;

impl Keeper {
    pub async fn run(self) -> Result<Done, ApplyError> {
        let mut kept = match &self.kept {
            Some(kept) => kept.clone(),
            None => self.list().await?,
        };
        let Manifest { revision, published_at, .. } = &self.manifest;
        let (mut bytes, mut too_large) = (0, false);
        match kept.iter_mut().find(|kept| kept.revision == *revision && kept.summary.is_some()) {
            Some(known) if known.published_at < *published_at => {
                self.mark(&known.maps[0]).await?;
                known.published_at = *published_at;
            }
            Some(_) => {}
            // `None`: it was replaced meanwhile, and its pieces may be gone.
            None => {
                if let Some(pieces) = self.read().await? {
                    bytes = pieces.values().map(Vec::len).sum();
                    too_large = bytes > BYTES;
                    if !too_large {
                        let new = self.write(pieces, bytes).await?;
                        kept.retain(|kept| kept.revision != *revision);
                        kept.push(new);
                    }
                }
            }
        }
        kept.sort_by(|a, b| (b.published_at, &b.revision).cmp(&(a.published_at, &a.revision)));
        let needed: Vec<&Revision> = std::iter::once(revision).chain(&self.pinned).collect();
        let gone: Vec<Kept> =
            excess(&kept, &needed, self.limit, Timestamp::now()).into_iter().cloned().collect();
        for kept in &gone {
            info!(gateway = %self.key, revision = %kept.revision, "no longer kept");
            for map in &kept.maps {
                self.delete(map).await?;
            }
        }
        kept.retain(|kept| !gone.contains(kept));
        Ok(Done { kept, bytes, too_large })
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.key.namespace)
    }

    async fn list(&self) -> Result<Vec<Kept>, ApplyError> {
        let labels = format!("{GATEWAY_LABEL}={},{REVISION_LABEL}", self.key.name);
        let params = ListParams::default().labels(&labels);
        let found = bounded("kept revisions", self.api().list_metadata(&params)).await?;
        Ok(read_listing(&found.items, self.gateway.metadata.uid.as_deref()))
    }

    /// Every piece of the published revision; `None` if one is gone.
    async fn read(&self) -> Result<Option<Pieces>, ApplyError> {
        let segments = &self.manifest.segments;
        let places: BTreeSet<u8> = segments.iter().flat_map(|segment| &segment.places).copied().collect();
        let mut wanted: BTreeSet<String> = segments.iter().flat_map(|segment| segment.keys()).collect();
        let mut pieces = Pieces::new();
        for place in places {
            let name = bundle_map_name(&self.key.name, place);
            let Some(map) = bounded("the published bundle", self.api().get_opt(&name)).await? else {
                return Ok(None);
            };
            for (key, ByteString(bytes)) in map.binary_data.into_iter().flatten() {
                if wanted.remove(&key) {
                    pieces.insert(key, bytes);
                }
            }
        }
        Ok(wanted.is_empty().then_some(pieces))
    }

    async fn write(&self, pieces: Pieces, bytes: usize) -> Result<Kept, ApplyError> {
        let Manifest { format, revision, published_at, segments, materials, .. } = &self.manifest;
        let parts = divide(pieces, segments.len() * 128 + materials.len() * 512);
        let summary = Summary { bytes, parts: parts.len(), ..self.summary.clone() };
        let record = Record {
            format: *format,
            revision: revision.clone(),
            first_published: *published_at,
            segments: segments
                .iter()
                .map(|segment| Piecewise {
                    name: segment.name.clone(),
                    hash: segment.hash.clone(),
                    pieces: segment.places.len(),
                })
                .collect(),
            materials: materials.clone(),
            parts: parts.len(),
            summary: summary.clone(),
        };
        let mut maps = Vec::new();
        for (number, pieces) in parts.into_iter().enumerate().rev() {
            let mut map = revision_map(&self.gateway, revision, number);
            let bytes = |(key, bytes): (String, Vec<u8>)| (key, ByteString(bytes));
            map.binary_data = Some(pieces.into_iter().map(bytes).collect());
            if number == 0 {
                let text = |value: serde_json::Result<String>| value.expect("records have string keys only");
                map.data = Some([(RECORD.to_owned(), text(serde_json::to_string(&record)))].into());
                map.metadata.annotations = Some(
                    [
                        (PUBLISHED_AT.to_owned(), published_at.to_string()),
                        (SUMMARY.to_owned(), text(serde_json::to_string(&summary))),
                    ]
                    .into(),
                );
            }
            maps.insert(0, revision_map_name(&self.key.name, revision, number));
            self.create(&map).await?;
        }
        let (revision, published_at) = (revision.clone(), *published_at);
        Ok(Kept { revision, published_at, summary: Some(summary), maps })
    }

    /// One of that name without a record was left behind by somebody who was ended in the middle.
    async fn create(&self, map: &ConfigMap) -> Result<(), ApplyError> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.metrics.wrote();
        match bounded("a kept revision", self.api().create(&params, map)).await {
            Err(error) if error.is_conflict() => {
                self.delete(map.metadata.name.as_deref().unwrap_or_default()).await?;
                bounded("a kept revision", self.api().create(&params, map)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// It is published again.
    async fn mark(&self, map: &str) -> Result<(), ApplyError> {
        let notes = json!({PUBLISHED_AT: self.manifest.published_at.to_string()});
        let patch = Patch::Merge(json!({"metadata": {"annotations": notes}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.metrics.wrote();
        bounded("a kept revision", self.api().patch_metadata(map, &params, &patch)).await.map(drop)
    }

    async fn delete(&self, map: &str) -> Result<(), ApplyError> {
        self.metrics.wrote();
        match bounded("a kept revision", self.api().delete(map, &DeleteParams::default())).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Pieces dealt to ConfigMaps; the first one leaves room for the record.
pub fn divide(pieces: Pieces, record: usize) -> Vec<Pieces> {
    let mut parts = vec![Pieces::new()];
    let mut used = record;
    for (key, bytes) in pieces {
        if used + bytes.len() > PART {
            parts.push(Pieces::new());
            used = 0;
        }
        used += bytes.len();
        parts.last_mut().expect("there is always one").insert(key, bytes);
    }
    parts
}
