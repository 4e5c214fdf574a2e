//! Writes statuses: only those that changed, a few at a time, each outcome counted. What they say was
//! decided in `status`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::apply::{ApplyError, MANAGER, bounded};
use super::metrics::Metrics;
use super::status::{MAX_NOTE, News, Status, Tone, news};
use super::told::told;
use super::world::World;
use crate::api::{
    AddressList, ComplianceRule, Directory, OutboundGateway, OutboundRoute, Quarantine, RoutingRule,
};
use crate::bundle::document::{ObjectId, ObjectKind, Origin};

/// Statuses written at the same time.
const AT_ONCE: usize = 16;
/// Changes of one pass that get an Event each; of more, only those that went wrong.
const EVENTS: usize = 20;
const RETRY: Duration = Duration::from_secs(1);

/// One status to write.
pub struct Change {
    pub origin: Origin,
    pub before: Status,
    pub after: Status,
}

impl Change {
    /// `None`: it says this already.
    pub fn new(origin: &Origin, before: &Status, after: Status) -> Option<Self> {
        (*before != after).then(|| Self { origin: origin.clone(), before: before.clone(), after })
    }
}

/// All statuses on their way. Of one object only the newest waits, and no two are written at once.
pub struct Statuses {
    client: Client,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    order: VecDeque<ObjectId>,
    waiting: HashMap<ObjectId, Change>,
    writing: HashMap<ObjectId, Status>,
}

impl Statuses {
    pub fn new(client: Client, world: Arc<World>, metrics: Arc<Metrics>, recorder: Recorder) -> Self {
        Self { client, world, metrics, recorder, queue: Mutex::default(), filled: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no code panics while it holds this lock")
    }

    /// Has them written soon. What says nothing new is dropped.
    pub fn submit(&self, changes: Vec<Change>) {
        let mut queue = self.queue();
        for change in changes {
            let object = change.origin.object.clone();
            let waits = queue.waiting.contains_key(&object);
            if !waits && queue.writing.get(&object) == Some(&change.after) {
                continue;
            }
            queue.waiting.insert(object.clone(), change);
            if !waits {
                queue.order.push_back(object);
            }
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Writes what is submitted until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut writes = FuturesUnordered::new();
        loop {
            while writes.len() < AT_ONCE
                && let Some(change) = self.next()
            {
                writes.push(self.write(change));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.filled.notified() => {}
                Some(()) = writes.next() => {}
            }
        }
    }

    fn next(&self) -> Option<Change> {
        let mut queue = self.queue();
        let ready = queue.order.iter().position(|object| !queue.writing.contains_key(object))?;
        let object = queue.order.remove(ready)?;
        let change = queue.waiting.remove(&object)?;
        queue.writing.insert(object, change.after.clone());
        Some(change)
    }

    async fn write(&self, change: Change) {
        let many = self.queue().order.len() > EVENTS;
        self.world.expect_status(&change.origin.object, Some(change.after.clone()));
        let written = self.one(&change).await;
        self.world.expect_status(&change.origin.object, None);
        if !written {
            // Whoever submitted it looks again and decides afresh.
            sleep(RETRY).await;
        }
        self.queue().writing.remove(&change.origin.object);
        if written {
            self.tell(&change, many).await;
        } else {
            self.world.ring(&change.origin.object);
        }
    }

    async fn one(&self, change: &Change) -> bool {
        let Origin { object, uid, .. } = &change.origin;
        let resource = resource(object.kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &object.namespace, &resource);
        // Untyped: an object that does not have the form of its kind gets its status too. The uid keeps a
        // new object of that name from getting the status of an old one.
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"uid": uid},
            "status": change.after,
        });
        let params = PatchParams::apply(MANAGER).force();
        let what = object.to_string();
        let (outcome, done) =
            match bounded(&what, api.patch_status(&object.name, &params, &Patch::Apply(&patch))).await {
                Ok(written) => {
                    let version = written.metadata.resource_version.unwrap_or_default();
                    let status = written.data.get("status").map(Status::deserialize);
                    let status = status.and_then(Result::ok).unwrap_or_default();
                    self.world.absorb_status(object, uid, version, status);
                    ("ok", true)
                }
                Err(ApplyError::Api { source, .. }) => match *source {
                    kube::Error::Api(status) if status.is_not_found() => ("gone", true),
                    kube::Error::Api(status) if status.is_conflict() => ("conflict", true),
                    error => {
                        warn!(object = what, error = told(&error), "cannot write the status");
                        ("error", false)
                    }
                },
                Err(error) => {
                    warn!(object = what, %error, "cannot write the status");
                    ("error", false)
                }
            };
        self.metrics.status_written(outcome);
        done
    }

    /// Events are for people and may get lost.
    async fn tell(&self, change: &Change, many: bool) {
        let Some(News { tone, reason, note }) = news(&change.before, &change.after) else { return };
        let Origin { object, uid, .. } = &change.origin;
        if tone == Tone::Good && many && object.kind != ObjectKind::OutboundGateway {
            return;
        }
        self.announce(object, uid, News { tone, reason, note }).await;
    }

    /// Writes an Event about an object.
    pub async fn announce(&self, object: &ObjectId, uid: &str, news: News) {
        let News { tone, reason, mut note } = news;
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        let type_ = match tone {
            Tone::Good => EventType::Normal,
            Tone::Bad => EventType::Warning,
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let resource = resource(object.kind);
        let reference = k8s_openapi::api::core::v1::ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            namespace: Some(object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(uid.to_owned()),
            ..Default::default()
        };
        if let Err(error) = bounded("an Event", self.recorder.publish(&event, &reference)).await {
            debug!(%object, %error, "an Event was lost");
        }
    }
}

pub fn resource(kind: ObjectKind) -> ApiResource {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    match kind {
        ObjectKind::OutboundGateway => of::<OutboundGateway>(),
        ObjectKind::OutboundRoute => of::<OutboundRoute>(),
        ObjectKind::RoutingRule => of::<RoutingRule>(),
        ObjectKind::ComplianceRule => of::<ComplianceRule>(),
        ObjectKind::AddressList => of::<AddressList>(),
        ObjectKind::Directory => of::<Directory>(),
        ObjectKind::Quarantine => of::<Quarantine>(),
    }
}
