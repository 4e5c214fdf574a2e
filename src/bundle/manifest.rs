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
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
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

    /// `None`: no revision is named like this.
    pub fn named(name: &str) -> Option<Self> {
        let hex = name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(name.to_owned()))
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
    /// Which pods run what is named here. A pod that does not know this field runs it, as most pods do.
    #[serde(default, skip_serializing_if = "Course::is_whole")]
    pub course: Course,
}

/// Who runs what of a publication.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Course {
    /// Every pod runs the manifest's own revision.
    #[default]
    Whole,
    /// Some pods run a second revision first (spec R156).
    Staged(Box<Staged>),
    /// A second revision was withdrawn; every pod runs the manifest's own again.
    Halted(Halted),
}

impl Course {
    fn is_whole(&self) -> bool {
        *self == Self::Whole
    }
}

/// The second revision of a staged rollout, and who runs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    pub format: u32,
    pub revision: Revision,
    pub segments: Vec<SegmentRef>,
    pub materials: Vec<MaterialVersion>,
    /// Names of the pods that take it; all others run the manifest's own revision.
    pub pods: Vec<String>,
    /// Which step of the rollout this is, from 0.
    pub step: u32,
    /// When this step was published.
    pub since: Timestamp,
    /// When the first step was.
    pub started: Timestamp,
    /// What authors wrote, as a hash: the same while only certificates, directories or lists change.
    pub wish: String,
}

/// A revision that was tried on some pods and taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Halted {
    pub revision: Revision,
    pub wish: String,
    pub at: Timestamp,
    pub cause: HaltCause,
    /// With figures.
    pub message: String,
}

/// Why a staged rollout went back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HaltCause {
    /// A pod refused the revision.
    Refused,
    RejectsRose,
    DeferralsRose,
    TlsFailuresRose,
    /// A pod that was to take it did not run and serve it in time.
    NoProgress,
}

/// What one pod is to run.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    pub format: u32,
    pub revision: &'a Revision,
    pub segments: &'a [SegmentRef],
    pub materials: &'a [MaterialVersion],
}

impl Manifest {
    /// What the pod of this name is to run.
    pub fn share(&self, pod: &str) -> Share<'_> {
        match &self.course {
            Course::Staged(staged) if staged.pods.iter().any(|name| name == pod) => Share {
                format: staged.format,
                revision: &staged.revision,
                segments: &staged.segments,
                materials: &staged.materials,
            },
            Course::Whole | Course::Staged(_) | Course::Halted(_) => Share {
                format: self.format,
                revision: &self.revision,
                segments: &self.segments,
                materials: &self.materials,
            },
        }
    }

    pub fn staged(&self) -> Option<&Staged> {
        match &self.course {
            Course::Staged(staged) => Some(staged),
            Course::Whole | Course::Halted(_) => None,
        }
    }

    pub fn halted(&self) -> Option<&Halted> {
        match &self.course {
            Course::Halted(halted) => Some(halted),
            Course::Whole | Course::Staged(_) => None,
        }
    }

    /// All segments that some pod is to run.
    pub fn all_segments(&self) -> impl Iterator<Item = &SegmentRef> {
        self.segments.iter().chain(self.staged().into_iter().flat_map(|staged| &staged.segments))
    }

    /// All materials that some pod is to use.
    pub fn all_materials(&self) -> impl Iterator<Item = &MaterialVersion> {
        self.materials.iter().chain(self.staged().into_iter().flat_map(|staged| &staged.materials))
    }
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
