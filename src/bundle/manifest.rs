//! The manifest: the one record that makes a set of segments a published bundle. It is written last.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::material::MaterialVersion;
use super::segment::Segment;

/// The manifest's key in the ConfigMap `<gateway>-bundle-0`, and its file name in the mount.
pub const MANIFEST: &str = "manifest.json";

/// Counts publications of one gateway; only rises. A rollback is a new sequence with old content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names the content of a bundle: equal content, equal revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(String);

impl Revision {
    /// Hashes segment hashes and material versions, so it never depends on a secret's content.
    pub fn of(format: u32, segments: &[Segment], materials: &[MaterialVersion]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&format.to_le_bytes());
        for segment in segments {
            hasher.update(segment.name.as_bytes());
            hasher.update(&[0]);
            hasher.update(segment.hash.as_bytes());
        }
        for version in materials {
            let line = serde_json::to_vec(version).expect("a material version has no map keys");
            hasher.update(&line);
        }
        Self(hasher.finalize().to_hex()[..16].to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub format: u32,
    pub sequence: Sequence,
    pub revision: Revision,
    pub published_at: Timestamp,
    pub segments: Vec<SegmentRef>,
    /// Sorted. Which version of each Secret and ConfigMap this revision uses.
    pub materials: Vec<MaterialVersion>,
    /// Names of pods that are to leave: unready, no new mail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
}

/// A segment and the ConfigMap (0-31) that holds each of its pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentRef {
    pub name: String,
    pub hash: String,
    pub places: Vec<u8>,
}

impl SegmentRef {
    /// The keys of the pieces, in order.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        (0..self.places.len()).map(|piece| super::segment::piece_key(&self.hash, piece))
    }
}
