//! A bundle cut into segments and put together again (design decision 3).
//!
//! Records are spread over buckets by their identity, so one changed rule rewrites one segment. Lists and
//! directories are cut inside too, by the hash of the address: one changed entry of a million rewrites one
//! shard. A segment is named by the hash of its content and stored compressed, in pieces that fit into a
//! ConfigMap.

mod cutter;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::document::{
    self, Account, AddressList, Bundle, Directory, Gateway, ListEntries, ObjectId, Quarantine, Route, Rule,
    Shard,
};
use super::manifest::{MANIFEST, Manifest, Revision};

pub use cutter::Cutter;

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
/// `shard-<list>-<number>`: entries of a list that has too many for its bucket.
const SHARD: &str = "shard";
/// `accounts-<number>`: those of the directory.
const ACCOUNTS: &str = "accounts";
/// Bytes of entries that stand with their list's own record.
const INLINE: usize = 4 << 10;
/// Accounts of one segment, about.
const ACCOUNTS_EACH: usize = 1024;

#[derive(Debug, Clone)]
pub struct Segment {
    pub name: String,
    /// Hash of the uncompressed content: the same whatever the compressor's version.
    pub hash: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Arc<[u8]>),
    /// Written out when somebody asks for the bytes: of most segments nobody does.
    Rules(Vec<Arc<Rule>>),
}

/// What the hash names is the same.
impl PartialEq for Segment {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.hash) == (&other.name, &other.hash)
    }
}

impl Eq for Segment {}

fn encode(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(content).expect("bundle records have string keys only")
}

fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex()[..32].to_owned()
}

impl Segment {
    fn new(name: String, content: &impl Serialize) -> Self {
        Self::of_bytes(name, encode(content))
    }

    pub(crate) fn of_bytes(name: String, content: Vec<u8>) -> Self {
        Self { name, hash: hash(&content), content: Content::Bytes(content.into()) }
    }

    /// `rules` in the order in which they are written.
    fn of_rules(name: String, rules: Vec<Arc<Rule>>) -> Self {
        Self { name, hash: hash(&encode(&rules)), content: Content::Rules(rules) }
    }

    /// Bytes before compression.
    #[cfg(test)]
    fn len(&self) -> usize {
        match &self.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::Rules(rules) => encode(rules).len(),
        }
    }

    /// The compressed content, cut into pieces of at most [`PIECE`]. Made when it is asked for: of most
    /// segments the published ones are still the same.
    pub fn pieces(&self) -> Vec<Vec<u8>> {
        let written;
        let content = match &self.content {
            Content::Bytes(bytes) => &**bytes,
            Content::Rules(rules) => {
                written = encode(rules);
                &written
            }
        };
        let packed = zstd::bulk::compress(content, 3).expect("compression into memory cannot fail");
        packed.chunks(PIECE).map(<[u8]>::to_vec).collect()
    }
}

/// The key under which a piece stands in a ConfigMap and in the mount.
pub fn piece_key(hash: &str, piece: usize) -> String {
    format!("seg-{hash}-{piece}")
}

/// Cuts a bundle. Pure: equal bundles give equal segments.
pub fn cut(bundle: &Bundle) -> Vec<Segment> {
    Cutter::default().cut(bundle)
}

fn cut_with(cutter: &mut Cutter, bundle: &Bundle) -> Vec<Segment> {
    let Bundle { gateway, routes, rules, lists, directory, quarantines } = bundle;
    let mut segments = vec![Segment::new(GATEWAY.to_owned(), gateway)];
    segments.extend(buckets(ROUTES, routes, |route| &route.origin.object));
    segments.extend(cutter.rules(rules));
    let heads: Vec<AddressList> = lists.iter().map(|list| head(list, &mut segments)).collect();
    segments.extend(buckets(LISTS, &heads, |list| &list.origin.object));
    if let Some(directory) = directory {
        segments.push(Segment::new(
            DIRECTORY.to_owned(),
            &Directory {
                origin: directory.origin.clone(),
                units: directory.units.clone(),
                unknown_senders: directory.unknown_senders,
                accounts: Vec::new(),
                broken: directory.broken.clone(),
            },
        ));
        segments.extend(accounts(&directory.accounts));
    }
    segments.extend(buckets(QUARANTINES, quarantines, |quarantine| &quarantine.origin.object));
    segments
}

