//! The input of a pass: everything users wrote that the gateway may need, and what was published last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address_lists::Memo;
use super::ldap::LdapFacts;
use super::memory::Memory;
use super::problem::{Outcome, Problem};
use super::published::PublishedFacts;
use crate::api::conditions::Reason;
use crate::api::{
    AddressList, ComplianceRule, DEFAULT_GATEWAY, Directory, GatewayRef, OutboundGateway, OutboundRoute,
    Quarantine, RoutingRule, USE_LABEL,
};
use crate::bundle::Bundle;
use crate::bundle::document::{ObjectId, ObjectKind, Origin};
use crate::bundle::material::{Material, MaterialKind, MaterialVersion};
use crate::mail::dkim::{Key, KeyError, PublicKey};
use crate::mail::edit::Signer;

/// A namespace and a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What users wrote. The order of the lists means nothing.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    pub gateways: Vec<Arc<OutboundGateway>>,
    pub routes: Vec<Arc<OutboundRoute>>,
    pub routing_rules: Vec<Arc<RoutingRule>>,
    pub compliance_rules: Vec<Arc<ComplianceRule>>,
    pub address_lists: Vec<Arc<AddressList>>,
    pub directories: Vec<Arc<Directory>>,
    pub quarantines: Vec<Arc<Quarantine>>,
    pub config_maps: BTreeMap<ObjectKey, ConfigMapFacts>,
    pub secrets: BTreeMap<ObjectKey, SecretFacts>,
    /// What the servers of Directories said. `None`: nobody asks them here (`check`, `explain`).
    pub ldap: Option<BTreeMap<ObjectKey, LdapFacts>>,
    /// What DNS says of the gateway's domains. `None`: nobody asks DNS here (`check`, `explain`).
    pub published: Option<PublishedFacts>,
    /// Objects that are there but could not be read.
    pub malformed: Vec<Malformed>,
    /// Large lists that an earlier pass read. Whoever makes passes again and again hands it on.
    pub memo: Memo,
    /// What an earlier pass over the same gateway made of its rules, handed on likewise.
    pub memory: Memory,
}

/// A ConfigMap that something refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigMapFacts {
    pub uid: String,
    pub resource_version: String,
    pub data: Arc<BTreeMap<String, String>>,
}

/// A Secret that something refers to, without what is secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretFacts {
    pub uid: String,
    pub resource_version: String,
    /// Its `type`.
    pub kind: String,
    /// It has the label `postern.dev/use: "true"`.
    pub labelled: bool,
    pub keys: BTreeSet<String>,
    /// The certificates of each key that has some, in PEM; nothing else of its content.
    pub certificates: BTreeMap<String, String>,
    /// The public half of each key that holds a private key in PEM, or why it cannot sign.
    pub signing: BTreeMap<String, Result<PublicKey, String>>,
    /// Whether `tls.crt` and `tls.key` can sign mail (S/MIME); `None`: it has not both.
    pub pair: Option<Result<(), String>>,
}

impl SecretFacts {
    /// Whether its owner meant it to be shown to other hosts (design decision 3).
    pub fn usable(&self) -> bool {
        self.labelled || matches!(self.kind.as_str(), "kubernetes.io/tls" | "kubernetes.io/basic-auth")
    }

