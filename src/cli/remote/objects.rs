//! What a cluster would do with a folder of YAML: its objects, with those of the folder put over them, as
//! `kubectl apply` would. Read with the rights of whoever asks; nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::Remote;
use super::bundle::judged;
use crate::cli;
use crate::cli::folder::{Configured, Folder};
use crate::manifest::Loaded;
use crate::translate::resources::{Kind, key};
use crate::translate::{ConfigMapFacts, LastGood, ObjectKey, Resources, SecretFacts, references};

/// The folder over the cluster, translated for the gateway. `now`: what is in force.
pub async fn with_folder(remote: &Remote, folder: &Path, now: &LastGood) -> anyhow::Result<Configured> {
    let mut written = Folder::read(folder)?.loaded;
    for problem in &written.problems {
        cli::caution(&format!("{}:{}: {}", problem.file.display(), problem.line, problem.message));
    }
    let mut wished = std::mem::take(&mut written.resources);
    at_home(&mut wished, &remote.namespace);
    let mut resources = there(remote, &wished).await?;
    over(&mut resources.gateways, wished.gateways);
    over(&mut resources.routes, wished.routes);
    over(&mut resources.routing_rules, wished.routing_rules);
    over(&mut resources.compliance_rules, wished.compliance_rules);
    over(&mut resources.address_lists, wished.address_lists);
    over(&mut resources.directories, wished.directories);
    over(&mut resources.quarantines, wished.quarantines);
    resources.malformed.extend(wished.malformed);
    let gateway = ObjectKey::new(&remote.namespace, &remote.gateway);
    let named = references(&gateway, &resources);
    for wanted in named.config_maps.iter().filter(|key| !wished.config_maps.contains_key(*key)) {
        if let Some(facts) = config_map(remote, wanted).await? {
            resources.config_maps.insert(wanted.clone(), facts);
        }
    }
    resources.config_maps.extend(wished.config_maps);
    for wanted in named.secrets.iter().filter(|key| !wished.secrets.contains_key(*key)) {
        if let Some(facts) = secret(remote, wanted, now).await {
            resources.secrets.insert(wanted.clone(), facts);
        }
    }
    resources.secrets.extend(wished.secrets);
    let mut loaded = Loaded::default();
    loaded.resources = resources;
    let (configured, outcomes) = Folder { loaded }.translate(&gateway, Some(now));
    for outcome in &outcomes {
        for problem in &outcome.problems {
            cli::caution(&format!("{}: {}", outcome.origin.object, problem.text()));
        }
    }
    let Some(configured) = configured else { bail!("OutboundGateway {gateway} could not be used any more") };
    Ok(Configured { bundle: Arc::new(judged((*configured.bundle).clone())), ..configured })
}

/// Files that name no namespace mean the one that is asked about, as with `kubectl apply -n`.
fn at_home(resources: &mut Resources, namespace: &str) {
    fn names<K: Resource>(objects: &[Arc<K>]) -> impl Iterator<Item = Option<String>> + '_ {
        objects.iter().map(|object| object.meta().namespace.clone())
    }
    fn moved<K: Resource + Clone>(objects: &mut [Arc<K>], namespace: &str) {
        for object in objects {
            Arc::make_mut(object).meta_mut().namespace = Some(namespace.to_owned());
        }
    }
    let Resources {
        gateways,
        routes,
        routing_rules,
        compliance_rules,
        address_lists,
        directories,
        quarantines,
        config_maps,
        secrets,
        malformed,
        ..
    } = resources;
    let written: BTreeSet<Option<String>> = names(gateways)
        .chain(names(routes))
        .chain(names(routing_rules))
        .chain(names(compliance_rules))
        .chain(names(address_lists))
        .chain(names(directories))
        .chain(names(quarantines))
        .collect();
    if !written.iter().flatten().all(|name| name == "default") {
        return;
    }
    moved(gateways, namespace);
    moved(routes, namespace);
    moved(routing_rules, namespace);
    moved(compliance_rules, namespace);
    moved(address_lists, namespace);
    moved(directories, namespace);
    moved(quarantines, namespace);
    malformed.iter_mut().for_each(|object| namespace.clone_into(&mut object.object.namespace));
    let move_key = |key: ObjectKey| ObjectKey::new(namespace, key.name);
    *config_maps =
        std::mem::take(config_maps).into_iter().map(|(key, facts)| (move_key(key), facts)).collect();
    *secrets = std::mem::take(secrets).into_iter().map(|(key, facts)| (move_key(key), facts)).collect();
}

