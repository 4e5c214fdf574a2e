//! One document → one object: of a kind of ours, a ConfigMap, a Secret, or something that is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use k8s_openapi::ByteString;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::form;
use super::yaml::{Kind, Node, Trouble};
use crate::api::{
    self, AddressList, ComplianceRule, Directory, GatewayRef, OutboundGateway, OutboundRoute, Quarantine,
    RoutingRule,
};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::translate::resources::{ConfigMapFacts, Malformed, ObjectKey, SecretFacts};

/// What a document turned out to be.
pub enum Object {
    Gateway(Box<OutboundGateway>),
    Route(Box<OutboundRoute>),
    Routing(Box<RoutingRule>),
    Compliance(Box<ComplianceRule>),
    AddressList(Box<AddressList>),
    Directory(Box<Directory>),
    Quarantine(Box<Quarantine>),
    Malformed(Box<Malformed>),
    ConfigMap(ObjectKey, ConfigMapFacts),
    Secret(ObjectKey, SecretFacts, BTreeMap<String, Vec<u8>>),
    /// Not ours to read, or hopeless.
    Nothing,
}

/// The kinds of ours by name.
pub const KINDS: [ObjectKind; 7] = [
    ObjectKind::OutboundGateway,
    ObjectKind::OutboundRoute,
    ObjectKind::RoutingRule,
    ObjectKind::ComplianceRule,
    ObjectKind::AddressList,
    ObjectKind::Directory,
    ObjectKind::Quarantine,
];

/// Reads one object. `troubles` gets what is wrong with it, `warnings` what is odd.
pub fn read(node: &Node, troubles: &mut Vec<Trouble>, warnings: &mut Vec<Trouble>) -> Object {
    let note = |message: String| Trouble { line: node.line, message };
    let (Some(version), Some(kind)) = (node.str("apiVersion"), node.str("kind")) else {
        troubles.push(note("apiVersion and kind are missing: this is no Kubernetes object".to_owned()));
        return Object::Nothing;
    };
    let ours = KINDS.into_iter().find(|ours| ours.as_str() == kind);
    match (version.split_once('/'), ours) {
        (Some((api::GROUP, api::VERSION)), Some(ours)) => self::ours(node, ours, troubles),
        (Some((api::GROUP, api::VERSION)), None) => {
            let names: Vec<String> = KINDS.iter().map(|kind| kind.as_str().to_owned()).collect();
            let hint = form::nearest(kind, names.iter())
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            troubles.push(Trouble {
                line: node.line_of("kind"),
                message: format!("unknown kind {kind:?}{hint}"),
            });
            Object::Nothing
        }
        (Some((api::GROUP, other)), _) => {
            let message = format!("unknown version {other:?} of {}; it is {}", api::GROUP, api::VERSION);
            troubles.push(Trouble { line: node.line_of("apiVersion"), message });
            ours.and_then(|kind| malformed(node, kind, "unknown apiVersion")).unwrap_or(Object::Nothing)
        }
        (None, _) if version == "v1" && kind == "ConfigMap" => config_map(node, troubles),
        (None, _) if version == "v1" && kind == "Secret" => secret(node, troubles),
        _ => {
            warnings.push(note(format!("{version} {kind} is not read here")));
            Object::Nothing
        }
    }
}

/// The objects of a list such as the output of `kubectl get -o yaml`.
pub fn list(node: &Node) -> Option<&[Node]> {
    let kind = node.str("kind")?;
    let items = node.get("items")?;
    (kind == "List" || KINDS.iter().any(|ours| kind.strip_suffix("List") == Some(ours.as_str())))
        .then(|| items.items())
}