    /// The certificates of a text: blocks of PEM, without private keys and whatever else is there.
    pub fn certificates_of(content: &[u8]) -> Option<String> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        const END: &str = "-----END CERTIFICATE-----";
        let mut rest = std::str::from_utf8(content).ok()?;
        let mut found = String::new();
        while let Some(at) = rest.find(BEGIN) {
            let end = rest[at..].find(END).map_or(rest.len(), |end| at + end + END.len());
            found.push_str(&rest[at..end]);
            found.push('\n');
            rest = &rest[end..];
        }
        (!found.is_empty()).then_some(found)
    }

    /// The public halves of the signing keys of a Secret, see [`SecretFacts::signing`].
    pub fn signing_of<'a>(
        data: impl IntoIterator<Item = (&'a String, &'a Vec<u8>)>,
    ) -> BTreeMap<String, Result<PublicKey, String>> {
        const MARK: &[u8] = b"PRIVATE KEY-----";
        let pem = |bytes: &[u8]| bytes.windows(MARK.len()).any(|window| window == MARK);
        let private = data.into_iter().filter(|(_, bytes)| pem(bytes));
        let read = |bytes: &[u8]| Key::read(bytes).map(|key| key.public()).map_err(|error| error.to_string());
        private.map(|(key, bytes)| (key.clone(), read(bytes))).collect()
    }

    /// See [`SecretFacts::pair`].
    pub fn pair_of(data: &BTreeMap<String, Vec<u8>>) -> Option<Result<(), String>> {
        let (chain, key) = data.get("tls.crt").zip(data.get("tls.key"))?;
        Some(Signer::read(chain, key).map(|_| ()).map_err(|error| error.to_string()))
    }

    /// The public half of one key, or why it cannot sign.
    pub fn signing_key(&self, key: &str) -> Result<PublicKey, String> {
        let none = || Err(KeyError::NoPem.to_string());
        self.signing.get(key).cloned().unwrap_or_else(none)
    }

    /// Whether labels mark a Secret as usable.
    pub fn is_labelled(labels: &BTreeMap<String, String>) -> bool {
        labels.get(USE_LABEL).is_some_and(|value| value == "true")
    }
}

/// An object that is there but does not have the form of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Malformed {
    pub object: ObjectId,
    pub uid: String,
    pub generation: i64,
    pub error: String,
    /// Its `gatewayRef`, if that could be read; default: `default` in its own namespace.
    pub gateway_ref: Option<GatewayRef>,
    /// Its `spec` as far as it is JSON, so that a broken rule stops only what it could match.
    pub spec: Option<Value>,
}

/// What was published last, read back: the store of last accepted forms.
#[derive(Debug, Clone, PartialEq)]
pub struct LastGood {
    pub bundle: Bundle,
    pub materials: Vec<MaterialVersion>,
}

/// The output of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// `None`: there is no such gateway, or it never was valid.
    pub bundle: Option<Bundle>,
    /// Sorted: the version of everything the bundle names.
    pub materials: Vec<MaterialVersion>,
    /// One for the gateway and each object that refers to it, sorted by object.
    pub outcomes: Vec<Outcome>,
}

/// Objects that no gateway looks after.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Unattached {
    /// `ResolvedRefs=False, GatewayNotFound` for each of them, sorted.
    pub outcomes: Vec<Outcome>,
    /// Namespaces in which a gateway named `default` is wanted and missing. Objects that wait for one have
    /// an outcome too.
    pub wanted_defaults: BTreeSet<String>,
}

/// ConfigMaps and Secrets that something names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    pub config_maps: BTreeSet<ObjectKey>,
    pub secrets: BTreeSet<ObjectKey>,
}

impl Resources {
    /// Every attached object that could be read or not, with the gateway it refers to.
    pub(super) fn attachments(&self) -> impl Iterator<Item = (Origin, ObjectKey)> + '_ {
        let routes = self.routes.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let routing = self.routing_rules.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let compliance = self.compliance_rules.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let lists = self.address_lists.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let directories = self.directories.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let quarantines = self.quarantines.iter().map(|o| (origin(&**o), &o.spec.gateway_ref));
        let rules = routing.chain(compliance);
        let others = lists.chain(directories).chain(quarantines);
        let read = routes.chain(rules).chain(others).map(|(origin, reference)| {
            let gateway = target(reference, &origin.object.namespace);
            (origin, gateway)
        });
        let malformed = self
            .malformed
            .iter()
            .filter(|malformed| malformed.object.kind != ObjectKind::OutboundGateway)
            .map(|malformed| (malformed.origin(), malformed.gateway()));
        read.chain(malformed)
    }

    /// Every gateway there is, readable or not.
    pub fn gateway_keys(&self) -> BTreeSet<ObjectKey> {
        let read = self.gateways.iter().map(|gateway| key(&**gateway));
        let malformed = self
            .malformed
            .iter()
            .filter(|malformed| malformed.object.kind == ObjectKind::OutboundGateway)
            .map(|malformed| ObjectKey::new(&malformed.object.namespace, &malformed.object.name));
        read.chain(malformed).collect()
    }
}

