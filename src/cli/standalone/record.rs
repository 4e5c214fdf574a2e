//! What a standalone gateway remembers over a restart: the count of its revisions, the generation of each object,
//! the last good bundle.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle::document::FORMAT;
use crate::bundle::material::MaterialVersion;
use crate::bundle::{Bundle, Manifest, Sequence};
use crate::cli::folder::Configured;
use crate::gateway::files;
use crate::manifest::{Generations, Loaded};
use crate::translate::LastGood;

const FILE: &str = "last-good.json";

#[derive(Default)]
pub struct Record {
    sequence: Sequence,
    generations: Generations,
    last_good: Option<LastGood>,
    published: Option<Manifest>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    sequence: Sequence,
    generations: Generations,
    bundle: Bundle,
    materials: Vec<MaterialVersion>,
}

impl Record {
    /// A record that cannot be read is a first start: the folder itself has everything that is valid.
    pub fn read(state: &Path) -> Self {
        let kept = std::fs::read(state.join(FILE)).ok();
        let Some(kept) = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok()) else {
            return Self::default();
        };
        let Kept { sequence, generations, bundle, materials } = kept;
        Self { sequence, generations, last_good: Some(LastGood { bundle, materials }), published: None }
    }

    pub fn last_good(&self) -> Option<&LastGood> {
        self.last_good.as_ref()
    }

    pub fn bundle(&self) -> Option<&Bundle> {
        self.last_good.as_ref().map(|last| &last.bundle)
    }

    /// Gives each object the generation it would have in a cluster: one more with each change of its spec.
    pub fn number(&mut self, loaded: &mut Loaded) {
        loaded.number(&mut self.generations);
    }

    /// The manifest of what was decided; a new one when it differs from the last.
    pub fn publish(&mut self, configured: &Configured, now: Timestamp) -> Manifest {
        if let Some(published) = &self.published
            && published.revision == configured.revision
        {
            return published.clone();
        }
        self.sequence = self.sequence.next();
        let manifest = Manifest {
            format: FORMAT,
            sequence: self.sequence,
            revision: configured.revision.clone(),
            published_at: now,
            segments: Vec::new(),
            materials: configured.last_good.materials.clone(),
            leaving: Vec::new(),
            course: Default::default(),
        };
        self.published = Some(manifest.clone());
        manifest
    }

    /// What was taken is the last good form from now on.
    pub fn keep(&mut self, last_good: LastGood, state: &Path) {
        if self.last_good.as_ref() == Some(&last_good) {
            return;
        }
        let kept = Kept {
            sequence: self.sequence,
            generations: self.generations.clone(),
            bundle: last_good.bundle.clone(),
            materials: last_good.materials.clone(),
        };
        let text = serde_json::to_vec(&kept).expect("the record has string keys only");
        if let Err(error) = files::replace(&state.join(FILE), &text) {
            tracing::warn!(%error, "cannot remember the last good form over a restart");
        }
        self.last_good = Some(last_good);
    }
}
