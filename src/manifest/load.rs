//! The walk over the folder: files in the order of their names, documents in the order of their lines.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::object::{self, KINDS, Object};
use super::yaml::{self, Node, Trouble};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::bundle::material::{Material, MaterialKind, Materials};
use crate::translate::Severity;
use crate::translate::resources::{Malformed, ObjectKey, Resources, key};

/// Larger files are not read: the API server would not take such objects either.
const MAX_FILE: u64 = 64 << 20;
const MAX_DEPTH: usize = 16;

/// Something wrong or odd, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    pub file: PathBuf,
    pub line: usize,
    pub severity: Severity,
    pub message: String,
}

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub resources: Resources,
    /// The bytes of every Secret and ConfigMap.
    pub materials: Materials,
    /// In the order of files and lines. Objects that have errors are in `resources.malformed`.
    pub problems: Vec<Located>,
    /// Some file is empty or cannot be read, or some document could not even be named: what is missing here may be
    /// in it, so nothing counts as deleted.
    pub incomplete: bool,
    /// Files of test cases (`*.test.yaml`), which are no objects.
    pub cases: Vec<PathBuf>,
    pub(super) secret_content: BTreeMap<ObjectKey, Hidden>,
    places: BTreeMap<ObjectId, (PathBuf, Node)>,
    others: BTreeMap<(MaterialKind, ObjectKey), (PathBuf, usize)>,
    root: PathBuf,
}

/// The content of a Secret, only to notice changes. Debug output shows nothing of it.
#[derive(Clone)]
pub(super) struct Hidden(pub Vec<u8>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Reads a folder with all below it, or one file. Hidden entries are skipped. Fails only if `path` itself
/// cannot be read; everything else ends in [`Loaded::problems`].
pub fn load(path: &Path) -> io::Result<Loaded> {
    let mut loaded = Loaded { root: path.to_owned(), ..Loaded::default() };
    for file in files(path, &mut loaded)? {
        loaded.file(&file);
    }
    loaded.problems.sort();
    loaded.cases.sort();
    Ok(loaded)
}

/// What tells whether somebody wrote to a folder between two looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stamps(Vec<(PathBuf, Option<(u64, SystemTime)>)>);

/// Length and time of each file that [`load`] reads. Fails as that does.
pub fn stamps(path: &Path) -> io::Result<Stamps> {
    let files = files(path, &mut Loaded::default())?;
    let stamp = |file: &Path| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    Ok(Stamps(files.into_iter().map(|file| (file.clone(), stamp(&file))).collect()))
}

/// The files of objects, in the order of their names.
fn files(path: &Path, loaded: &mut Loaded) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if std::fs::metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), 0, &mut files, loaded);
        }
    } else {
        std::fs::File::open(path)?;
        files.push(path.to_owned());
    }
    files.sort();
    Ok(files)
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>, loaded: &mut Loaded) {
    let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    if hidden || depth > MAX_DEPTH {
        return;
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => match std::fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    collect(&entry.path(), depth + 1, files, loaded);
                }
            }
            Err(error) => loaded.unreadable(path, &error.to_string()),
        },
        Ok(_) => {
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
            let kind = stem.as_deref().and_then(|stem| stem.rsplit_once('.')).map(|(_, kind)| kind);
            match (ending.as_deref(), kind) {
                (Some("yaml" | "yml" | "json"), Some("test")) => loaded.cases.push(path.to_owned()),
                // The envelope of a stored message.
                (Some("yaml" | "yml" | "json"), Some("envelope")) => {}
                (Some("yaml" | "yml" | "json"), _) => files.push(path.to_owned()),
                _ => {}
            }
        }
        // It vanished while we looked: an editor's temporary file, or a deletion.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => loaded.unreadable(path, &error.to_string()),
    }
}

impl Loaded {
    /// File and line of what `path` names in an object, such as `spec.hosts[1].host`.
    pub fn locate(&self, object: &ObjectId, path: &str) -> (PathBuf, usize) {
        match self.places.get(object) {
            Some((file, node)) => (file.clone(), node.line_of(path)),
            None => (self.root.clone(), 1),
        }
    }

    /// Whether the object could not be read; what is wrong with it is in [`Loaded::problems`].
    pub fn is_malformed(&self, object: &ObjectId) -> bool {
        self.resources.malformed.iter().any(|malformed| malformed.object == *object)
    }

