//! Brings a kept revision back: reads its ConfigMaps and believes nothing that its hashes do not prove.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt};

use super::{RECORD, Record};
use crate::bundle::document::READS;
use crate::bundle::manifest::SegmentRef;
use crate::bundle::material::MaterialVersion;
use crate::bundle::segment::{self, Segment, Shelf};
use crate::bundle::{Bundle, Revision};
use crate::controller::apply::{ApplyError, bounded};
use crate::controller::build::revision_map_name;
use crate::translate::ObjectKey;

/// A revision as it was published once.
#[derive(Debug, Clone)]
pub struct Former {
    pub revision: Revision,
    pub format: u32,
    pub bundle: Bundle,
    pub segments: Vec<Segment>,
    /// Which versions it was decided with then.
    pub materials: Vec<MaterialVersion>,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "no revision {0} of this OutboundGateway is kept: `postern rollback --list` shows those that are; what is published stays in force"
    )]
    Unknown(Revision),
    #[error("revision {revision} cannot be used: {why}; what is published stays in force")]
    Unusable { revision: Revision, why: String },
    #[error(transparent)]
    Api(#[from] ApplyError),
}

/// Reads the revision of this name of the gateway with uid `owner`.
pub async fn restore(
    client: &Client,
    gateway: &ObjectKey,
    owner: &str,
    revision: &Revision,
) -> Result<Former, RestoreError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &gateway.namespace);
    let unusable = |why: String| RestoreError::Unusable { revision: revision.clone(), why };
    let mut pieces: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut record: Option<Record> = None;
    let mut part = 0;
    while part == 0 || record.as_ref().is_some_and(|record| part < record.parts) {
        let name = revision_map_name(&gateway.name, revision, part);
        let map = match bounded("a kept revision", api.get_opt(&name)).await? {
            Some(map) if map.owner_references().iter().any(|reference| reference.uid == owner) => map,
            _ if part == 0 => return Err(RestoreError::Unknown(revision.clone())),
            _ => return Err(unusable(format!("its ConfigMap {name} is gone"))),
        };
        if part == 0 {
            let text = map.data.as_ref().and_then(|data| data.get(RECORD));
            let text = text.ok_or_else(|| unusable(format!("ConfigMap {name} has no {RECORD}")))?;
            record = Some(serde_json::from_str(text).map_err(|error| unusable(error.to_string()))?);
        }
        let bytes = |(key, ByteString(bytes))| (key, bytes);
        pieces.extend(map.binary_data.into_iter().flatten().map(bytes));
        part += 1;
    }
    let record = record.ok_or_else(|| RestoreError::Unknown(revision.clone()))?;
    former(revision, record, &pieces).map_err(unusable)
}

/// Puts it together and checks that it is what it is called.
pub fn former(
    revision: &Revision,
    record: Record,
    pieces: &BTreeMap<String, Vec<u8>>,
) -> Result<Former, String> {
    let Record { format, segments, materials, .. } = record;
    if !READS.contains(&format) {
        return Err(format!("it is written in format {format}, and this release reads {READS:?}"));
    }
    let refs = segments.into_iter().map(|segment| SegmentRef {
        name: segment.name,
        hash: segment.hash,
        places: vec![0; segment.pieces],
    });
    let refs: Vec<SegmentRef> = refs.collect();
    let read = |name: &str| Ok(pieces.get(name).cloned());
    let segments = segment::unpack(&refs, &read).map_err(|error| error.to_string())?;
    let bundle = segment::assemble_segments(&Shelf::default(), &refs, &read);
    let bundle = bundle.map_err(|error| error.to_string())?;
    if Revision::of(format, &segments, &materials) != *revision {
        return Err("what it holds is not what its name says".to_owned());
    }
    Ok(Former { revision: revision.clone(), format, bundle, segments, materials })
}
