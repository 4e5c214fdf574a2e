//! What changed in the folder, as records of the audit log: object by object and field by field, and the revision
//! that came of it. Who changed a file, no file says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::diff::diff;
use crate::audit::{Entry, Event, REASON_ANNOTATION};
use crate::gateway::access::trail::Trail;
use crate::gateway::files;
use crate::manifest::Loaded;
use crate::published::RangeNews;
use crate::translate::ObjectKey;
use crate::translate::resources::{Kind, origin};

const FILE: &str = "audit-forms.json";

/// An object as it was recorded last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Form {
    generation: i64,
    content: Value,
}

pub struct Changes {
    trail: Trail,
    file: PathBuf,
    /// The folder of YAML, as the source of what changed.
    folder: String,
    /// `None`: nothing was recorded yet, so what is there is found and not made.
    forms: Option<BTreeMap<String, Form>>,
    revision: Option<String>,
}

impl Changes {
    /// Goes on where the last run ended: what changed in between is recorded at the first look.
    pub fn read(trail: Trail, state: &Path, folder: &Path) -> Self {
        let file = state.join(FILE);
        let forms = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { trail, file, folder: folder.display().to_string(), forms, revision: None }
    }

    /// Records what is not as it was.
    pub async fn seen(&mut self, loaded: &Loaded, at: Timestamp) {
        let now = forms(loaded);
        if self.forms.as_ref() == Some(&now) {
            return;
        }
        let entries = self.compare(&now, loaded.incomplete, at);
        if !entries.is_empty()
            && let Err(error) = self.trail.record(entries).await
        {
            // It is looked at again with the next look, and mail goes on.
            tracing::error!(error, "changes of the folder are not recorded yet");
            return;
        }
        let mut kept = now;
        if loaded.incomplete {
            // What cannot be read now is not gone.
            for (object, form) in self.forms.take().into_iter().flatten() {
                kept.entry(object).or_insert(form);
            }
        }
        let text = serde_json::to_vec(&kept).expect("these have string keys only");
        if let Err(error) = files::replace(&self.file, &text) {
            tracing::warn!(%error, "cannot remember over a restart what is recorded");
        }
        self.forms = Some(kept);
    }

    fn compare(&self, now: &BTreeMap<String, Form>, incomplete: bool, at: Timestamp) -> Vec<Entry> {
        let none = BTreeMap::new();
        let before = self.forms.as_ref().unwrap_or(&none);
        let empty = json!({});
        let mut entries = Vec::new();
        for (object, form) in now {
            let old = before.get(object);
            if old.is_some_and(|old| old.content == form.content) {
                continue;
            }
            let event = match (old, &self.forms) {
                (Some(_), _) => Event::Update,
                (None, Some(_)) => Event::Create,
                (None, None) => Event::Found,
            };
            let was = old.map_or(&empty, |old| &old.content);
            entries.push(self.entry(event, object, form, was, &form.content, at));
        }
        let gone = before.iter().filter(|(object, _)| !incomplete && !now.contains_key(*object));
        entries.extend(
            gone.map(|(object, old)| self.entry(Event::Delete, object, old, &old.content, &empty, at)),
        );
        entries
    }

    fn entry(
        &self,
        event: Event,
        object: &str,
        form: &Form,
        old: &Value,
        new: &Value,
        at: Timestamp,
    ) -> Entry {
        let (fields, omitted) = diff(old, new, &|_| Vec::new());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Entry {
            generation: Some(form.generation),
            unit: text(&form.content["spec"]["organizationalUnit"]),
            reason: text(&form.content["metadata"]["annotations"][REASON_ANNOTATION]),
            source: Some(self.folder.clone()),
            fields,
            omitted,
            ..Entry::new(at, event).about(object)
        }
    }

    /// A revision is in force from now on.
    pub async fn taken(&mut self, revision: &str) {
        if self.revision.as_deref() == Some(revision) {
            return;
        }
        let entry = Entry::new(Timestamp::now(), Event::Reload);
        let entry = Entry { revision: Some(revision.to_owned()), source: Some(self.folder.clone()), ..entry };
        match self.trail.record(vec![entry]).await {
            Ok(()) => self.revision = Some(revision.to_owned()),
            Err(error) => tracing::error!(error, revision, "that a revision is in force is not recorded"),
        }
    }

    /// Who may relay has changed because DNS says so.
    pub async fn ranges(&self, gateway: &ObjectKey, news: &[RangeNews]) {
        let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let entries: Vec<Entry> = news
            .iter()
            .map(|news| {
                Entry::new(Timestamp::now(), Event::ClientRanges)
                    .about(format!("OutboundGateway/{gateway}"))
                    .with("domain", news.domain.as_str())
                    .with("added", list(&news.added))
                    .with("removed", list(&news.removed))
            })
            .collect();
        if !entries.is_empty()
            && let Err(error) = self.trail.record(entries).await
        {
            tracing::error!(error, "a change of the client ranges is not recorded");
        }
    }
}

fn forms(loaded: &Loaded) -> BTreeMap<String, Form> {
    let mut forms = BTreeMap::new();
    let resources = &loaded.resources;
    resources.gateways.iter().for_each(|object| add(&mut forms, &**object));
    resources.routes.iter().for_each(|object| add(&mut forms, &**object));
    resources.routing_rules.iter().for_each(|object| add(&mut forms, &**object));
    resources.compliance_rules.iter().for_each(|object| add(&mut forms, &**object));
    resources.address_lists.iter().for_each(|object| add(&mut forms, &**object));
    resources.directories.iter().for_each(|object| add(&mut forms, &**object));
    resources.quarantines.iter().for_each(|object| add(&mut forms, &**object));
    for malformed in &resources.malformed {
        let content = json!({"spec": malformed.spec, "error": malformed.error});
        forms.insert(malformed.object.to_string(), Form { generation: malformed.generation, content });
    }
    forms
}

fn add<K: Kind + Serialize>(forms: &mut BTreeMap<String, Form>, object: &K) {
    let mut whole = serde_json::to_value(object).expect("an object is plain data");
    let mut content = json!({"spec": whole["spec"].take()});
    for (name, map) in [("labels", object.labels()), ("annotations", object.annotations())] {
        if !map.is_empty() {
            content["metadata"][name] = json!(map);
        }
    }
    let generation = object.meta().generation.unwrap_or(0);
    forms.insert(origin(object).object.to_string(), Form { generation, content });
}
