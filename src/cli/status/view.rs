//! What there is to see of a gateway, out of what the API server holds. Pure; printed as JSON as it is.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::api::OutboundGateway;
use crate::api::conditions::{self, ConditionType, State};
use crate::api::status::{Rollout, Stage};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    pub namespace: String,
    pub gateway: String,
    /// The operator has seen the gateway as it is written now.
    pub current: bool,
    pub rollout: Rollout,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    pub conditions: Vec<Said>,
    pub pods: Vec<PodView>,
    pub objects: usize,
    /// Those that not every pod obeys as they are written.
    pub not_ready: Vec<Told>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Said {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    pub name: String,
    pub state: PodState,
    /// Part of the pods that have a staged revision first.
    pub staged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum PodState {
    /// Obeys the newest revision that is meant for it.
    UpToDate,
    /// Serves by an older one.
    Behind,
    /// Serves by an older one and does not take the newer one.
    Refuses,
    /// Takes no mail.
    NotServing,
    Terminating,
}

/// One object and what is said of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    pub object: String,
    pub reason: String,
    pub message: String,
    #[serde(skip)]
    pub ready: bool,
}

impl Told {
    pub fn new(kind: &str, object: &DynamicObject) -> Self {
        let status = &object.data["status"];
        let found = Vec::<Condition>::deserialize(&status["conditions"]).unwrap_or_default();
        let ready = conditions::get(&found, ConditionType::Ready);
        let generation = object.metadata.generation;
        let current = ready.filter(|ready| ready.observed_generation == generation);
        let (reason, message) = match (current, ready) {
            (Some(ready), _) => (ready.reason.clone(), ready.message.clone()),
            (None, Some(_)) => {
                ("Pending".to_owned(), "the operator has not seen this generation yet".to_owned())
            }
            (None, None) => ("Pending".to_owned(), "the operator has not seen it yet".to_owned()),
        };
        Self {
            object: format!("{kind}/{}", object.name_any()),
            reason,
            message,
            ready: current.is_some_and(|ready| ready.status == State::True.as_str()),
        }
    }
}

impl View {
    pub fn new(gateway: &OutboundGateway, pods: &[Pod], objects: Vec<Told>) -> Self {
        let status = gateway.status.clone().unwrap_or_default();
        let rollout = status.rollout.unwrap_or_default();
        let said = |condition: &Condition| Said {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
        let count = objects.len();
        let mut pods: Vec<PodView> =
            pods.iter().map(|pod| pod_view(pod, &rollout, status.stage.as_ref())).collect();
        // default-2 comes before default-10.
        pods.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        Self {
            namespace: gateway.namespace().unwrap_or_default(),
            gateway: gateway.name_any(),
            current: status.observed_generation == gateway.metadata.generation,
            stage: status.stage,
            conditions: status.conditions.iter().map(said).collect(),
            pods,
            objects: count,
            not_ready: objects.into_iter().filter(|told| !told.ready).collect(),
            rollout,
        }
    }

    pub fn condition(&self, kind: ConditionType) -> Option<&Said> {
        self.conditions.iter().find(|said| said.kind == kind.as_str())
    }

    /// Everything that is written is obeyed.
    pub fn is_done(&self) -> bool {
        let ready = self.condition(ConditionType::Ready);
        self.current
            && self.not_ready.is_empty()
            && ready.is_some_and(|said| said.status == State::True.as_str())
    }
}

fn pod_view(pod: &Pod, rollout: &Rollout, stage: Option<&Stage>) -> PodView {
    let name = pod.name_any();
    let status = pod.status.as_ref();
    let found = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let serves = found.iter().any(|condition| condition.type_ == "Ready" && condition.status != "False");
    let staged = stage.is_some_and(|stage| stage.pods.contains(&name));
    let behind = rollout.stale_pods.contains(&name);
    let refuses =
        rollout.last_error.as_ref().is_some_and(|text| text.starts_with(&format!("pod {name} refuses ")));
    let state = if pod.metadata.deletion_timestamp.is_some() {
        PodState::Terminating
    } else if !serves {
        PodState::NotServing
    } else if refuses {
        PodState::Refuses
    } else if behind || rollout.revision.is_empty() {
        PodState::Behind
    } else {
        PodState::UpToDate
    };
    PodView { name, state, staged }
}
