//! Says why pods cannot start for want of a volume. Looks only while a pod waits for a node.

use std::time::Duration;

use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::time::Instant;

use super::{Driver, Subject};
use crate::api::conditions::Reason;
use crate::controller::apply::bounded;
use crate::controller::rollout::Pod;
use crate::controller::status::Failure;

impl Driver {
    /// Claims without a class wait for ever where the cluster has no default one.
    pub(super) async fn look_at_storage(&mut self, subject: &Subject, pods: &[Pod]) -> Option<Instant> {
        const EVERY: Duration = Duration::from_secs(10);
        let storage = &subject.gateway.spec.storage;
        let waits = pods.iter().any(|pod| !pod.scheduled && !pod.terminating);
        let needs_default = !subject.malformed && !storage.ephemeral && storage.storage_class_name.is_none();
        if !waits || !needs_default {
            self.storage_seen = None;
            self.trouble.take_if(|trouble| trouble.reason == Reason::NoStorageClass);
            return None;
        }
        let missing = match self.storage_seen {
            Some((at, missing)) if at.elapsed() < EVERY => missing,
            _ => {
                let api: Api<StorageClass> = Api::all(self.ctx.client.clone());
                // Without the right to look, there may be one.
                let missing = match bounded("storage classes", api.list(&ListParams::default())).await {
                    Ok(classes) => !classes.iter().any(is_default),
                    Err(_) => false,
                };
                self.storage_seen = Some((Instant::now(), missing));
                missing
            }
        };
        if missing {
            let message = "the cluster has no default StorageClass: set storage.storageClassName, or storage.ephemeral: true where mail may be lost";
            self.trouble = Some(Failure { reason: Reason::NoStorageClass, message: message.to_owned() });
        }
        Some(Instant::now() + EVERY)
    }
}

fn is_default(class: &StorageClass) -> bool {
    class
        .annotations()
        .get("storageclass.kubernetes.io/is-default-class")
        .is_some_and(|value| value == "true")
}