/// The record of a list; entries that are too many for it become segments of their own.
fn head(list: &AddressList, segments: &mut Vec<Segment>) -> AddressList {
    let shards = &list.entries.shards;
    let bytes: usize =
        shards.iter().map(|shard| shard.authenticated.len() + shard.unauthenticated.len()).sum();
    if bytes <= INLINE {
        return list.clone();
    }
    let name = list_name(&list.origin.object);
    for (number, shard) in shards.iter().enumerate() {
        segments.push(Segment::new(format!("{SHARD}-{name}-{number}"), shard));
    }
    // As many empty shards stand for those that are elsewhere.
    let shards = vec![Shard::default(); shards.len()];
    AddressList { origin: list.origin.clone(), entries: ListEntries { shards } }
}

fn list_name(object: &ObjectId) -> String {
    blake3::hash(object.to_string().as_bytes()).to_hex()[..16].to_owned()
}

/// Accounts are sorted by address, and stay so within a segment.
fn accounts(accounts: &[Account]) -> Vec<Segment> {
    let count = accounts.len().div_ceil(ACCOUNTS_EACH).next_power_of_two();
    let mut filled: BTreeMap<usize, Vec<&Account>> = BTreeMap::new();
    for account in accounts {
        filled.entry(bucket::place(bucket::hash(&account.address), count)).or_default().push(account);
    }
    let segments = filled.into_iter();
    segments.map(|(number, accounts)| Segment::new(format!("{ACCOUNTS}-{number}"), &accounts)).collect()
}

/// Which bucket a name leads to.
mod bucket {
    /// The same in every release: else an upgrade would rewrite everything.
    pub fn hash(name: &str) -> u64 {
        let hash = blake3::hash(name.as_bytes());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
    }

    pub fn place(hash: u64, count: usize) -> usize {
        (hash % count as u64) as usize
    }
}

/// Into how many buckets so many records go.
fn bucket_count(records: usize) -> usize {
    (records / BUCKET).next_power_of_two()
}

