//! Which revision the pods are to run: the newest, a former one that the gateway is pinned to, or the newest on
//! some pods first. What decides is pure and in [`rollout::course`]; this gathers for it and keeps what it needs.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Driver, PassError, Subject};
use crate::api::conditions::Reason;
use crate::bundle::document::ObjectId;
use crate::bundle::manifest::Halted;
use crate::bundle::material::MaterialVersion;
use crate::bundle::segment::{Segment, cut};
use crate::bundle::{Bundle, Course, Manifest, MaterialKind, Revision};
use crate::controller::build::publication::{self, Stage, Wanted};
use crate::controller::history::{Former, History, RestoreError, restore};
use crate::controller::rollout::course::{Others, Scene, Turn};
use crate::controller::rollout::standing::{Standings, Why};
use crate::controller::rollout::{self};
use crate::controller::status::Failure;
use crate::controller::status::course::StageView;
use crate::controller::world::now;
use crate::translate::{ObjectKey, References, Resources};

/// What a driver remembers between passes about who runs what.
pub(super) struct Steering {
    pub history: History,
    pub others: Others,
    pub standings: Standings,
    /// Objects that were withheld and are not any more: whatever their status says, they set out anew.
    pub released: HashSet<ObjectId>,
    /// What some pods try.
    pub trial: Option<Bundle>,
    pub view: Option<StageView>,
    /// The former revision that was read last.
    former: Option<Former>,
}

/// What is to be in force, decided but not published.
pub(super) struct Aim {
    pub format: u32,
    pub bundle: Bundle,
    pub segments: Vec<Segment>,
    pub materials: Vec<MaterialVersion>,
}

impl Aim {
    pub fn revision(&self) -> Revision {
        Revision::of(self.format, &self.segments, &self.materials)
    }

    /// For all pods, or for some.
    pub fn wanted(&self, stage: Option<Stage>) -> Wanted {
        let (format, segments, materials) = (self.format, self.segments.clone(), self.materials.clone());
        Wanted { format, segments, materials, stage }
    }
}

impl Steering {
    pub fn new(history: History) -> Self {
        Self {
            history,
            others: Others::default(),
            standings: Standings::default(),
            released: HashSet::new(),
            trial: None,
            view: None,
            former: None,
        }
    }
}

impl Driver {
    /// The former revision that the gateway is pinned to; `Err`: why it cannot be used. Its Secrets are those of
    /// today, as long as there are any: a password that was changed since must not come back.
    pub(super) async fn pin(
        &mut self,
        subject: &Subject,
        resources: &mut Resources,
    ) -> Result<Option<Result<(Revision, Aim), Failure>>, PassError> {
        let named = subject.gateway.spec.pinned_revision.as_deref().filter(|_| !subject.malformed);
        let Some(revision) = named.and_then(Revision::named) else {
            self.steering.former = None;
            return Ok(None);
        };
        if self.steering.former.as_ref().is_none_or(|former| former.revision != revision) {
            match restore(&self.ctx.client, &self.key, &subject.uid, &revision).await {
                Ok(former) => self.steering.former = Some(former),
                Err(RestoreError::Api(error)) => return Err(PassError::Publish(error.into())),
                Err(error) => {
                    let reason = match &error {
                        RestoreError::Unknown(_) => Reason::RevisionNotFound,
                        RestoreError::Unusable { .. } | RestoreError::Api(_) => Reason::RevisionUnusable,
                    };
                    return Ok(Some(Err(Failure { reason, message: error.to_string() })));
                }
            }
        }
        let former = self.steering.former.clone().expect("it was read just now");
        let mut references = References::default();
        for version in &former.materials {
            let key = ObjectKey::new(&version.material.namespace, &version.material.name);
            match version.material.kind {
                MaterialKind::Secret => references.secrets.insert(key),
                MaterialKind::ConfigMap => references.config_maps.insert(key),
            };
        }
        self.ctx.world.resolve(&self.key, &references, resources).await;
        let published = self.press.published.manifest.as_ref();
        let mut materials = Vec::new();
        for then in &former.materials {
            let in_use = || published.iter().flat_map(|manifest| manifest.all_materials());
            let copy = || {
                let same = in_use().find(|version| version.material == then.material);
                [Some(then), same].into_iter().flatten().find(|version| self.press.has_copy(version)).cloned()
            };
            match resources.version(&then.material).or_else(copy) {
                Some(version) => materials.push(version),
                None => {
                    let material = &then.material;
                    let message = format!(
                        "revision {revision} uses {:?} {}/{}, key {}, which is not there any more or may not be used: bring it back, or pin another revision; what is published stays in force",
                        material.kind, material.namespace, material.name, material.key
                    );
                    return Ok(Some(Err(Failure { reason: Reason::RevisionUnusable, message })));
                }
            }
        }
        materials.sort();
        let Former { format, bundle, segments, .. } = former;
        Ok(Some(Ok((revision, Aim { format, bundle, segments, materials }))))
    }