    fn note(&mut self, file: &Path, severity: Severity, trouble: Trouble) {
        let Trouble { line, message } = trouble;
        self.problems.push(Located { file: file.to_owned(), line, severity, message });
    }

    fn unreadable(&mut self, path: &Path, why: &str) {
        self.incomplete = true;
        self.note(path, Severity::Error, Trouble { line: 1, message: format!("cannot be read: {why}") });
    }

    fn file(&mut self, file: &Path) {
        let bytes = match std::fs::metadata(file).map(|meta| meta.len()) {
            Ok(length) if length > MAX_FILE => {
                return self.unreadable(file, &format!("it is larger than {} MiB", MAX_FILE >> 20));
            }
            _ => std::fs::read(file),
        };
        match bytes.map(String::from_utf8) {
            // What an editor leaves for a moment when it writes over a file. kubectl takes none either.
            Ok(Ok(text)) if text.is_empty() => {
                self.unreadable(file, "it is empty; write an object to it, or remove it");
            }
            Ok(Ok(text)) => self.text(file, &text),
            Ok(Err(_)) => self.unreadable(file, "it is not UTF-8 text"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable(file, &error.to_string()),
        }
    }

    fn text(&mut self, file: &Path, text: &str) {
        for (lines_before, document) in yaml::documents(text) {
            match yaml::read(document, lines_before) {
                Ok((node, _)) if node.is_null() => {}
                Ok((node, troubles)) => self.document(file, &node, troubles),
                Err(trouble) => {
                    self.recover(document, &trouble);
                    self.note(file, Severity::Error, trouble);
                }
            }
        }
    }

    fn document(&mut self, file: &Path, node: &Node, doubled: Vec<Trouble>) {
        let doubled_any = !doubled.is_empty();
        for trouble in doubled {
            self.note(file, Severity::Error, trouble);
        }
        for node in object::list(node).unwrap_or(std::slice::from_ref(node)) {
            let (mut troubles, mut warnings) = (Vec::new(), Vec::new());
            let mut object = object::read(node, &mut troubles, &mut warnings);
            if doubled_any {
                object = object.spoiled("a field is given twice");
            }
            if matches!(object, Object::Nothing) && !troubles.is_empty() {
                self.incomplete = true;
            }
            for trouble in troubles {
                self.note(file, Severity::Error, trouble);
            }
            for warning in warnings {
                self.note(file, Severity::Warning, warning);
            }
            self.add(file, node, object);
        }
    }

    fn add(&mut self, file: &Path, node: &Node, object: Object) {
        let Some((kind, key)) = object.identity() else { return };
        let first = match kind {
            Identity::Ours(kind) => {
                let id = ObjectId { kind, namespace: key.namespace.clone(), name: key.name.clone() };
                let first = self.places.get(&id).map(|(file, node)| (file.clone(), node.line));
                if first.is_none() {
                    self.places.insert(id, (file.to_owned(), node.clone()));
                }
                first
            }
            Identity::Other(kind) => {
                let first = self.others.get(&(kind, key.clone())).cloned();
                if first.is_none() {
                    self.others.insert((kind, key.clone()), (file.to_owned(), node.line));
                }
                first
            }
        };
        if let Some((first, line)) = first {
            let message =
                format!("{} {key} is given twice; the first is at {}:{line}", kind.as_str(), first.display());
            return self.note(file, Severity::Error, Trouble { line: node.line, message });
        }
        let resources = &mut self.resources;
        match object {
            Object::Gateway(gateway) => resources.gateways.push(Arc::new(*gateway)),
            Object::Route(route) => resources.routes.push(Arc::new(*route)),
            Object::Routing(rule) => resources.routing_rules.push(Arc::new(*rule)),
            Object::Compliance(rule) => resources.compliance_rules.push(Arc::new(*rule)),
            Object::AddressList(list) => resources.address_lists.push(Arc::new(*list)),
            Object::Directory(directory) => resources.directories.push(Arc::new(*directory)),
            Object::Quarantine(quarantine) => resources.quarantines.push(Arc::new(*quarantine)),
            Object::Malformed(malformed) => resources.malformed.push(*malformed),
            Object::ConfigMap(key, facts) => {
                for (name, text) in facts.data.iter() {
                    self.materials.insert(material(MaterialKind::ConfigMap, &key, name), text.as_bytes());
                }
                resources.config_maps.insert(key, facts);
            }
            Object::Secret(key, facts, content) => {
                let mut whole = Vec::new();
                for (name, bytes) in content {
                    whole.extend_from_slice(name.as_bytes());
                    whole.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                    whole.extend_from_slice(&bytes);
                    self.materials.insert(material(MaterialKind::Secret, &key, &name), bytes);
                }
                self.secret_content.insert(key.clone(), Hidden(whole));
                resources.secrets.insert(key, facts);
            }
            Object::Nothing => {}
        }
    }

    /// Finds out which object a document is that is no YAML, by its first lines.
    fn recover(&mut self, document: &str, trouble: &Trouble) {
        let top = |name: &str| {
            let mut lines = document.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let after = |text: &str, name: &str| {
            text.trim_start().strip_prefix(name)?.strip_prefix(':').map(|value| unquoted(value).to_owned())
        };
        let in_metadata = |name: &str| match top("metadata")?.strip_prefix('{') {
            Some(flow) => flow.split(['}', '{']).next()?.split(',').find_map(|pair| after(pair, name)),
            None => {
                let lines = document.lines().skip_while(|line| !line.starts_with("metadata:")).skip(1);
                let mut inside =
                    lines.take_while(|line| line.starts_with([' ', '#']) || line.trim().is_empty());
                inside.find_map(|line| after(line, name))
            }
        };
        let kind =
            top("kind").and_then(|kind| KINDS.into_iter().find(|ours| ours.as_str() == unquoted(kind)));
        match (kind, in_metadata("name")) {
            (Some(kind), Some(name)) if !name.is_empty() => {
                let namespace = in_metadata("namespace").unwrap_or_else(|| "default".to_owned());
                let object = ObjectId { kind, namespace, name };
                if !self.places.contains_key(&object) {
                    self.resources.malformed.push(Malformed {
                        uid: object.to_string(),
                        object,
                        generation: 1,
                        error: trouble.message.clone(),
                        gateway_ref: None,
                        spec: None,
                    });
                }
            }
            _ => self.incomplete = true,
        }
    }
}

fn unquoted(value: &str) -> &str {
    let value = value.split(" #").next().unwrap_or(value);
    value.trim().trim_matches(['"', '\''])
}

fn material(kind: MaterialKind, key: &ObjectKey, name: &str) -> Material {
    Material { kind, namespace: key.namespace.clone(), name: key.name.clone(), key: name.to_owned() }
}

#[derive(Clone, Copy)]
enum Identity {
    Ours(ObjectKind),
    Other(MaterialKind),
}

impl Identity {
    fn as_str(self) -> &'static str {
        match self {
            Identity::Ours(kind) => kind.as_str(),
            Identity::Other(MaterialKind::Secret) => "Secret",
            Identity::Other(MaterialKind::ConfigMap) => "ConfigMap",
        }
    }
}

impl Object {
    fn identity(&self) -> Option<(Identity, ObjectKey)> {
        Some(match self {
            Object::Gateway(object) => (Identity::Ours(ObjectKind::OutboundGateway), key(&**object)),
            Object::Route(object) => (Identity::Ours(ObjectKind::OutboundRoute), key(&**object)),
            Object::Routing(object) => (Identity::Ours(ObjectKind::RoutingRule), key(&**object)),
            Object::Compliance(object) => (Identity::Ours(ObjectKind::ComplianceRule), key(&**object)),
            Object::AddressList(object) => (Identity::Ours(ObjectKind::AddressList), key(&**object)),
            Object::Directory(object) => (Identity::Ours(ObjectKind::Directory), key(&**object)),
            Object::Quarantine(object) => (Identity::Ours(ObjectKind::Quarantine), key(&**object)),
            Object::Malformed(malformed) => {
                let ObjectId { kind, namespace, name } = &malformed.object;
                (Identity::Ours(*kind), ObjectKey::new(namespace, name))
            }
            Object::ConfigMap(key, _) => (Identity::Other(MaterialKind::ConfigMap), key.clone()),
            Object::Secret(key, _, _) => (Identity::Other(MaterialKind::Secret), key.clone()),
            Object::Nothing => return None,
        })
    }

    /// An object of ours whose document is ambiguous is not used.
    fn spoiled(self, error: &str) -> Object {
        match self.identity() {
            Some((Identity::Ours(kind), key)) => {
                let object = ObjectId { kind, namespace: key.namespace, name: key.name };
                Object::Malformed(Box::new(Malformed {
                    uid: object.to_string(),
                    object,
                    generation: 1,
                    error: error.to_owned(),
                    gateway_ref: None,
                    spec: None,
                }))
            }
            _ => self,
        }
    }
}