impl Resources {
    /// The version of one material that is there and may be used.
    pub fn version(&self, material: &Material) -> Option<MaterialVersion> {
        let key = ObjectKey::new(&material.namespace, &material.name);
        let (uid, resource_version) = match material.kind {
            MaterialKind::Secret => {
                let secret = self.secrets.get(&key)?;
                (secret.usable() && secret.keys.contains(&material.key))
                    .then_some((&secret.uid, &secret.resource_version))?
            }
            MaterialKind::ConfigMap => {
                let config_map = self.config_maps.get(&key)?;
                config_map
                    .data
                    .contains_key(&material.key)
                    .then_some((&config_map.uid, &config_map.resource_version))?
            }
        };
        Some(MaterialVersion {
            material: material.clone(),
            uid: uid.clone(),
            resource_version: resource_version.clone(),
        })
    }
}

impl Malformed {
    pub fn origin(&self) -> Origin {
        Origin { object: self.object.clone(), uid: self.uid.clone(), generation: self.generation }
    }

    /// The gateway it refers to, as far as that could be read.
    pub fn gateway(&self) -> ObjectKey {
        target(&self.gateway_ref.clone().unwrap_or_default(), &self.object.namespace)
    }
}

/// The gateway that a reference means.
pub fn target(reference: &GatewayRef, own_namespace: &str) -> ObjectKey {
    ObjectKey::new(reference.namespace.as_deref().unwrap_or(own_namespace), &reference.name)
}

/// Whether a reference means this gateway: [`target`] without a copy, since a pass asks it of every object.
pub fn refers_to(reference: &GatewayRef, own_namespace: &str, gateway: &ObjectKey) -> bool {
    reference.name == gateway.name
        && reference.namespace.as_deref().unwrap_or(own_namespace) == gateway.namespace
}

/// Namespace and name of an object.
pub fn key(object: &impl kube::Resource) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// A kind of ours, by its Rust type.
pub trait Kind: kube::Resource {
    const KIND: ObjectKind;
}

impl Kind for OutboundGateway {
    const KIND: ObjectKind = ObjectKind::OutboundGateway;
}
impl Kind for OutboundRoute {
    const KIND: ObjectKind = ObjectKind::OutboundRoute;
}
impl Kind for RoutingRule {
    const KIND: ObjectKind = ObjectKind::RoutingRule;
}
impl Kind for ComplianceRule {
    const KIND: ObjectKind = ObjectKind::ComplianceRule;
}
impl Kind for AddressList {
    const KIND: ObjectKind = ObjectKind::AddressList;
}
impl Kind for Directory {
    const KIND: ObjectKind = ObjectKind::Directory;
}
impl Kind for Quarantine {
    const KIND: ObjectKind = ObjectKind::Quarantine;
}

/// Which object, and which generation of it, this is.
pub fn origin<K: Kind>(object: &K) -> Origin {
    let ObjectKey { namespace, name } = key(object);
    Origin {
        object: ObjectId { kind: K::KIND, namespace, name },
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation.unwrap_or(0),
    }
}

/// Objects whose gateway does not exist, and the default gateways that should be made for them.
pub fn unattached(resources: &Resources) -> Unattached {
    let gateways = resources.gateway_keys();
    let mut unattached = Unattached::default();
    for (origin, gateway) in resources.attachments().filter(|(_, gateway)| !gateways.contains(gateway)) {
        let own_default = gateway.name == DEFAULT_GATEWAY && gateway.namespace == origin.object.namespace;
        let message = if own_default {
            unattached.wanted_defaults.insert(gateway.namespace.clone());
            format!("waiting for OutboundGateway {gateway}, which Postern makes")
        } else {
            format!("there is no OutboundGateway {gateway}: create it, or change gatewayRef")
        };
        let problem = Problem::reference("spec.gatewayRef", Reason::GatewayNotFound, message);
        unattached.outcomes.push(Outcome { problems: vec![problem], ..Outcome::new(origin) });
    }
    unattached.outcomes.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
    unattached
}

