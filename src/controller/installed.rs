//! Is this installation whole? What `postern controller --check` looks at from inside the cluster, with the
//! operator's own account: the definitions, its rights, and whether an operator works. Reads only; `helm test`
//! runs it.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;

use super::Options;
use super::apply::bounded;
use crate::api::{self, GROUP, VERSION};

/// Questions that are under way at the same time.
const AT_ONCE: usize = 8;
/// A leader renews every 2 s; what is older than this belongs to nobody that works. Clocks may differ a little.
const FRESH: Duration = Duration::from_secs(60);
/// The oldest Kubernetes whose API server understands the definitions.
const OLDEST: (u32, u32) = (1, 31);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    /// What is wrong and what helps; `None`: it is as it should be.
    pub trouble: Option<String>,
}

impl Finding {
    fn new(what: impl Into<String>, trouble: Option<String>) -> Self {
        Self { what: what.into(), trouble }
    }
}

/// What the operator cannot work without: group, resource, verbs. The chart's roles give it.
pub const NEEDS: &[(&str, &str, &[&str])] = &[
    (GROUP, "outboundgateways", &["get", "list", "watch", "create", "patch", "delete"]),
    (GROUP, "outboundroutes", &["get", "list", "watch"]),
    (GROUP, "routingrules", &["get", "list", "watch"]),
    (GROUP, "compliancerules", &["get", "list", "watch"]),
    (GROUP, "addresslists", &["get", "list", "watch"]),
    (GROUP, "directories", &["get", "list", "watch"]),
    (GROUP, "quarantines", &["get", "list", "watch"]),
    (GROUP, "outboundgateways/status", &["patch"]),
    (GROUP, "outboundroutes/status", &["patch"]),
    (GROUP, "routingrules/status", &["patch"]),
    (GROUP, "compliancerules/status", &["patch"]),
    (GROUP, "addresslists/status", &["patch"]),
    (GROUP, "directories/status", &["patch"]),
    (GROUP, "quarantines/status", &["patch"]),
    ("", "configmaps", &["get", "list", "watch", "create", "patch", "delete"]),
    ("", "secrets", &["get", "create", "patch", "delete"]),
    ("apps", "statefulsets", &["get", "list", "watch", "create", "patch", "delete"]),
    ("", "services", &["get", "list", "watch", "create", "patch", "delete"]),
    ("networking.k8s.io", "networkpolicies", &["get", "list", "watch", "create", "patch", "delete"]),
    ("policy", "poddisruptionbudgets", &["get", "list", "watch", "create", "patch", "delete"]),
    ("", "persistentvolumeclaims", &["list", "patch"]),
    ("", "pods", &["get", "list", "watch", "patch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// Looks at everything; one finding for each thing, in a fixed order.
pub async fn look(client: &Client, options: &Options) -> Vec<Finding> {
    let mut findings = vec![api_server(client).await];
    findings.extend(definitions(client).await);
    let everywhere = options.namespaces.is_empty().then_some(None);
    for namespace in options.namespaces.iter().map(|name| Some(name.as_str())).chain(everywhere) {
        findings.push(rights(client, namespace).await);
    }
    findings.push(leader(client, options).await);
    findings
}

async fn api_server(client: &Client) -> Finding {
    let answer = bounded("the version of the API server", client.apiserver_version()).await;
    let trouble = match &answer {
        Ok(version) => too_old(&version.major, &version.minor),
        Err(error) => Some(error.to_string()),
    };
    Finding::new("the API server answers and is new enough", trouble)
}

fn too_old(major: &str, minor: &str) -> Option<String> {
    // Some providers write "31+".
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    let (Some(major), Some(minor)) = (number(major), number(minor)) else {
        return Some(format!("its version, {major}.{minor}, cannot be read"));
    };
    let (first, second) = OLDEST;
    ((major, minor) < OLDEST).then(|| format!("it is {major}.{minor}; Postern needs {first}.{second}"))
}

/// Each kind as the API server serves it, held against the definitions of this program.
async fn definitions(client: &Client) -> Vec<Finding> {
    let path = format!("/openapi/v3/apis/{GROUP}/{VERSION}");
    let request = hyper::http::Request::get(path).body(Vec::new()).expect("the path is an ASCII constant");
    let served = bounded("the definitions that are served", client.request::<Value>(request)).await;
    let own = api::crds().into_iter().map(|crd| {
        let kind = crd.spec.names.kind;
        let versions = crd.spec.versions.into_iter().filter(|version| version.name == VERSION);
        let schema = versions.filter_map(|version| version.schema?.open_api_v3_schema).next();
        (kind, serde_json::to_value(schema).unwrap_or_default())
    });
    own.map(|(kind, own)| {
        let trouble = match &served {
            Ok(served) => definition(&kind, &own, served),
            Err(error) => Some(error.to_string()),
        };
        Finding::new(format!("{kind} is defined as this version knows it"), trouble)
    })
    .collect()
}

fn definition(kind: &str, own: &Value, served: &Value) -> Option<String> {
    const HELP: &str = "install the CRDs of this version (`postern crds` prints them)";
    let schemas = served["components"]["schemas"].as_object()?;
    let of_kind = |schema: &&Value| {
        let names = schema["x-kubernetes-group-version-kind"].as_array();
        names.is_some_and(|names| names.iter().any(|name| name["kind"] == kind && name["group"] == GROUP))
    };
    let Some(schema) = schemas.values().find(of_kind) else {
        return Some(format!("the API server does not know it: {HELP}"));
    };
    let mut missing = Vec::new();
    for part in ["spec", "status"] {
        lacking(part, &own["properties"][part], &schema["properties"][part], &mut missing);
    }
    let shown = missing.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    (!missing.is_empty()).then(|| format!("{} fields are missing, such as {shown}: {HELP}", missing.len()))
}

/// Paths of properties that `own` has and `served` has not; below one that is missing nothing is said.
fn lacking(path: &str, own: &Value, served: &Value, missing: &mut Vec<String>) {
    for (name, inner) in own["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match served["properties"].get(name) {
            Some(known) => lacking(&path, inner, known, missing),
            None => missing.push(path),
        }
    }
    if own["items"].is_object() {
        lacking(&format!("{path}[]"), &own["items"], &served["items"], missing);
    }
}

/// What the account may not do that the operator needs.
async fn rights(client: &Client, namespace: Option<&str>) -> Finding {
    let what = match namespace {
        Some(namespace) => format!("the operator has its rights in namespace {namespace}"),
        None => "the operator has its rights in the whole cluster".to_owned(),
    };
    let each = NEEDS
        .iter()
        .flat_map(|&(group, resource, verbs)| verbs.iter().map(move |verb| (group, resource, *verb)));
    let answers = each.map(|(group, resource, verb)| async move {
        let (name, subresource) = match resource.split_once('/') {
            Some((name, subresource)) => (name, Some(subresource.to_owned())),
            None => (resource, None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(name.to_owned()),
                    subresource,
                    verb: Some(verb.to_owned()),
                    namespace: namespace.map(str::to_owned),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let params = PostParams::default();
        match bounded("a question about rights", api.create(&params, &review)).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => None,
            Ok(_) => Some(format!("{verb} {resource}")),
            Err(error) => Some(error.to_string()),
        }
    });
    let answers: Vec<_> = futures::stream::iter(answers).buffered(AT_ONCE).collect().await;
    let refused: Vec<String> = answers.into_iter().flatten().collect();
    let shown = refused.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let trouble = (!refused.is_empty()).then(|| {
        format!("{} are refused, such as {shown}: see the chart's roles (rbac.create)", refused.len())
    });
    Finding::new(what, trouble)
}

async fn leader(client: &Client, options: &Options) -> Finding {
    let leases: Api<Lease> = Api::namespaced(client.clone(), &options.own_namespace);
    let trouble = match bounded("the lease of the leader", leases.get(&options.lease)).await {
        Ok(lease) => nobody_leads(&lease, Timestamp::now()),
        Err(error) => Some(error.to_string()),
    };
    Finding::new("an operator works", trouble)
}

fn nobody_leads(lease: &Lease, now: Timestamp) -> Option<String> {
    const HELP: &str = "look at the operator's pods and their log";
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let Some(holder) = holder else { return Some(format!("nobody holds its lease: {HELP}")) };
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let age = renewed.map(|renewed| now.duration_since(renewed).as_secs());
    match age {
        Some(age) if age <= FRESH.as_secs().cast_signed() => None,
        Some(age) => Some(format!("{holder} has not renewed its lease for {age} s: {HELP}")),
        None => Some(format!("{holder} has never renewed its lease: {HELP}")),
    }
}

#[cfg(test)]
mod tests;
