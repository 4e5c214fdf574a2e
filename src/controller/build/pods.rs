//! The StatefulSet of a gateway: restricted pods without any credential of the cluster, each with its own
//! volume for accepted mail.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
    SecretProjection, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
    VolumeProjection, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::OutboundGateway;
use crate::api::gateway::{OnDelete, Storage};
use crate::bundle::Bundle;

use super::{
    ADMIN_PORT, BUNDLE_MAPS, CONTROL_PORT, SECRET_COPIES, SPOOL_VOLUME, Site, bundle_map_name,
    control_secret_name, secret_copy_name,
};

/// User and group of the process, as in the image.
const USER: i64 = 65532;
/// Time to answer what is in flight; the rest stays in the spool.
const GRACE: i64 = 60;
/// Time to hand the mail over too, where the spool dies with its pod; and how much of it the process may use.
const GRACE_EPHEMERAL: i64 = 300;
const HAND_OVER: i64 = GRACE_EPHEMERAL - GRACE;

const BUNDLE_DIR: &str = "/etc/postern/bundle";
const SECRETS_DIR: &str = "/etc/postern/secrets";
const CONTROL_DIR: &str = "/etc/postern/control";
const SPOOL_DIR: &str = "/var/spool/postern";

pub fn stateful_set(gateway: &OutboundGateway, bundle: &Bundle, site: &Site) -> StatefulSet {
    let storage = &gateway.spec.storage;
    let wish = gateway.spec.pod.clone().unwrap_or_default();
    let mut labels = wish.labels.clone();
    labels.extend(super::labels(&gateway.name_any()));
    let annotations = (!wish.annotations.is_empty()).then(|| wish.annotations.clone());
    StatefulSet {
        metadata: super::meta(gateway, gateway.name_any()),
        spec: StatefulSetSpec {
            replicas: Some(gateway.spec.replicas),
            service_name: Some(super::headless_name(&gateway.name_any())),
            selector: super::selector(gateway),
            // Pods do not depend on each other: start, stop and replace them side by side.
            pod_management_policy: Some("Parallel".to_owned()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), annotations, ..Default::default() }),
                spec: Some(pod(gateway, bundle, site)),
            },
            volume_claim_templates: (!storage.ephemeral).then(|| vec![claim(gateway)]),
            persistent_volume_claim_retention_policy: (!storage.ephemeral).then(|| {
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(
                        match storage.on_delete {
                            OnDelete::Retain => "Retain",
                            OnDelete::Delete => "Delete",
                        }
                        .to_owned(),
                    ),
                    // A 250 is a promise, and fewer pods do not take it back.
                    when_scaled: Some("Retain".to_owned()),
                }
            }),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn claim(gateway: &OutboundGateway) -> PersistentVolumeClaim {
    let storage: &Storage = &gateway.spec.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(SPOOL_VOLUME.to_owned()),
            labels: Some(super::labels(&gateway.name_any())),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(storage.size().to_owned()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod(gateway: &OutboundGateway, bundle: &Bundle, site: &Site) -> PodSpec {
    let wish = gateway.spec.pod.clone().unwrap_or_default();
    let spread = match (&wish.affinity, wish.topology_spread_constraints.is_empty()) {
        // Nothing wished: prefer different zones, and different nodes in them. For one pod it means nothing, and is
        // there all the same: a second one must not restart the first.
        (None, true) => ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
            .map(|key| TopologySpreadConstraint {
                max_skew: 1,
                topology_key: key.to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(super::selector(gateway)),
                ..Default::default()
            })
            .into(),
        _ => wish.topology_spread_constraints.clone(),
    };
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(if gateway.spec.storage.ephemeral {
            GRACE_EPHEMERAL
        } else {
            GRACE
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        node_selector: (!wish.node_selector.is_empty()).then_some(wish.node_selector),
        tolerations: (!wish.tolerations.is_empty()).then_some(wish.tolerations),
        affinity: wish.affinity,
        topology_spread_constraints: (!spread.is_empty()).then_some(spread),
        containers: vec![container(gateway, bundle, site, wish.resources)],
        volumes: Some(volumes(gateway)),
        ..Default::default()
    }
}

fn container(
    gateway: &OutboundGateway,
    bundle: &Bundle,
    site: &Site,
    resources: Option<ResourceRequirements>,
) -> Container {
    let port = |number: u16, name: Option<&str>| ContainerPort {
        container_port: number.into(),
        name: name.map(str::to_owned),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    let mut ports: Vec<_> =
        bundle.gateway.listeners.iter().map(|listener| port(listener.bind_port(), None)).collect();
    ports.extend([port(ADMIN_PORT, Some("admin")), port(CONTROL_PORT, Some("control"))]);
    let admin = format!("[::]:{ADMIN_PORT}");
    let control = format!("[::]:{CONTROL_PORT}");
    let peers = super::headless_name(&gateway.name_any());
    let hand_over = HAND_OVER.to_string();
    let at_the_end: &[&str] = match gateway.spec.storage.ephemeral {
        true => &["--hand-over-on-exit", &hand_over],
        false => &[],
    };
    let args = [
        ["gateway", "--bundle", BUNDLE_DIR].as_slice(),
        &["--secrets", SECRETS_DIR],
        &["--spool", SPOOL_DIR],
        &["--control", &control],
        &["--admin", &admin],
        &["--peers", &peers],
        at_the_end,
    ]
    .concat();
    Container {
        name: "gateway".to_owned(),
        image: Some(site.image.clone()),
        args: Some(args.into_iter().map(str::to_owned).collect()),
        env: Some(vec![field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")]),
        ports: Some(ports),
        resources: Some(resources.unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..Default::default()
        }),
        // A start may have to read a long spool; until then the other two probes wait.
        startup_probe: Some(Probe { failure_threshold: Some(300), ..probe("/livez", 1) }),
        liveness_probe: Some(Probe { failure_threshold: Some(3), ..probe("/livez", 10) }),
        // Ten seconds: a pod that stalls longer gets no new mail and holds up no rollout.
        readiness_probe: Some(Probe { failure_threshold: Some(5), ..probe("/readyz", 2) }),
        volume_mounts: Some(vec![
            mount("bundle", BUNDLE_DIR, true),
            mount("secrets", SECRETS_DIR, true),
            mount("control", CONTROL_DIR, true),
            mount(SPOOL_VOLUME, SPOOL_DIR, false),
        ]),
        ..Default::default()
    }
}

fn default_resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        list.iter().map(|&(name, value)| (name.to_owned(), Quantity(value.to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "128Mi")])),
        limits: Some(quantities(&[("memory", "1Gi")])),
        ..Default::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn probe(path: &str, period: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(ADMIN_PORT.into()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        ..Default::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..Default::default()
    }
}

fn volumes(gateway: &OutboundGateway) -> Vec<Volume> {
    let name = gateway.name_any();
    let bundle = (0..BUNDLE_MAPS).map(|number| VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: bundle_map_name(&name, number),
            optional: Some(true),
            items: None,
        }),
        ..Default::default()
    });
    let secrets = (0..SECRET_COPIES).map(|number| VolumeProjection {
        secret: Some(SecretProjection {
            name: secret_copy_name(&name, number),
            optional: Some(true),
            items: None,
        }),
        ..Default::default()
    });
    let projected = |name: &str, sources: Vec<VolumeProjection>, mode: i32| Volume {
        name: name.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(mode),
            sources: Some(sources),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut volumes = vec![
        projected("bundle", bundle.collect(), 0o444),
        projected("secrets", secrets.collect(), 0o440),
        Volume {
            name: "control".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(control_secret_name(&name)),
                default_mode: Some(0o440),
                ..Default::default()
            }),
            ..Default::default()
        },
    ];
    if gateway.spec.storage.ephemeral {
        let size_limit = gateway.spec.storage.size.as_ref().map(|size| Quantity(size.as_str().to_owned()));
        volumes.push(Volume {
            name: SPOOL_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit, ..Default::default() }),
            ..Default::default()
        });
    }
    volumes
}
