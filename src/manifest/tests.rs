//! Folders as users write them: samples, mistakes, and the whole way from YAML to a bundle.

mod folder;
mod golden;
mod kept;
mod mistakes;
mod people;
mod set;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Generations, Loaded, load};
use crate::api::OutboundGateway;
use crate::translate::{LastGood, ObjectKey, Outcome, Translation, translate, unattached};

/// A file or folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder that is deleted in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postern-manifest-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn of(text: &str) -> Self {
        let folder = Self::new();
        folder.put("a.yaml", text);
        folder
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn load(&self) -> Loaded {
        load(&self.0).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads text as a folder with one file, with generations counted on, and the gateway it wants.
fn read(text: &str, generations: &mut Generations) -> Loaded {
    let mut loaded = Folder::of(text).load();
    loaded.number(generations);
    for namespace in unattached(&loaded.resources).wanted_defaults {
        loaded.resources.gateways.push(Arc::new(OutboundGateway::made_for(&namespace)));
    }
    loaded
}

/// One pass over the only gateway.
fn pass(loaded: &Loaded, last_good: Option<&LastGood>) -> (Translation, Vec<Outcome>) {
    let keys: Vec<ObjectKey> = loaded.resources.gateway_keys().into_iter().collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    (translate(&keys[0], &loaded.resources, last_good), unattached(&loaded.resources).outcomes)
}

fn last_good(translation: Translation) -> Option<LastGood> {
    Some(LastGood { bundle: translation.bundle?, materials: translation.materials })
}