fn over<K: Resource + Kind>(there: &mut Vec<Arc<K>>, wished: Vec<Arc<K>>) {
    there.retain(|object| !wished.iter().any(|wish| key(&**wish) == key(&**object)));
    there.extend(wished);
}

/// Objects of the gateway's namespace and of those that it lets in.
async fn there(remote: &Remote, wished: &Resources) -> anyhow::Result<Resources> {
    let home = remote.namespace.as_str();
    let mut resources = Resources { gateways: list(remote, home).await?, ..Resources::default() };
    let mut namespaces = BTreeSet::from([home.to_owned()]);
    for gateway in resources.gateways.iter().chain(&wished.gateways) {
        if gateway.name_any() == remote.gateway {
            namespaces.extend(gateway.spec.allowed_namespaces.iter().cloned());
        }
    }
    for namespace in &namespaces {
        resources.routes.extend(list(remote, namespace).await?);
        resources.routing_rules.extend(list(remote, namespace).await?);
        resources.compliance_rules.extend(list(remote, namespace).await?);
        resources.address_lists.extend(list(remote, namespace).await?);
        resources.directories.extend(list(remote, namespace).await?);
        resources.quarantines.extend(list(remote, namespace).await?);
    }
    Ok(resources)
}

/// One that does not read is told and left out.
async fn list<K>(remote: &Remote, namespace: &str) -> anyhow::Result<Vec<Arc<K>>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(remote.client.clone(), namespace, &resource);
    let found = api.list(&ListParams::default()).await;
    let found = found.with_context(|| format!("{} in {namespace} cannot be listed", resource.plural))?;
    let mut objects = Vec::new();
    for object in found {
        let name = object.name_any();
        let value = serde_json::to_value(&object).context("an object")?;
        match serde_json::from_value::<K>(value) {
            Ok(object) => objects.push(Arc::new(object)),
            Err(error) => cli::caution(&format!("{} {namespace}/{name} is left out: {error}", resource.kind)),
        }
    }
    Ok(objects)
}

async fn config_map(remote: &Remote, wanted: &ObjectKey) -> anyhow::Result<Option<ConfigMapFacts>> {
    let maps: Api<ConfigMap> = Api::namespaced(remote.client.clone(), &wanted.namespace);
    let map =
        maps.get_opt(&wanted.name).await.with_context(|| format!("ConfigMap {wanted} cannot be read"))?;
    Ok(map.map(|map| ConfigMapFacts {
        uid: map.metadata.uid.unwrap_or_default(),
        resource_version: map.metadata.resource_version.unwrap_or_default(),
        data: Arc::new(map.data.unwrap_or_default()),
    }))
}

/// Facts of a Secret, without its content. Who may not read it is told what the operator has published of it:
/// which keys of it are used.
async fn secret(remote: &Remote, wanted: &ObjectKey, now: &LastGood) -> Option<SecretFacts> {
    let secrets: Api<Secret> = Api::namespaced(remote.client.clone(), &wanted.namespace);
    match secrets.get_opt(&wanted.name).await {
        Ok(secret) => secret.map(|secret| {
            let data: BTreeMap<String, Vec<u8>> = secret
                .data
                .clone()
                .unwrap_or_default()
                .into_iter()
                .map(|(key, bytes)| (key, bytes.0))
                .collect();
            let certificates = data
                .iter()
                .filter_map(|(key, bytes)| Some((key.clone(), SecretFacts::certificates_of(bytes)?)))
                .collect();
            SecretFacts {
                uid: secret.metadata.uid.clone().unwrap_or_default(),
                resource_version: secret.metadata.resource_version.clone().unwrap_or_default(),
                labelled: SecretFacts::is_labelled(secret.labels()),
                kind: secret.type_.unwrap_or_default(),
                keys: data.keys().cloned().collect(),
                certificates,
                signing: SecretFacts::signing_of(&data),
                pair: SecretFacts::pair_of(&data),
            }
        }),
        Err(_) => {
            let used = now.materials.iter().filter(|version| {
                version.material.namespace == wanted.namespace && version.material.name == wanted.name
            });
            let mut facts = SecretFacts { labelled: true, ..SecretFacts::default() };
            for version in used {
                facts.uid.clone_from(&version.uid);
                facts.resource_version.clone_from(&version.resource_version);
                facts.keys.insert(version.material.key.clone());
            }
            let known = !facts.keys.is_empty();
            let told = if known { "taken as it is in force" } else { "taken as missing" };
            cli::caution(&format!("Secret {wanted} may not be read: it is {told}"));
            known.then_some(facts)
        }
    }
}