    /// What decides about the steps of a rollout.
    pub(super) fn turn(&self, subject: &Subject, aim: &Aim) -> Turn {
        let manifest = self.press.published.manifest.as_ref();
        // What cannot be read wishes nothing: a step that is published lasts.
        if subject.malformed && manifest.is_some_and(|manifest| manifest.course != Course::Whole) {
            return Turn::Stay;
        }
        let (pods, heard) = (self.pods(), self.heard.clone());
        let spec = &subject.gateway.spec;
        let scene = Scene {
            rollout: spec.rollout.as_ref(),
            // Without its content nothing can go on running it.
            manifest: manifest.filter(|_| self.press.last_good.is_some()),
            replicas: u32::try_from(spec.replicas).unwrap_or(0),
            pods: &pods,
            acks: &heard,
            others: &self.steering.others,
            now: now(),
        };
        scene.turn(&aim.revision(), &aim.bundle.wish())
    }

    /// Whether the published step has come to its end, one way or the other.
    pub(super) fn stage_is_due(&mut self, subject: &Subject) -> bool {
        let (pods, heard) = (self.pods(), self.heard.clone());
        let manifest = self.press.published.manifest.as_ref();
        self.steering.others.note(manifest, &pods, &heard);
        self.acks.compare(manifest.is_some_and(|manifest| manifest.staged().is_some()));
        let scene = Scene {
            rollout: subject.gateway.spec.rollout.as_ref(),
            manifest,
            replicas: 0,
            pods: &pods,
            acks: &heard,
            others: &self.steering.others,
            now: now(),
        };
        !subject.malformed && scene.is_due()
    }

    /// What statuses say of a step. Returns when to look at it again.
    pub(super) fn look_at_stage(&mut self, subject: &Subject, manifest: &Manifest) -> Option<Instant> {
        let (pods, heard) = (self.pods(), self.heard.clone());
        let now = now();
        let rollout = subject.gateway.spec.rollout.as_ref();
        let scene = Scene {
            rollout,
            manifest: Some(manifest),
            replicas: 0,
            pods: &pods,
            acks: &heard,
            others: &self.steering.others,
            now,
        };
        let Some((staged, standing)) = scene.standing() else {
            self.steering.view = None;
            return None;
        };
        let progress = rollout::progress_of_stage(&staged.revision, &pods, &heard);
        let named = pods.iter().filter(|pod| staged.pods.contains(&pod.name));
        let obeys = named.filter(|pod| {
            let running = heard.get(&pod.uid).and_then(|ack| ack.running.as_ref());
            pod.counts() && running.is_some_and(|running| running.revision == staged.revision)
        });
        let obeys = u32::try_from(obeys.count()).unwrap_or(u32::MAX);
        let steps = rollout.map_or(0, |rollout| rollout.steps.len());
        let view = StageView::new(staged, &standing, steps, progress, obeys);
        if self.steering.view.as_ref() != Some(&view) {
            self.steering.standings.waiting().for_each(|object| self.desk.keep(object.clone()));
        }
        self.steering.view = Some(view);
        let rollout::course::Verdict::Lasts { until, .. } = standing else { return None };
        let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        // A refusal is given time, and nothing rings when that is over.
        let refused = self.steering.view.as_ref().is_some_and(|view| !view.progress.refused.is_empty());
        Some(Instant::now() + if refused { left.min(Duration::from_secs(5)) } else { left })
    }

    /// From now on this is why objects wait. What is withheld is said before the pods do it.
    pub(super) fn stand(&mut self, standings: Standings) {
        if standings == self.steering.standings {
            return;
        }
        let withheld: HashSet<&ObjectId> = standings.withheld().collect();
        let released = self.steering.standings.withheld().filter(|object| !withheld.contains(object));
        let released: Vec<ObjectId> = released.cloned().collect();
        for object in &withheld {
            self.steering.released.remove(*object);
            self.journeys.end(object);
        }
        let waiting = self.steering.standings.waiting().chain(standings.waiting()).cloned();
        self.desk.changed(waiting.collect());
        self.steering.released.extend(released);
        self.steering.standings = standings;
    }

