//! A bundle cut into segments and put together again (design decision 3).
//!
//! Records are spread over buckets by their identity, so one changed rule rewrites one segment.
//! A segment is named by the hash of its content and stored compressed, in pieces that fit into a
//! ConfigMap.

use std::collections::BTreeMap;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::document::{self, AddressList, Bundle, Gateway, ObjectId, Quarantine, Route, Rule};
use super::manifest::{MANIFEST, Manifest, Revision};

/// Bytes of one stored piece; a ConfigMap (1 MiB) takes at least one beside its own metadata.
pub const PIECE: usize = 480 << 10;
/// Records of one bucket, about.
const BUCKET: usize = 16;
/// Reading guard: what one segment may decompress to.
const MAX_SEGMENT: usize = 256 << 20;

const GATEWAY: &str = "gateway";
const ROUTES: &str = "routes";
const RULES: &str = "rules";
const LISTS: &str = "lists";
const DIRECTORY: &str = "directory";
const QUARANTINES: &str = "quarantines";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub name: String,
    /// Hash of the uncompressed content: the same whatever the compressor's version.
    pub hash: String,
    /// The compressed content, cut into pieces of at most [`PIECE`].
    pub pieces: Vec<Vec<u8>>,
}

impl Segment {
    fn new(name: String, content: &impl Serialize) -> Self {
        let content = serde_json::to_vec(content).expect("bundle records have string keys only");
        let hash = blake3::hash(&content).to_hex()[..32].to_owned();
        let packed = zstd::bulk::compress(&content, 3).expect("compression into memory cannot fail");
        Self { name, hash, pieces: packed.chunks(PIECE).map(<[u8]>::to_vec).collect() }
    }
}

/// The key under which a piece stands in a ConfigMap and in the mount.
pub fn piece_key(hash: &str, piece: usize) -> String {
    format!("seg-{hash}-{piece}")
}

/// Cuts a bundle. Pure: equal bundles give equal segments.
pub fn cut(bundle: &Bundle) -> Vec<Segment> {
    let Bundle { gateway, routes, rules, lists, directory, quarantines } = bundle;
    let mut segments = vec![Segment::new(GATEWAY.to_owned(), gateway)];
    segments.extend(buckets(ROUTES, routes, |route| &route.origin.object));
    segments.extend(buckets(RULES, rules, |rule| &rule.origin.object));
    segments.extend(buckets(LISTS, lists, |list| &list.origin.object));
    segments.extend(directory.iter().map(|directory| Segment::new(DIRECTORY.to_owned(), directory)));
    segments.extend(buckets(QUARANTINES, quarantines, |quarantine| &quarantine.origin.object));
    segments
}

fn buckets<T: Serialize>(name: &str, records: &[T], id: impl Fn(&T) -> &ObjectId) -> Vec<Segment> {
    let count = (records.len() / BUCKET).next_power_of_two();
    let mut filled: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
    for record in records {
        let hash = blake3::hash(id(record).to_string().as_bytes());
        let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"));
        filled.entry((number % count as u64) as usize).or_default().push(record);
    }
    filled
        .into_iter()
        .map(|(bucket, mut records)| {
            records.sort_by(|a, b| id(a).cmp(id(b)));
            Segment::new(format!("{name}-{bucket}"), &records)
        })
        .collect()
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The set is on its way (kubelet writes one ConfigMap after the other): look again later.
    #[error("{0} is not there yet")]
    Incomplete(String),
    #[error("the bundle has format {found}; this gateway reads up to {}", document::FORMAT)]
    FormatTooNew { found: u32, manifest: Box<Manifest> },
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    #[error("cannot read {what}: {source}")]
    Io { what: String, source: io::Error },
}

/// Reads the manifest. `read` returns the content of a file of the mount, `None` if there is none.
pub fn read_manifest(read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>) -> Result<Manifest, LoadError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let bytes = fetch(read, MANIFEST)?;
    let damaged =
        |why: serde_json::Error| LoadError::Damaged { what: MANIFEST.to_owned(), why: why.to_string() };
    let Head { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(damaged)?;
    if format > document::FORMAT {
        return Err(LoadError::FormatTooNew { found: format, manifest: Box::new(manifest) });
    }
    Ok(manifest)
}

/// Reads the bundle a manifest names. Returns only a complete set whose hashes agree.
pub fn assemble(
    manifest: &Manifest,
    read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>,
) -> Result<Bundle, LoadError> {
    let mut gateway: Option<Gateway> = None;
    let mut routes: Vec<Route> = Vec::new();
    let mut rules: Vec<Rule> = Vec::new();
    let mut lists: Vec<AddressList> = Vec::new();
    let mut directory = None;
    let mut quarantines: Vec<Quarantine> = Vec::new();
    for segment in &manifest.segments {
        let mut packed = Vec::new();
        for key in segment.keys() {
            packed.extend(fetch(read, &key)?);
        }
        let damaged = |why: String| LoadError::Damaged { what: segment.name.clone(), why };
        let content = zstd::stream::decode_all(io::Read::take(packed.as_slice(), MAX_SEGMENT as u64))
            .map_err(|e| damaged(e.to_string()))?;
        if blake3::hash(&content).to_hex()[..32] != *segment.hash {
            return Err(damaged("its content does not have the hash the manifest names".to_owned()));
        }
        match segment.name.split('-').next() {
            Some(GATEWAY) => gateway = Some(parse(&content).map_err(damaged)?),
            Some(ROUTES) => routes.extend(parse::<Vec<Route>>(&content).map_err(damaged)?),
            Some(RULES) => rules.extend(parse::<Vec<Rule>>(&content).map_err(damaged)?),
            Some(LISTS) => lists.extend(parse::<Vec<AddressList>>(&content).map_err(damaged)?),
            Some(DIRECTORY) => directory = Some(parse(&content).map_err(damaged)?),
            Some(QUARANTINES) => quarantines.extend(parse::<Vec<Quarantine>>(&content).map_err(damaged)?),
            _ => return Err(damaged("no segment of this name is known".to_owned())),
        }
    }
    let gateway = gateway.ok_or_else(|| LoadError::Damaged {
        what: MANIFEST.to_owned(),
        why: "it names no gateway segment".to_owned(),
    })?;
    let mut bundle = Bundle { gateway, routes, rules, lists, directory, quarantines };
    bundle.sort();
    Ok(bundle)
}

fn parse<T: DeserializeOwned>(content: &[u8]) -> Result<T, String> {
    serde_json::from_slice(content).map_err(|e| e.to_string())
}

fn fetch(read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>, name: &str) -> Result<Vec<u8>, LoadError> {
    match read(name) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(LoadError::Incomplete(name.to_owned())),
        Err(source) => Err(LoadError::Io { what: name.to_owned(), source }),
    }
}

impl Manifest {
    /// Whether this manifest publishes just these segments and materials.
    pub fn publishes(&self, revision: &Revision) -> bool {
        self.revision == *revision && self.format == document::FORMAT
    }
}