fn ours(node: &Node, kind: ObjectKind, troubles: &mut Vec<Trouble>) -> Object {
    let before = troubles.len();
    let Some(key) = metadata(node, troubles) else { return Object::Nothing };
    form::judge("", &body(node), schema(kind), troubles);
    let own = &troubles[before..];
    if !own.is_empty() {
        let error = own.iter().map(|trouble| trouble.message.as_str()).collect::<Vec<_>>().join("; ");
        return malformed(node, kind, &error).unwrap_or(Object::Nothing);
    }
    let mut value = node.value();
    value["metadata"]["namespace"] = Value::from(key.namespace.as_str());
    value["metadata"]["uid"] = Value::from(id(kind, &key).to_string());
    value["metadata"]["generation"] = Value::from(1);
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    let read = match kind {
        ObjectKind::OutboundGateway => parse(value).map(Object::Gateway),
        ObjectKind::OutboundRoute => parse(value).map(Object::Route),
        ObjectKind::RoutingRule => parse(value).map(Object::Routing),
        ObjectKind::ComplianceRule => parse(value).map(Object::Compliance),
        ObjectKind::AddressList => parse(value).map(Object::AddressList),
        ObjectKind::Directory => parse(value).map(Object::Directory),
        ObjectKind::Quarantine => parse(value).map(Object::Quarantine),
    };
    read.unwrap_or_else(|error| {
        troubles.push(Trouble { line: node.line, message: error.clone() });
        malformed(node, kind, &error).unwrap_or(Object::Nothing)
    })
}

fn parse<K: DeserializeOwned>(value: Value) -> Result<Box<K>, String> {
    serde_path_to_error::deserialize(value).map(Box::new).map_err(|error| error.to_string())
}

/// What the schema describes: it knows metadata as an object only, whose fields are checked apart.
fn body(node: &Node) -> Node {
    let Kind::Map(entries) = &node.kind else { return node.clone() };
    let apart = ["apiVersion", "kind", "metadata", "status"];
    let kept = entries.iter().filter(|(key, _)| !apart.contains(&key.as_str())).cloned();
    Node { line: node.line, kind: Kind::Map(kept.collect()) }
}