fn buckets<T: Serialize>(name: &str, records: &[T], id: impl Fn(&T) -> &ObjectId) -> Vec<Segment> {
    let count = bucket_count(records.len());
    let mut filled: BTreeMap<usize, Vec<&T>> = BTreeMap::new();
    for record in records {
        filled.entry(bucket::place(bucket::hash(&id(record).to_string()), count)).or_default().push(record);
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

/// Segments that were read before, by hash: a million entries of a list, or ten thousand rules, are unpacked and
/// parsed once, not with every change of some rule. What is read from here is shared with what was read before.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<HashMap<String, Kept>>);

/// A segment worth keeping.
#[derive(Debug, Clone)]
enum Kept {
    Shard(Shard),
    Rules(Arc<[Arc<Rule>]>),
    Routes(Arc<[Route]>),
}

impl Shelf {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the bundle a manifest names. Returns only a complete set whose hashes agree.
pub fn assemble(
    manifest: &Manifest,
    read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>,
) -> Result<Bundle, LoadError> {
    assemble_with(&Shelf::default(), manifest, read)
}

/// The same for a reader who keeps what it read.
pub fn assemble_with(
    shelf: &Shelf,
    manifest: &Manifest,
    read: &impl Fn(&str) -> io::Result<Option<Vec<u8>>>,
) -> Result<Bundle, LoadError> {
    let mut gateway: Option<Gateway> = None;
    let mut routes: Vec<Route> = Vec::new();
    let mut rules: Vec<Arc<Rule>> = Vec::new();
    let mut lists: Vec<AddressList> = Vec::new();
    let mut directory: Option<Directory> = None;
    let mut accounts: Vec<Account> = Vec::new();
    let mut quarantines: Vec<Quarantine> = Vec::new();
    let mut shards: HashMap<&str, Shard> = HashMap::new();
    let mut kept: HashMap<String, Kept> = HashMap::new();
    for segment in &manifest.segments {
        let damaged = |why: String| LoadError::Damaged { what: segment.name.clone(), why };
        let known = shelf.lock().get(&segment.hash).cloned();
        if let Some(known) = known {
            match &known {
                Kept::Shard(shard) => drop(shards.insert(&segment.name, shard.clone())),
                Kept::Rules(known) => rules.extend(known.iter().cloned()),
                Kept::Routes(known) => routes.extend(known.iter().cloned()),
            }
            kept.insert(segment.hash.clone(), known);
            continue;
        }
        let mut packed = Vec::new();
        for key in segment.keys() {
            packed.extend(fetch(read, &key)?);
        }
        let content = zstd::stream::decode_all(io::Read::take(packed.as_slice(), MAX_SEGMENT as u64))
            .map_err(|e| damaged(e.to_string()))?;
        if blake3::hash(&content).to_hex()[..32] != *segment.hash {
            return Err(damaged("its content does not have the hash the manifest names".to_owned()));
        }
        match segment.name.split('-').next() {
            Some(GATEWAY) => gateway = Some(parse(&content).map_err(damaged)?),
            Some(ROUTES) => {
                let read: Arc<[Route]> = parse::<Vec<Route>>(&content).map_err(damaged)?.into();
                routes.extend(read.iter().cloned());
                kept.insert(segment.hash.clone(), Kept::Routes(read));
            }
            Some(RULES) => {
                let read: Arc<[Arc<Rule>]> = parse::<Vec<Arc<Rule>>>(&content).map_err(damaged)?.into();
                rules.extend(read.iter().cloned());
                kept.insert(segment.hash.clone(), Kept::Rules(read));
            }
            Some(LISTS) => lists.extend(parse::<Vec<AddressList>>(&content).map_err(damaged)?),
            Some(SHARD) => {
                let shard: Shard = parse(&content).map_err(damaged)?;
                kept.insert(segment.hash.clone(), Kept::Shard(shard.clone()));
                shards.insert(&segment.name, shard);
            }
            Some(DIRECTORY) => directory = Some(parse(&content).map_err(damaged)?),
            Some(ACCOUNTS) => accounts.extend(parse::<Vec<Account>>(&content).map_err(damaged)?),
            Some(QUARANTINES) => quarantines.extend(parse::<Vec<Quarantine>>(&content).map_err(damaged)?),
            _ => return Err(damaged("no segment of this name is known".to_owned())),
        }
    }
    let missing = |what: &str| LoadError::Damaged {
        what: MANIFEST.to_owned(),
        why: format!("it names no {what} segment"),
    };
    let gateway = gateway.ok_or_else(|| missing(GATEWAY))?;
    for list in &mut lists {
        complete(list, &shards).map_err(|name| missing(&name))?;
    }
    accounts.sort_by(|a, b| a.address.cmp(&b.address));
    match &mut directory {
        Some(directory) => directory.accounts = accounts,
        None if accounts.is_empty() => {}
        None => return Err(missing(DIRECTORY)),
    }
    *shelf.lock() = kept;
    let mut bundle = Bundle { gateway, routes, rules, lists, directory, quarantines };
    bundle.sort();
    Ok(bundle)
}

/// Puts the shards of a list into their places. A list whose record has all of its entries has no shard
/// elsewhere; of another one every shard must be there, or an exemption or a restriction would be lost.
fn complete(list: &mut AddressList, shards: &HashMap<&str, Shard>) -> Result<(), String> {
    let elsewhere = |shard: &Shard| shard.authenticated.is_empty() && shard.unauthenticated.is_empty();
    if list.entries.shards.is_empty() || !list.entries.shards.iter().all(elsewhere) {
        return Ok(());
    }
    let name = list_name(&list.origin.object);
    for (number, shard) in list.entries.shards.iter_mut().enumerate() {
        let name = format!("{SHARD}-{name}-{number}");
        *shard = shards.get(name.as_str()).cloned().ok_or(name)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests;
