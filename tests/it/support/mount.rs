//! A mounted bundle, written as a kubelet writes a ConfigMap volume: a new folder, then one rename of the `..data`
//! link, and a link to each file through it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use jiff::Timestamp;
use postern::bundle::manifest::{MANIFEST, SegmentRef};
use postern::bundle::material::MaterialVersion;
use postern::bundle::{Bundle, Manifest, Revision, Sequence, document, segment};

/// What is published.
pub struct Edition<'a> {
    pub sequence: u64,
    pub bundle: &'a Bundle,
    pub materials: Vec<MaterialVersion>,
    /// Pods that are to hand over and go.
    pub leaving: Vec<String>,
}

/// Writes it into `root` as its `version`th content.
pub fn publish(root: &Path, version: u64, edition: Edition<'_>) -> Revision {
    let Edition { sequence, bundle, materials, leaving } = edition;
    let data = root.join(format!("..v{version}"));
    fs::create_dir_all(&data).unwrap();
    let segments = segment::cut(bundle);
    let revision = Revision::of(document::FORMAT, &segments, &materials);
    let mut names = BTreeSet::from([MANIFEST.to_owned()]);
    let mut refs = Vec::new();
    for part in &segments {
        for (piece, bytes) in part.pieces().iter().enumerate() {
            let name = segment::piece_key(&part.hash, piece);
            fs::write(data.join(&name), bytes).unwrap();
            names.insert(name);
        }
        let (name, hash) = (part.name.clone(), part.hash.clone());
        refs.push(SegmentRef { name, hash, places: vec![0; part.pieces().len()] });
    }
    let manifest = Manifest {
        format: document::FORMAT,
        sequence: Sequence(sequence),
        revision: revision.clone(),
        published_at: Timestamp::now(),
        segments: refs,
        materials,
        leaving,
        course: Default::default(),
    };
    fs::write(data.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let link = root.join("..data_tmp");
    symlink(data.file_name().unwrap(), &link).unwrap();
    fs::rename(&link, root.join("..data")).unwrap();
    for name in names {
        let file = root.join(&name);
        if fs::symlink_metadata(&file).is_err() {
            symlink(format!("..data/{name}"), file).unwrap();
        }
    }
    revision
}
