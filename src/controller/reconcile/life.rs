//! Fewer and more pods: reads what the API server has, and carries out what [`crate::controller::life`] decides.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Driver, PassError, Subject};
use crate::api::conditions::{self, ConditionType, Reason, State, Verdict};
use crate::controller::apply::{ApplyError, bounded};
use crate::controller::build::{SPOOL_VOLUME, selector_text};
use crate::controller::life::{self, Life, Scene, Set, Wish};

/// What a driver remembers of it.
#[derive(Default)]
pub(super) struct Memory {
    pub next: Life,
    /// The StatefulSet as it was last read or written.
    known: Option<Known>,
}

struct Known {
    /// `None`: there is none.
    set: Option<Set>,
    version: Option<String>,
}

impl Memory {
    /// What was written may not be what is there.
    pub fn distrust(&mut self) {
        self.known = None;
    }

    /// Gives the StatefulSet its size of now.
    pub fn shape(&self, wish: &mut StatefulSet) {
        let Some(next) = self.next.set else { return };
        let spec = &mut wish.spec;
        spec.replicas = Some(next.replicas);
        if let Some(StatefulSetPersistentVolumeClaimRetentionPolicy { when_scaled, .. }) =
            &mut spec.persistent_volume_claim_retention_policy
        {
            *when_scaled = Some(if next.deletes_claims { "Delete" } else { "Retain" }.to_owned());
        }
        // One that shrinks must be what was looked at: its pods may have become ready again since.
        let known = self.known.as_ref();
        let shrinks = known.and_then(|known| known.set).is_some_and(|set| next.replicas < set.replicas);
        if shrinks {
            wish.metadata.resource_version = known.and_then(|known| known.version.clone());
        }
    }

    pub fn written(&mut self) {
        self.known = self.next.set.map(|set| Known { set: Some(set), version: None });
    }
}

impl Driver {
    /// Decides which pods are to leave, and how many there are to be.
    pub(super) async fn live_on(&mut self, subject: &Subject) -> Result<(), PassError> {
        let spec = &subject.gateway.spec;
        let known = self.life.known.as_ref().map(|known| known.set);
        let shrinks = known.flatten().is_some_and(|set| spec.replicas < set.replicas || set.deletes_claims);
        if known.is_none() || shrinks {
            self.life.known = Some(self.read_set().await?);
        }
        let set = self.life.known.as_ref().and_then(|known| known.set);
        if subject.malformed {
            // Nobody knows what its author wants: it stays as it is.
            self.life.next = Life { set, ..self.life.next.clone() };
            return Ok(());
        }
        let (pods, heard) = (self.pods(), self.heard.clone());
        let wish =
            Wish { gateway: &self.key.name, replicas: spec.replicas, ephemeral: spec.storage.ephemeral };
        let manifest = self.press.published.manifest.as_ref();
        let mut scene = Scene { set, pods: &pods, acks: &heard, manifest, blank: &BTreeSet::new() };
        let lacks = |number: i32| {
            let name = format!("{}-{number}", self.key.name);
            !pods.iter().any(|pod| pod.name == name && pod.scheduled)
        };
        let blank;
        if set.is_some_and(|set| !wish.ephemeral && (wish.replicas.max(0)..set.replicas).any(lacks)) {
            blank = self.without_volume(set.map_or(0, |set| set.replicas)).await?;
            scene.blank = &blank;
        }
        let mut next = life::plan(wish, scene);
        if wish.replicas == 0 && !wish.ephemeral && next.verdict.is_none() {
            let said = self.life.next.verdict.take().filter(|verdict| verdict.reason == Reason::NoPeer);
            next.verdict = said.or_else(|| self.said_before());
        }
        if next.leaving != self.life.next.leaving {
            tracing::info!(gateway = %self.key, leaving = ?next.leaving, "pods that are to leave");
        }
        self.press.published.leaving.clone_from(&next.leaving);
        self.life.next = next;
        Ok(())
    }

    /// Whether pods have to be told.
    pub(super) fn is_leaving_unsaid(&self) -> bool {
        let manifest = self.press.published.manifest.as_ref();
        manifest.is_some_and(|manifest| manifest.leaving != self.life.next.leaving)
    }

    async fn read_set(&self) -> Result<Known, ApplyError> {
        let api: Api<StatefulSet> = Api::namespaced(self.ctx.client.clone(), &self.key.namespace);
        let what = format!("StatefulSet {}", self.key);
        let Some(found) = bounded(&what, api.get_opt(&self.key.name)).await? else {
            return Ok(Known { set: None, version: None });
        };
        let policy = found.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes_claims =
            policy.and_then(|policy| policy.when_scaled.as_deref()).is_some_and(|policy| policy == "Delete");
        let replicas = found.spec.replicas.unwrap_or(1);
        Ok(Known { set: Some(Set { replicas, deletes_claims }), version: found.resource_version() })
    }

    /// Pods of a set of this size whose claim was never bound to a volume: no mail can be there.
    async fn without_volume(&self, size: i32) -> Result<BTreeSet<String>, ApplyError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ctx.client.clone(), &self.key.namespace);
        let params = ListParams::default().labels(&selector_text(&self.key.name));
        let claims = bounded("volume claims", api.list(&params)).await?;
        let bound: HashMap<String, bool> = claims
            .iter()
            .map(|claim| {
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                (claim.name_any(), phase != Some("Pending"))
            })
            .collect();
        let names = (0..size).map(|number| format!("{}-{number}", self.key.name));
        Ok(names
            .filter(|name| !bound.get(&format!("{SPOOL_VOLUME}-{name}")).copied().unwrap_or(false))
            .collect())
    }

    /// Nobody can be asked any more; what was known when the last pods went stays said.
    fn said_before(&self) -> Option<Verdict> {
        let entry = self.ctx.world.entry(&self.id())?;
        let said = conditions::get(&entry.status.conditions, ConditionType::ScalingDown)?;
        (said.reason == Reason::NoPeer.as_str()).then(|| {
            Verdict::new(ConditionType::ScalingDown, State::True, Reason::NoPeer, said.message.clone())
        })
    }
}