    /// Publishes what every pod runs anew, because it is not whole any more or not the newest.
    pub(super) async fn restore_stable(&mut self, subject: &Subject) -> Result<(), PassError> {
        let (Some(last_good), Some(manifest)) =
            (self.press.last_good.clone(), &self.press.published.manifest)
        else {
            return Ok(());
        };
        let stable = Aim {
            format: manifest.format,
            segments: cut(&last_good.bundle),
            bundle: last_good.bundle.clone(),
            materials: last_good.materials.clone(),
        };
        let halted: Option<Halted> = manifest.halted().cloned();
        match publication::plan(&self.press.published, stable.wanted(None), now()) {
            Err(full) => self.failure = Some(super::too_large(&full)),
            Ok(None) => {}
            Ok(Some(mut plan)) => {
                if let Some(halted) = halted {
                    plan.manifest.course = Course::Halted(halted);
                }
                self.publish(subject, plan, Some(stable.bundle), &stable.materials).await?;
                self.bell.spec();
            }
        }
        Ok(())
    }

    /// Carries out what was decided about the newest revision.
    pub(super) async fn take_turn(&mut self, subject: &Subject, aim: Aim) -> Result<(), PassError> {
        let turn = self.turn(subject, &aim);
        let manifest = self.press.published.manifest.as_ref();
        let special = manifest.is_some_and(|manifest| manifest.course != Course::Whole);
        if special && turn != Turn::Whole && !publication::stands(&self.press.published) {
            return self.restore_stable(subject).await;
        }
        let in_force = self.press.last_good.clone();
        let in_force = in_force.as_ref().map(|good| &good.bundle);
        match turn {
            Turn::Whole => {
                self.stand(Standings::default());
                self.steering.trial = None;
                self.put_out(subject, aim, None).await
            }
            Turn::Stage(next) => {
                self.stand(Standings::between(Why::Staged, &aim.bundle, in_force));
                let rollout::course::Next { pods, step, since, started } = next;
                let stage = Stage { pods, step, since, started, wish: aim.bundle.wish() };
                self.steering.trial = Some(aim.bundle.clone());
                self.put_out(subject, aim, Some(stage)).await
            }
            Turn::Halt(halted) => {
                self.stand(Standings::between(Why::Halted(halted.clone()), &aim.bundle, in_force));
                self.steering.trial = None;
                tracing::warn!(gateway = %self.key, revision = %halted.revision, why = halted.message, "a staged rollout goes back");
                match publication::withdraw(&self.press.published, halted, now()) {
                    Some(plan) => self.publish(subject, plan, None, &[]).await,
                    None => Ok(()),
                }
            }
            Turn::Stay => self.stay(subject, aim).await,
        }
    }

    /// A step lasts, or the revision was taken back; pods may be leaving all the same.
    async fn stay(&mut self, subject: &Subject, aim: Aim) -> Result<(), PassError> {
        let (Some(manifest), Some(last_good)) =
            (self.press.published.manifest.clone(), self.press.last_good.clone())
        else {
            return Ok(());
        };
        let why = match &manifest.course {
            Course::Halted(halted) => Why::Halted(halted.clone()),
            Course::Whole | Course::Staged(_) => Why::Staged,
        };
        self.steering.trial = (why == Why::Staged).then(|| aim.bundle.clone());
        self.stand(Standings::between(why, &aim.bundle, Some(&last_good.bundle)));
        if let Some(staged) = manifest.staged().filter(|staged| staged.revision == aim.revision()) {
            let stage = Stage {
                pods: staged.pods.clone(),
                step: staged.step,
                since: staged.since,
                started: staged.started,
                wish: staged.wish.clone(),
            };
            return self.put_out(subject, aim, Some(stage)).await;
        }
        if manifest.halted().is_some() && manifest.leaving != self.press.published.leaving {
            return self.restore_stable(subject).await;
        }
        self.arrange(subject, &last_good.bundle, &last_good.materials).await
    }

    /// Publishes, unless just this is published.
    pub(super) async fn put_out(
        &mut self,
        subject: &Subject,
        aim: Aim,
        stage: Option<Stage>,
    ) -> Result<(), PassError> {
        let whole = stage.is_none();
        match publication::plan(&self.press.published, aim.wanted(stage), now()) {
            Err(full) => self.failure = Some(super::too_large(&full)),
            Ok(None) => self.arrange(subject, &aim.bundle, &aim.materials).await?,
            Ok(Some(plan)) => {
                let Aim { bundle, materials, .. } = aim;
                self.publish(subject, plan, whole.then_some(bundle), &materials).await?;
            }
        }
        Ok(())
    }
}