/// What the objects of one gateway name, so that a caller knows what to read.
pub fn references(own: &ObjectKey, resources: &Resources) -> References {
    use crate::api::clients::MutualTls;
    use crate::api::refs::SourceKind;
    let mut found = References::default();
    let attached = |reference: &GatewayRef, object: &dyn Fn() -> ObjectKey| {
        refers_to(reference, &object().namespace, own)
    };
    for gateway in resources.gateways.iter().filter(|gateway| key(&***gateway) == *own) {
        let namespace = key(&**gateway).namespace;
        for reference in
            gateway.spec.listeners.iter().filter_map(|listener| listener.certificate_ref.as_ref())
        {
            found.secrets.insert(ObjectKey::new(&namespace, &reference.name));
        }
        let redis = gateway.spec.shared_limits.iter().map(|shared| &shared.redis);
        let logins = redis.flat_map(|redis| [&redis.password_ref, &redis.username_ref]).flatten();
        found.secrets.extend(logins.map(|login| ObjectKey::new(&namespace, &login.name)));
        for key in &gateway.spec.dkim {
            found.secrets.insert(ObjectKey::new(&namespace, &key.key_ref.name));
        }
        if let Some(clients) = &gateway.spec.clients {
            let passwords = clients.users.iter().map(|user| &user.password_ref.name);
            found.secrets.extend(passwords.map(|name| ObjectKey::new(&namespace, name)));
            if let Some(MutualTls { ca_ref, .. }) = &clients.mutual_tls {
                let key = ObjectKey::new(&namespace, &ca_ref.name);
                match ca_ref.kind {
                    SourceKind::ConfigMap => found.config_maps.insert(key),
                    SourceKind::Secret => found.secrets.insert(key),
                };
            }
        }
        for from in gateway.spec.smime.iter().flat_map(|smime| &smime.certificates_from) {
            let config_map = from.config_map_ref.iter().map(|r| ObjectKey::new(&namespace, &r.name));
            found.config_maps.extend(config_map);
            found.secrets.extend(from.secret_ref.iter().map(|r| ObjectKey::new(&namespace, &r.name)));
        }
        for from in gateway.spec.smime.iter().flat_map(|smime| &smime.signing_from) {
            found.secrets.insert(ObjectKey::new(&namespace, &from.secret_ref.name));
        }
    }
    for route in resources.routes.iter().filter(|o| attached(&o.spec.gateway_ref, &|| key(&***o))) {
        let login = route.spec.auth.as_ref().map(|auth| &auth.credentials_ref);
        for reference in login.into_iter().chain(&route.spec.tls.client_certificate_ref) {
            found.secrets.insert(ObjectKey::new(key(&**route).namespace, &reference.name));
        }
        if let Some(reference) = &route.spec.tls.ca_ref {
            let key = ObjectKey::new(key(&**route).namespace, &reference.name);
            match reference.kind {
                SourceKind::ConfigMap => found.config_maps.insert(key),
                SourceKind::Secret => found.secrets.insert(key),
            };
        }
    }
    for directory in resources.directories.iter().filter(|o| attached(&o.spec.gateway_ref, &|| key(&***o))) {
        let namespace = key(&**directory).namespace;
        let Some(ldap) = &directory.spec.ldap else { continue };
        found.secrets.extend(ldap.bind_ref.iter().map(|r| ObjectKey::new(&namespace, &r.name)));
        if let Some(reference) = &ldap.ca_ref {
            let key = ObjectKey::new(&namespace, &reference.name);
            match reference.kind {
                SourceKind::ConfigMap => found.config_maps.insert(key),
                SourceKind::Secret => found.secrets.insert(key),
            };
        }
    }
    for rule in &resources.compliance_rules {
        if rule.spec.matches.words_from.is_empty() || !attached(&rule.spec.gateway_ref, &|| key(&**rule)) {
            continue;
        }
        let namespace = key(&**rule).namespace;
        for from in &rule.spec.matches.words_from {
            found.config_maps.insert(ObjectKey::new(&namespace, &from.config_map_ref.name));
        }
    }
    for list in resources.address_lists.iter().filter(|o| attached(&o.spec.gateway_ref, &|| key(&***o))) {
        let namespace = key(&**list).namespace;
        for from in &list.spec.entries_from {
            found.config_maps.insert(ObjectKey::new(&namespace, &from.config_map_ref.name));
        }
    }
    found
}
