//! The last recorded form of each object, a file each: what the next change is compared with, also over a restart.
//! The chain is the record; these are its memory. What a crash takes of them costs a doubled or a coarser record,
//! never a missing one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::managers::Known;
use super::sight::{Form, Print, Said, of_parts};
use crate::bundle::document::ObjectId;

/// There once everything that exists was recorded: what is new after that was created.
const COMPLETE: &str = "complete";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub object: ObjectId,
    pub uid: String,
    pub generation: i64,
    pub spec: Value,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub managers: Vec<Known>,
    pub said: Said,
}

impl Kept {
    /// What was said once stays said.
    pub fn of(object: &ObjectId, form: &Form, old: Option<&Kept>) -> Self {
        let Form { uid, generation, spec, labels, annotations, managers, mut said } = form.clone();
        let managers = managers.into_iter().map(|manager| manager.known).collect();
        if said.ready.is_none() {
            said.ready = old.filter(|old| old.uid == uid).and_then(|old| old.said.ready.clone());
        }
        Self { object: object.clone(), uid, generation, spec, labels, annotations, managers, said }
    }

    fn print(&self) -> Print {
        of_parts(&self.uid, self.generation, &self.labels, &self.annotations, &self.said)
    }
}

#[derive(Clone)]
pub struct Forms {
    folder: PathBuf,
}

impl Forms {
    pub fn open(log: &Path) -> io::Result<Self> {
        let folder = log.join("forms");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, object: &ObjectId) -> PathBuf {
        let name = &blake3::hash(object.to_string().as_bytes()).to_hex()[..32];
        self.folder.join(format!("{name}.json"))
    }

    /// What is recorded of all objects. What does not read is as if it were not known.
    pub fn known(&self) -> io::Result<HashMap<ObjectId, Print>> {
        let mut known = HashMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(kept) = read(&path)
            {
                known.insert(kept.object.clone(), kept.print());
            }
        }
        Ok(known)
    }

    pub fn get(&self, object: &ObjectId) -> Option<Kept> {
        read(&self.path(object)).filter(|kept| kept.object == *object)
    }

    /// Not synced: the record is.
    pub fn put(&self, kept: &Kept) -> io::Result<()> {
        let path = self.path(&kept.object);
        let beside = path.with_extension("new");
        let text = serde_json::to_vec(kept).expect("a form has string keys only");
        File::create(&beside)?.write_all(&text)?;
        fs::rename(beside, path)
    }

    pub fn remove(&self, object: &ObjectId) -> io::Result<()> {
        match fs::remove_file(self.path(object)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.folder.join(COMPLETE).exists()
    }

    pub fn set_complete(&self) -> io::Result<()> {
        File::create(self.folder.join(COMPLETE))?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }
}

fn read(path: &Path) -> Option<Kept> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