fn id(kind: ObjectKind, key: &ObjectKey) -> ObjectId {
    ObjectId { kind, namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Stands for an object that could not be read, so that it is not taken for deleted.
fn malformed(node: &Node, kind: ObjectKind, error: &str) -> Option<Object> {
    let key = metadata(node, &mut Vec::new())?;
    let object = id(kind, &key);
    let spec = node.get("spec").map(Node::value);
    let reference = spec.as_ref().and_then(|spec| spec.get("gatewayRef"));
    let gateway_ref: Option<GatewayRef> =
        reference.and_then(|reference| serde_json::from_value(reference.clone()).ok());
    Some(Object::Malformed(Box::new(Malformed {
        uid: object.to_string(),
        object,
        generation: 1,
        error: error.to_owned(),
        gateway_ref,
        spec,
    })))
}

fn metadata(node: &Node, troubles: &mut Vec<Trouble>) -> Option<ObjectKey> {
    const FIELDS: [&str; 15] = [
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let line = node.line;
    let Some(metadata) = node.get("metadata") else {
        troubles.push(Trouble { line, message: "metadata.name: Required value".to_owned() });
        return None;
    };
    if let Kind::Map(entries) = &metadata.kind {
        let known = FIELDS.map(str::to_owned);
        for (field, value) in entries.iter().filter(|(field, _)| !FIELDS.contains(&field.as_str())) {
            let hint = form::nearest(field, known.iter())
                .map(|name| format!("; did you mean {name:?}?"))
                .unwrap_or_default();
            let message = format!("unknown field \"metadata.{field}\"{hint}");
            troubles.push(Trouble { line: value.line, message });
        }
    }
    let text = |field: &str| {
        metadata.get(field).filter(|node| !node.is_null()).map(|node| match &node.kind {
            Kind::Scalar(Value::String(text)) => Ok(text.as_str()),
            _ => Err(node.line),
        })
    };
    let mut valid = |field: &str, dots: bool| match text(field)? {
        Ok(name) if is_name(name, dots) => Some(name.to_owned()),
        Ok(name) => {
            let message = format!(
                "metadata.{field}: Invalid value: {name:?}: must consist of lower case alphanumeric characters{}",
                if dots { ", '-' or '.'" } else { " or '-'" }
            );
            troubles.push(Trouble { line: metadata.line_of(field), message });
            None
        }
        Err(line) => {
            troubles.push(Trouble {
                line,
                message: format!("metadata.{field} must be of type string: quote it"),
            });
            None
        }
    };
    let name = valid("name", true);
    let namespace = match metadata.get("namespace").filter(|node| !node.is_null()) {
        Some(_) => valid("namespace", false)?,
        None => "default".to_owned(),
    };
    if metadata.get("name").is_none_or(Node::is_null) {
        troubles.push(Trouble { line: metadata.line, message: "metadata.name: Required value".to_owned() });
    }
    Some(ObjectKey { namespace, name: name? })
}

fn is_name(name: &str, dots: bool) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        label.bytes().next().is_some_and(letter)
            && label.bytes().last().is_some_and(letter)
            && label.bytes().all(|b| letter(b) || b == b'-')
    };
    if dots { name.len() <= 253 && name.split('.').all(label) } else { name.len() <= 63 && label(name) }
}

fn config_map(node: &Node, troubles: &mut Vec<Trouble>) -> Object {
    let Some(key) = metadata(node, troubles) else { return Object::Nothing };
    let data = node.get("data").map(|data| texts("data", data, troubles)).unwrap_or_default();
    let facts = ConfigMapFacts {
        uid: format!("configmap.{}.{}", key.namespace, key.name),
        resource_version: "1".to_owned(),
        data: Arc::new(data),
    };
    Object::ConfigMap(key, facts)
}

fn secret(node: &Node, troubles: &mut Vec<Trouble>) -> Object {
    let Some(key) = metadata(node, troubles) else { return Object::Nothing };
    let mut content = BTreeMap::new();
    if let Some(data) = node.get("data") {
        for (name, text) in texts("data", data, troubles) {
            match serde_json::from_value::<ByteString>(Value::from(
                text.split_whitespace().collect::<String>(),
            )) {
                Ok(bytes) => drop(content.insert(name, bytes.0)),
                Err(_) => troubles.push(Trouble {
                    line: data.line_of(&name),
                    message: format!("data.{name} is not base64; plain text goes into stringData"),
                }),
            }
        }
    }
    if let Some(data) = node.get("stringData") {
        let texts = texts("stringData", data, troubles);
        content.extend(texts.into_iter().map(|(name, text)| (name, text.into_bytes())));
    }
    let labels = node.get("metadata").and_then(|metadata| metadata.get("labels"));
    let labels = labels.map(|labels| texts("metadata.labels", labels, troubles)).unwrap_or_default();
    let facts = SecretFacts {
        uid: format!("secret.{}.{}", key.namespace, key.name),
        resource_version: "1".to_owned(),
        kind: node.str("type").unwrap_or("Opaque").to_owned(),
        labelled: SecretFacts::is_labelled(&labels),
        keys: content.keys().cloned().collect::<BTreeSet<_>>(),
        certificates: content
            .iter()
            .filter_map(|(key, bytes)| Some((key.clone(), SecretFacts::certificates_of(bytes)?)))
            .collect(),
        signing: SecretFacts::signing_of(&content),
        pair: SecretFacts::pair_of(&content),
    };
    Object::Secret(key, facts, content)
}

fn texts(path: &str, node: &Node, troubles: &mut Vec<Trouble>) -> BTreeMap<String, String> {
    let Kind::Map(entries) = &node.kind else {
        if !node.is_null() {
            troubles
                .push(Trouble { line: node.line, message: format!("{path} in body must be of type object") });
        }
        return BTreeMap::new();
    };
    let mut texts = BTreeMap::new();
    for (name, node) in entries {
        match &node.kind {
            Kind::Scalar(Value::String(text)) => drop(texts.insert(name.clone(), text.clone())),
            Kind::Scalar(Value::Null) => drop(texts.insert(name.clone(), String::new())),
            _ => {
                let message = format!("{path}.{name} in body must be of type string: quote it");
                troubles.push(Trouble { line: node.line, message });
            }
        }
    }
    texts
}

fn schema(kind: ObjectKind) -> &'static JSONSchemaProps {
    static SCHEMAS: OnceLock<BTreeMap<String, JSONSchemaProps>> = OnceLock::new();
    let schemas = SCHEMAS.get_or_init(|| {
        let each = api::crds().into_iter().filter_map(|crd| {
            let version = crd.spec.versions.into_iter().next()?;
            Some((crd.spec.names.kind, version.schema?.open_api_v3_schema?))
        });
        each.collect()
    });
    &schemas[kind.as_str()]
}
