//! What is in force in a cluster, read as the pods read it: the published bundle, from its ConfigMaps. No Secret is
//! read: what a rule decides does not depend on one.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::Remote;
use crate::bundle::{Bundle, Manifest, Materials, segment};
use crate::cli::folder::Configured;
use crate::controller::build::{BUNDLE_MAPS, bundle_map_name};
use crate::translate::LastGood;

/// ConfigMaps read at the same time.
const AT_ONCE: usize = 8;

/// The bundle that the operator has published for the gateway.
pub async fn published(remote: &Remote) -> anyhow::Result<Configured> {
    let maps: Api<ConfigMap> = Api::namespaced(remote.client.clone(), &remote.namespace);
    let place = format!("{}/{}", remote.namespace, remote.gateway);
    let reads = (0..BUNDLE_MAPS).map(|number| {
        let (maps, name) = (maps.clone(), bundle_map_name(&remote.gateway, number));
        async move { maps.get_opt(&name).await }
    });
    let mut files = BTreeMap::new();
    let mut reads = futures::stream::iter(reads).buffer_unordered(AT_ONCE);
    while let Some(map) = reads.next().await {
        let map = map.with_context(|| format!("the bundle of {place} cannot be read (get configmaps)"))?;
        let Some(map) = map else { continue };
        for (key, ByteString(bytes)) in map.binary_data.into_iter().flatten() {
            files.insert(key, bytes);
        }
        files.extend(map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes())));
    }
    if files.is_empty() {
        bail!(
            "nothing is published for OutboundGateway {place}: is its name right (--in) and its namespace (-n)?"
        );
    }
    let read = |name: &str| Ok(files.get(name).cloned());
    let manifest = segment::read_manifest(&read).with_context(|| format!("the manifest of {place}"))?;
    let bundle = segment::assemble(&manifest, &read)
        .with_context(|| format!("the bundle of {place} (it may just have changed: try again)"))?;
    Ok(configured(manifest, bundle))
}

fn configured(manifest: Manifest, bundle: Bundle) -> Configured {
    let last_good = LastGood { bundle: bundle.clone(), materials: manifest.materials.clone() };
    Configured {
        bundle: Arc::new(judged(bundle)),
        revision: manifest.revision,
        materials: Arc::new(Materials::default()),
        last_good,
        unasked: None,
    }
}

/// Without logins, keys and CA files, which are not here: they decide whether a host is let in, not what becomes of
/// a message, and a route that lacks them would count as broken.
pub fn judged(mut bundle: Bundle) -> Bundle {
    for route in &mut bundle.routes {
        route.auth = None;
        route.tls.ca = None;
        route.tls.client_certificate = None;
    }
    bundle
}
