//! ConfigMaps and Secrets that objects name: read when named, read again when they change.
//!
//! In a cluster-wide installation Secrets can be neither listed nor watched (design decision 3), so each
//! named one is read again every 30 seconds, and sooner while it is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{State, Version, World};
use crate::bundle::MaterialKind;
use crate::controller::spread::spread;
use crate::mail::dkim::PublicKey;
use crate::translate::{ConfigMapFacts, ObjectKey, References, Resources, SecretFacts};

const REREAD: Duration = Duration::from_secs(30);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 8;

/// What a named ConfigMap or Secret held when it was read.
#[derive(Debug, Clone)]
pub struct Held {
    /// `None`: it does not exist, or may not be read.
    pub found: Option<Found>,
    read_at: Instant,
    /// When it is read again without a watch.
    again: Duration,
    /// Gateways that named it.
    users: BTreeSet<ObjectKey>,
}

#[derive(Clone, PartialEq)]
pub struct Found {
    pub version: Version,
    pub kind: String,
    pub labelled: bool,
    pub data: Arc<Contents>,
    /// What passes may know of a Secret's private keys; reading them costs too much to be done in each.
    pub signing: Arc<BTreeMap<String, Result<PublicKey, String>>>,
    pub pair: Option<Result<(), String>>,
    /// The text of a ConfigMap: shared with every pass, since lists may be large.
    pub text: Arc<BTreeMap<String, String>>,
}

/// Keys and bytes: secrets themselves, and what is not text of a ConfigMap.
pub type Contents = BTreeMap<String, Vec<u8>>;

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").field("version", &self.version).finish_non_exhaustive()
    }
}

impl World {
    /// Puts what `references` name into `resources`, reading what is not at hand.
    pub async fn resolve(&self, gateway: &ObjectKey, references: &References, resources: &mut Resources) {
        let secrets = references.secrets.iter().map(|key| (MaterialKind::Secret, key));
        let config_maps = references.config_maps.iter().map(|key| (MaterialKind::ConfigMap, key));
        let named: Vec<_> = secrets.chain(config_maps).map(|(kind, key)| (kind, key.clone())).collect();
        let missing: Vec<_> = {
            let mut state = self.state();
            named.iter().filter(|(kind, key)| !state.is_fresh(*kind, key, gateway)).cloned().collect()
        };
        let reads = missing.into_iter().map(|(kind, key)| self.read(kind, key, Some(gateway)));
        futures::stream::iter(reads).buffer_unordered(AT_ONCE).collect::<Vec<bool>>().await;
        let state = self.state();
        for (kind, key) in named {
            let held = state.materials.get(&(kind, key.clone()));
            let found = held.and_then(|held| held.found.clone());
            let Some(Found { version, kind: type_, labelled, data, signing, pair, text }) = found else {
                continue;
            };
            let Version { uid, resource_version } = version;
            match kind {
                MaterialKind::Secret => {
                    let keys = data.keys().cloned().collect();
                    let certificates = data
                        .iter()
                        .filter_map(|(key, bytes)| Some((key.clone(), SecretFacts::certificates_of(bytes)?)));
                    let certificates = certificates.collect();
                    let signing = BTreeMap::clone(&signing);
                    let facts = SecretFacts {
                        uid,
                        resource_version,
                        kind: type_,
                        labelled,
                        keys,
                        certificates,
                        signing,
                        pair,
                    };
                    resources.secrets.insert(key, facts);
                }
                MaterialKind::ConfigMap => {
                    resources.config_maps.insert(key, ConfigMapFacts { uid, resource_version, data: text });
                }
            }
        }
    }

    /// The bytes of a version, if just that version is at hand.
    pub fn bytes(&self, version: &crate::bundle::material::MaterialVersion) -> Option<Vec<u8>> {
        let material = &version.material;
        let key = ObjectKey::new(&material.namespace, &material.name);
        let state = self.state();
        let found = state.materials.get(&(material.kind, key))?.found.as_ref()?;
        let same =
            found.version.uid == version.uid && found.version.resource_version == version.resource_version;
        let bytes = || {
            let text = found.text.get(&material.key).map(|text| text.clone().into_bytes());
            found.data.get(&material.key).cloned().or(text)
        };
        same.then(bytes).flatten()
    }

