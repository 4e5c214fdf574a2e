//! Makes kubelets look: a pod whose annotation changes has its mounts refreshed at once, others wait for up
//! to a minute (design decision 3).
//!
//! A publication is handed to each pod directly, and most have acknowledged it before a kubelet could look. So only
//! who lags behind is touched soon, and again, ever more rarely. The others are touched when the changes have come
//! to rest: their mounts follow what they run, with one request for a pod and not one for each change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;
use tracing::debug;

use crate::bundle::{Ack, Manifest};
use crate::controller::apply::{MANAGER, bounded};
use crate::controller::build::REVISION_ANNOTATION;
use crate::controller::metrics::Metrics;
use crate::controller::rollout::Pod;

const AT_ONCE: usize = 32;
/// A kubelet looks at a pod at most once between two of its listings of containers, which are a second apart.
/// An earlier touch would not be seen earlier, and would use up the look that the next change needs
/// (measured: changes 1 s apart take 390 ms, 2 s apart 190 ms, 5 s apart 110 ms; none needed a second touch).
const FIRST: Duration = Duration::from_millis(1100);
const LONGEST: Duration = Duration::from_secs(30);
/// How long a pod may take to acknowledge what was handed to it.
const PATIENCE: Duration = Duration::from_millis(300);
/// Without a publication for this long the changes have come to rest.
const QUIET: Duration = Duration::from_secs(2);
/// Mounts follow even if the changes never rest.
const OLDEST: Duration = Duration::from_secs(15);

pub struct Touches {
    client: Client,
    namespace: String,
    metrics: Arc<Metrics>,
    pods: HashMap<String, Touched>,
    /// When the newest publication was, and the first one that some mount has not followed.
    published: Option<(Instant, Instant)>,
}

struct Touched {
    sequence: u64,
    times: u32,
    last: Instant,
}

impl Touched {
    fn due(&self) -> Instant {
        match self.times {
            0 => self.last + PATIENCE,
            times => self.last + (FIRST * 2u32.saturating_pow(times - 1)).min(LONGEST),
        }
    }
}

impl Touches {
    pub fn new(client: Client, namespace: String, metrics: Arc<Metrics>) -> Self {
        Self { client, namespace, metrics, pods: HashMap::new(), published: None }
    }

    /// Just now something was published and handed to the pods.
    pub fn published(&mut self) {
        let now = Instant::now();
        let first = self.published.map_or(now, |(_, first)| first);
        self.published = Some((now, first));
    }

    /// When the mounts of pods that run the newest publication are to follow.
    fn rest(&self) -> Option<Instant> {
        self.published.map(|(newest, first)| (newest + QUIET).min(first + OLDEST))
    }

    /// Touches those that have not acknowledged in time, and at rest all that are behind. Returns when the next one
    /// is due.
    pub async fn again(
        &mut self,
        pods: &[Pod],
        acks: &HashMap<String, Ack>,
        manifest: &Manifest,
    ) -> Option<Instant> {
        let now = Instant::now();
        let lags = |pod: &&Pod| {
            let running = acks.get(&pod.uid).and_then(|ack| ack.running.as_ref());
            let refused = acks.get(&pod.uid).and_then(|ack| ack.refused.as_ref());
            !pod.terminating
                && pod.address.is_some()
                && running.is_none_or(|running| running.sequence < manifest.sequence)
                // It has it, and does not want it.
                && refused.is_none_or(|nack| nack.sequence < manifest.sequence)
        };
        self.pods.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        let lagging: Vec<&Pod> = pods.iter().filter(lags).collect();
        for pod in &lagging {
            let untouched = || Touched { sequence: manifest.sequence.0, times: 0, last: now };
            let entry = self.pods.entry(pod.uid.clone()).or_insert_with(untouched);
            if entry.sequence != manifest.sequence.0 {
                *entry = untouched();
            }
        }
        let due = |pod: &&&Pod| self.pods.get(&pod.uid).is_some_and(|touched| touched.due() <= now);
        let mut wanting: Vec<&Pod> = lagging.iter().filter(due).copied().collect();
        if self.rest().is_some_and(|rest| rest <= now) {
            self.published = None;
            let behind = |pod: &&Pod| {
                let touched = pod.touched.is_some_and(|touched| touched >= manifest.sequence);
                !pod.terminating && pod.address.is_some() && !touched && !lags(pod)
            };
            wanting.extend(pods.iter().filter(behind));
        }
        self.touch(&wanting, manifest).await;
        let next = lagging.iter().filter_map(|pod| Some(self.pods.get(&pod.uid)?.due()));
        next.chain(self.rest()).min()
    }

    async fn touch(&mut self, pods: &[&Pod], manifest: &Manifest) {
        let sequence = manifest.sequence.0;
        let mut patches = Vec::new();
        for pod in pods {
            let times = match self.pods.get(&pod.uid) {
                Some(touched) if touched.sequence == sequence => touched.times + 1,
                _ => 1,
            };
            self.pods.insert(pod.uid.clone(), Touched { sequence, times, last: Instant::now() });
            // It must differ each time, or the kubelet sees no change.
            let value = format!("{}.{sequence}.{times}", manifest.revision);
            let patch = json!({"metadata": {"uid": pod.uid, "annotations": {REVISION_ANNOTATION: value}}});
            patches.push((pod.name.clone(), patch));
        }
        let api: Api<KubePod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let (api, params, metrics) = (&api, &params, &self.metrics);
        let touches = patches.into_iter().map(|(name, patch)| async move {
            metrics.touched();
            if let Err(error) = bounded(&name, api.patch_metadata(&name, params, &Patch::Merge(patch))).await
            {
                // It may just have gone; if not, its turn comes again.
                debug!(pod = name, %error, "the touch failed");
            }
        });
        futures::stream::iter(touches).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }
}
