//! Who looks after what: one driver per gateway, and what no gateway looks after: objects that refer to one
//! that is not there, and the gateway named `default` that is made for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::apply::{MANAGER, bounded};
use super::reconcile::{Context, Driver};
use super::status;
use super::statuses::{Change, resource};
use super::world::{Entry, Written, gateway_id, now};
use crate::api::{DEFAULT_GATEWAY, GROUP, VERSION};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::translate::{ObjectKey, unattached};

/// Changes come in bursts (`kubectl apply -f`); gateways are rare.
const PACE: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(5);

pub struct Supervisor {
    ctx: Arc<Context>,
    drivers: JoinSet<()>,
    tasks: HashMap<Id, ObjectKey>,
    stops: HashMap<ObjectKey, CancellationToken>,
}

impl Supervisor {
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx, drivers: JoinSet::new(), tasks: HashMap::new(), stops: HashMap::new() }
    }

    /// Works until `stop`, then waits until every driver has ended its pass.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut again = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = self.ctx.world.outline.wait() => {}
                () = sleep(RETRY), if again => {}
                Some(ended) = self.drivers.join_next_with_id() => {
                    self.ended(ended.map(|(id, ())| id));
                    continue;
                }
            }
            if self.ctx.world.is_complete() {
                self.staff(&stop);
                again = !self.strays().await;
            }
            sleep(PACE).await;
        }
        while self.drivers.join_next().await.is_some() {}
    }

    fn ended(&mut self, ended: Result<Id, JoinError>) {
        let id = match &ended {
            Ok(id) => *id,
            Err(failure) => failure.id(),
        };
        let Some(key) = self.tasks.remove(&id) else { return };
        if !self.stops.contains_key(&key) {
            self.ctx.people.want(&key, BTreeMap::new());
        }
        match ended {
            // It was told to.
            Ok(_) => debug!(gateway = %key, "no longer looked after"),
            Err(failure) => {
                // One gateway's bug must not stop the others: it gets a new driver.
                error!(gateway = %key, %failure, "the driver broke down");
                self.stops.remove(&key);
                self.ctx.world.outline.spec();
            }
        }
    }

    /// A driver for each gateway that exists, and none for others.
    fn staff(&mut self, stop: &CancellationToken) {
        let gateways = self.ctx.world.gateways();
        self.stops.retain(|key, stop| {
            let stays = gateways.contains(key);
            if !stays {
                stop.cancel();
                self.ctx.world.forget(key);
            }
            stays
        });
        for key in gateways {
            if self.stops.contains_key(&key) {
                continue;
            }
            let bell = self.ctx.world.listen(&key);
            let own = stop.child_token();
            let driver = Driver::new(self.ctx.clone(), key.clone(), bell);
            let task = self.drivers.spawn(driver.run(own.clone()));
            self.tasks.insert(task.id(), key.clone());
            self.stops.insert(key, own);
        }
    }

    /// Objects without a gateway: their statuses, and the default gateways they wait for. False: try again.
    async fn strays(&self) -> bool {
        let now = now();
        let strays = unattached(&self.ctx.world.strays());
        let mut changes = Vec::new();
        for outcome in &strays.outcomes {
            let entry = self.ctx.world.entry(&outcome.origin.object);
            let Some(entry) = entry.filter(|entry| entry.uid == outcome.origin.uid) else { continue };
            let after = status::of_stray(outcome, entry.action(), &entry.status, now);
            changes.extend(Change::new(&outcome.origin, &entry.status, after));
        }
        self.ctx.statuses.submit(changes);
        let mut done = true;
        for namespace in strays.wanted_defaults {
            done &= self.make_default(&namespace).await;
        }
        for (object, entry) in self.ctx.world.unused_defaults() {
            done &= self.remove_default(&object, &entry).await;
        }
        done
    }

    async fn make_default(&self, namespace: &str) -> bool {
        let resource = resource(ObjectKind::OutboundGateway);
        let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), namespace, &resource);
        let gateway = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": resource.kind,
            "metadata": {"name": DEFAULT_GATEWAY, "namespace": namespace},
            "spec": {},
        });
        let params = PatchParams::apply(MANAGER);
        match bounded("the default gateway", api.patch(DEFAULT_GATEWAY, &params, &Patch::Apply(&gateway)))
            .await
        {
            Ok(made) => {
                info!(namespace, "made the default gateway");
                self.ctx.world.absorb(ObjectKind::OutboundGateway, made);
                true
            }
            Err(error) if error.is_namespace_going() || error.is_not_found() => {
                debug!(namespace, %error, "no default gateway here: the namespace is going");
                false
            }
            Err(error) => {
                warn!(namespace, %error, "cannot make the default gateway");
                false
            }
        }
    }

    /// Nothing refers to it any more, and nobody but us ever wrote it.
    async fn remove_default(&self, object: &ObjectId, entry: &Entry) -> bool {
        let resource = resource(ObjectKind::OutboundGateway);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.ctx.client.clone(), &object.namespace, &resource);
        let just_this = Preconditions {
            uid: Some(entry.uid.clone()),
            resource_version: Some(entry.resource_version.clone()),
        };
        let params = DeleteParams::background().preconditions(just_this);
        match bounded("the default gateway", api.delete(&object.name, &params)).await {
            Ok(_) => {
                info!(namespace = object.namespace, "removed the default gateway, which nothing uses");
                true
            }
            Err(error) => {
                debug!(namespace = object.namespace, %error, "cannot remove the default gateway");
                false
            }
        }
    }
}

impl super::world::World {
    /// Gateways that we made and nothing refers to.
    fn unused_defaults(&self) -> Vec<(ObjectId, Arc<Entry>)> {
        let unused =
            self.gateways().into_iter().filter(|key| key.name == DEFAULT_GATEWAY).filter_map(|key| {
                let id = gateway_id(&key);
                let entry = self.entry(&id).filter(|_| self.is_alone(&key))?;
                let ours = matches!(entry.written, Written::Gateway(_))
                    && !entry.deleting
                    && !entry.managers.is_empty()
                    && entry.managers.iter().all(|manager| manager == MANAGER);
                ours.then_some((id, entry))
            });
        unused.collect()
    }
}