    /// Reads one; true if it is not what it was.
    async fn read(&self, kind: MaterialKind, key: ObjectKey, user: Option<&ObjectKey>) -> bool {
        let fetched = timeout(LIMIT, self.fetch(kind, &key)).await;
        let mut state = self.state();
        let last = state.materials.get(&(kind, key.clone()));
        let mut users = last.map(|held| held.users.clone()).unwrap_or_default();
        users.extend(user.cloned());
        let before = last.and_then(|held| held.found.clone());
        let found = match fetched {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // Refused or out of reach: what was read before still holds.
                warn!(object = %key, %error, "cannot read what an object refers to");
                before.clone()
            }
            Err(_) => before.clone(),
        };
        let again = match (&found, last) {
            // Not all at the same moment for ever because all were named at the same moment.
            (Some(_), _) => spread(REREAD, 0.15, &key.to_string(), 0),
            (None, Some(held)) if held.found.is_none() => (held.again * 2).min(REREAD),
            (None, _) => FIRST_RETRY,
        };
        let changed = found != before;
        state.materials.insert((kind, key), Held { found, read_at: Instant::now(), again, users });
        changed
    }

    async fn fetch(&self, kind: MaterialKind, key: &ObjectKey) -> Result<Option<Found>, kube::Error> {
        if !self.namespaces.is_empty() && !self.namespaces.contains(&key.namespace) {
            return Ok(None);
        }
        Ok(match kind {
            MaterialKind::Secret => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                api.get_opt(&key.name).await?.map(|secret| {
                    let (version, labelled) =
                        (super::watch::version(&secret.metadata), SecretFacts::is_labelled(secret.labels()));
                    let data = bytes(secret.data);
                    Found {
                        version,
                        labelled,
                        kind: secret.type_.unwrap_or_default(),
                        signing: Arc::new(SecretFacts::signing_of(&data)),
                        pair: SecretFacts::pair_of(&data),
                        data: Arc::new(data),
                        text: Arc::default(),
                    }
                })
            }
            MaterialKind::ConfigMap => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.namespace);
                api.get_opt(&key.name).await?.map(|map| {
                    let data = bytes(map.binary_data);
                    let mut text = map.data.unwrap_or_default();
                    text.extend(
                        data.iter()
                            .map(|(key, bytes)| (key.clone(), String::from_utf8_lossy(bytes).into_owned())),
                    );
                    Found {
                        version: super::watch::version(&map.metadata),
                        kind: String::new(),
                        labelled: false,
                        signing: Arc::default(),
                        pair: None,
                        data: Arc::new(data),
                        text: Arc::new(text),
                    }
                })
            }
        })
    }

    /// Reads named Secrets again in time, for ever.
    pub async fn reread_secrets(&self) {
        loop {
            sleep(Duration::from_millis(500)).await;
            let due: Vec<ObjectKey> = {
                let mut state = self.state();
                let bells: BTreeSet<ObjectKey> = state.bells.keys().cloned().collect();
                // What only gateways named that are gone is forgotten, content and all.
                state.materials.retain(|_, held| held.users.iter().any(|user| bells.contains(user)));
                let watched = state.secrets.is_some();
                let held =
                    state.materials.iter().filter(|((kind, _), _)| *kind == MaterialKind::Secret && !watched);
                held.filter(|(_, held)| held.read_at.elapsed() >= held.again)
                    .map(|((_, key), _)| key.clone())
                    .collect()
            };
            let reads = due.into_iter().map(|key| async move {
                if self.read(MaterialKind::Secret, key.clone(), None).await {
                    debug!(secret = %key, "changed");
                    self.state().ring_users(MaterialKind::Secret, &key);
                }
            });
            futures::stream::iter(reads).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        }
    }
}

impl State {
    /// Whether the content at hand is that of the version the watch has shown; books the user.
    fn is_fresh(&mut self, kind: MaterialKind, key: &ObjectKey, user: &ObjectKey) -> bool {
        let watched = match kind {
            MaterialKind::ConfigMap => Some(self.config_maps.get(key).cloned()),
            MaterialKind::Secret => self.secrets.as_ref().map(|secrets| secrets.get(key).cloned()),
        };
        let Some(held) = self.materials.get_mut(&(kind, key.clone())) else { return false };
        held.users.insert(user.clone());
        match (watched, &held.found) {
            (None, Some(_)) => true,
            // Without a watch a missing one is asked for again whenever something that names it changes.
            (None, None) => held.read_at.elapsed() < FIRST_RETRY,
            (Some(None), found) => found.is_none(),
            (Some(Some(seen)), Some(found)) => found.version == seen || seen.is_before(&found.version),
            (Some(Some(_)), None) => false,
        }
    }

    pub(super) fn ring_users(&self, kind: MaterialKind, key: &ObjectKey) {
        if let Some(held) = self.materials.get(&(kind, key.clone())) {
            held.users.iter().for_each(|gateway| self.ring_spec(gateway));
        }
    }
}

fn bytes(data: Option<BTreeMap<String, ByteString>>) -> Contents {
    data.into_iter().flatten().map(|(key, ByteString(bytes))| (key, bytes)).collect()
}
