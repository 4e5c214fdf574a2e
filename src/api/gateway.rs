//! OutboundGateway: the pods that take mail, who may hand it to them, and what holds for all of it.

use kube::CustomResource;
use kube::api::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::clients::{ClientUser, MutualTls, ProxyProtocol};
use super::egress::SharedLimits;
use super::pod::{NetworkPolicy, Pod, Service};
use super::refs::{DirectoryRef, RouteRef, SecretKeyRef, SecretRef};
pub use super::rollout::{HaltOn, PodShare, RolloutStep, StagedRollout};
use super::schema::{atomic, by_name, cel, each, each_len};
pub use super::smime::{CertificatesFrom, SigningFrom, Smime, SmimeCipher};
use super::status::GatewayStatus;
use super::tls_reports::TlsReports;
use super::units::Quantity;

/// A set of gateway pods with one address for mail clients.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "OutboundGateway",
    namespaced,
    shortname = "obg",
    category = "postern",
    status = "GatewayStatus",
    derive = "PartialEq",
    doc = "An OutboundGateway is a set of pods that take an organisation's outgoing mail, judge it by the rules attached to them, and deliver it.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::CLUSTER_POLICY]))]
pub struct OutboundGatewaySpec {
    /// Number of pods. The scale subresource points here, for `kubectl scale` and autoscalers. With fewer pods
    /// those with the highest numbers hand their mail to the others before they go (condition ScalingDown); with
    /// none, mail stays in the volume claims.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Other namespaces whose routes and rules may attach to this gateway. They must name it in their
    /// `gatewayRef`: both sides agree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = atomic, transform = each_len(1, 63))]
    pub allowed_namespaces: Vec<String>,
    /// Name in the banner, in EHLO and in Received fields; default: the pod's own name. Set it to a public
    /// name when mail goes straight to the MX hosts of recipients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOSTNAME]))]
    pub hostname: Option<String>,
    /// The organisation's own mail domains; their subdomains count as own. They decide what is outbound,
    /// inbound and internal, and which envelope senders may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), transform = atomic, transform = each_len(1, 253), transform = each(&[checks::HOSTNAME]))]
    pub domains: Vec<String>,
    /// The ports that take mail; default: one named `smtp` on port 25 with optional TLS.
    #[serde(default = "listeners")]
    #[schemars(length(min = 1, max = 8), transform = by_name, transform = cel(&[checks::LISTENER_PORTS]))]
    pub listeners: Vec<Listener>,
    /// Who may hand over mail. Without clients the gateway relays for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,
    /// Where mail goes that no rule sends elsewhere: one host, or a named OutboundRoute. Default: the MX
    /// hosts of each recipient's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<DefaultRoute>,
    /// Where accepted mail is kept until it is delivered.
    #[serde(default)]
    pub storage: Storage,
    /// Upper bounds.
    #[serde(default)]
    pub limits: Limits,
    /// Where the pods count together what the limits of routes allow; default: each pod keeps to its share, the
    /// limit divided by the number of ready pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_limits: Option<SharedLimits>,
    /// The addresses that the world sees mail of this gateway come from: of the nodes, or of the NAT gateway in front
    /// of them. The condition SPFAligned compares them with the SPF records of `domains`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), transform = atomic, transform = each_len(2, 45), transform = each(&[checks::IP]))]
    pub public_addresses: Vec<String>,
    /// Mail that the gateway writes itself, such as delivery reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notices: Option<Notices>,
    /// Name resolution for delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Daily reports to the domains that ask for them in DNS (`_smtp._tls`, RFC 8460): how many sessions with
    /// their mail servers were protected as they should have been, and why others were not. They go out by the
    /// way of `notices`, and are signed where a key of `dkim` fits the domain of the From address. Each pod
    /// reports what it saw. Default: no reports, and nothing is counted for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_reports: Option<TlsReports>,
    /// Keys to sign messages with (DKIM): those that a rule changed, and those that the gateway writes
    /// itself. The best fitting domain of the From address is used; subdomains are covered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), transform = atomic)]
    pub dkim: Vec<DkimKey>,
    /// Where a copy of every message goes, with its envelope. Nobody sees it, and it does not count as an
    /// added recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Domains outside the organisation, and IP addresses, that rules may send copies or change the way or
    /// the recipient to; subdomains are covered. A rule that names another one is not accepted. Without
    /// this list such rules get a warning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), transform = atomic, transform = each_len(1, 253), transform = each(&[checks::HOST]))]
    pub allowed_external_targets: Vec<String>,
    /// Outgoing mail that the content scanner calls blatant spam is accepted and dropped; false: it is
    /// refused with 550 5.7.1.
    #[serde(default)]
    pub drop_blatant_spam: bool,
    /// Programs that classify messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_scanners: Option<ContentScanners>,
    /// The Directory that says who is a user or a group, and in which organizational unit; default: every
    /// own address is a user in `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_ref: Option<DirectoryRef>,
    /// Certificates for rules that encrypt or sign with S/MIME. Without it such rules can do neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smime: Option<Smime>,
    /// Passed on to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// Passed on to the Service that mail clients use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// What the NetworkPolicy of the pods lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// In a cluster: changes go to some pods first, and go back by themselves when these do worse than the others.
    /// Default: all pods get a change at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<StagedRollout>,
    /// In a cluster: all pods run this former revision, whatever routes, rules and this object say, until the field
    /// is removed. Number, storage and placement of the pods still follow this object. `postern rollback --list`
    /// shows the revisions that are kept, `postern rollback` sets the field, `postern rollback --undo` removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16, max = 16), transform = cel(&[checks::REVISION]))]
    pub pinned_revision: Option<String>,
    /// How many revisions are kept to go back to, the one in force included. They take 16Mi at most; the oldest go
    /// first.
    #[serde(default = "super::rollout::history")]
    #[schemars(range(min = 1, max = 100))]
    pub revision_history_limit: u32,
}

fn replicas() -> i32 {
    2
}

fn listeners() -> Vec<Listener> {
    vec![Listener {
        name: "smtp".to_owned(),
        port: 25,
        tls: ListenerTls::Optional,
        certificate_ref: None,
        proxy_protocol: None,
    }]
}

impl Default for OutboundGatewaySpec {
    fn default() -> Self {
        Self {
            replicas: replicas(),
            allowed_namespaces: Vec::new(),
            hostname: None,
            domains: Vec::new(),
            listeners: listeners(),
            clients: None,
            default_route: None,
            storage: Storage::default(),
            limits: Limits::default(),
            shared_limits: None,
            public_addresses: Vec::new(),
            notices: None,
            dns: None,
            tls_reports: None,
            dkim: Vec::new(),
            archive: None,
            allowed_external_targets: Vec::new(),
            drop_blatant_spam: false,
            content_scanners: None,
            directory_ref: None,
            smime: None,
            pod: None,
            service: None,
            network_policy: None,
            rollout: None,
            pinned_revision: None,
            revision_history_limit: super::rollout::REVISION_HISTORY,
        }
    }
}

impl OutboundGateway {
    /// The gateway that is made when routes or rules of a namespace refer to `default` and there is none.
    pub fn made_for(namespace: &str) -> Self {
        let mut gateway = Self::new(super::DEFAULT_GATEWAY, OutboundGatewaySpec::default());
        gateway.metadata =
            ObjectMeta { namespace: Some(namespace.to_owned()), generation: Some(1), ..gateway.metadata };
        gateway
    }
}

/// A port that takes mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Name of the listener; becomes the name of the Service's port.
    #[schemars(length(min = 1, max = 15), transform = cel(&[checks::PORT_NAME]))]
    pub name: String,
    /// Port of the Service. Pods bind it too, or 10000 more if it is below 1024. 8025, 8026 and 10000 to
    /// 11023 are taken.
    #[schemars(range(min = 1, max = 65535), transform = cel(&[checks::LISTENER_PORT]))]
    pub port: u16,
    /// Optional: STARTTLS is offered. Required: mail is taken only after STARTTLS. Implicit: TLS from the
    /// first byte (port 465).
    #[serde(default)]
    pub tls: ListenerTls,
    /// A Secret of type kubernetes.io/tls. Renewals are used at once, without a restart. Default: a
    /// self-signed certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<SecretRef>,
    /// Load balancers in front of this listener that send the address of their client ahead of its mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ListenerTls {
    #[default]
    Optional,
    Required,
    Implicit,
}

/// Who may hand over mail.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clients {
    /// Networks whose addresses may relay, such as `10.0.0.0/8` or `2001:db8::/32`. Everybody else gets
    /// 550 5.7.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), transform = atomic, transform = each_len(1, 49), transform = each(&[checks::CIDR]))]
    pub cidrs: Vec<String>,
    /// Clients that log in (SMTP AUTH), from wherever they come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), transform = by_name)]
    pub users: Vec<ClientUser>,
    /// Clients that show a certificate of an authority, from wherever they come. Clients that are allowed for
    /// another reason need none.
    #[serde(rename = "mutualTLS", default, skip_serializing_if = "Option::is_none")]
    pub mutual_tls: Option<MutualTls>,
    /// Domains whose SPF records name networks that may relay, such as `_spf.google.com`; includes are followed.
    /// The networks are kept fresh. An answer that is empty, far too wide, or lacks more than half of what was there
    /// is not taken over: the condition ClientRangesHeld says so, and the networks of before stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(1, 253), transform = each(&[checks::HOSTNAME]))]
    pub spf_domains: Vec<String>,
    /// Let clients use envelope senders outside `domains`.
    #[serde(default)]
    pub allow_foreign_senders: bool,
}

/// Exactly one of `host` and `name`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::DEFAULT_ROUTE_ONE_OF, checks::DEFAULT_ROUTE_PORT]))]
pub struct DefaultRoute {
    /// A host name or IP address. Mail to it uses TLS when it offers TLS; name an OutboundRoute to demand
    /// TLS and a valid certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOST]))]
    pub host: Option<String>,
    /// Port of `host`; default 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Name of an OutboundRoute in this namespace that is attached to this gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Add `X-Gm-Spam` and `X-Gm-Phishy` to mail of users that takes this route, for servers behind it.
    #[serde(rename = "spamHeaders", default)]
    pub spam_headers: bool,
}

/// Where accepted mail is kept. The kind of storage cannot be changed later; its size can grow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[
    checks::EPHEMERAL_ALONE,
    checks::EPHEMERAL_FIXED,
    checks::STORAGE_CLASS_FIXED,
    checks::STORAGE_GROWS,
]))]
pub struct Storage {
    /// Keep mail in a volume that dies with its pod. A pod that is deleted hands its mail to the others first,
    /// within the 300 s of its grace period; what is left then, or when a pod or its node just dies, is lost.
    #[serde(default)]
    pub ephemeral: bool,
    /// Size of the volume of each pod; default 10Gi. It can grow, never shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// StorageClass of the volumes; default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes when the gateway is deleted: Retain, so that accepted mail is not lost,
    /// or Delete.
    #[serde(default)]
    pub on_delete: OnDelete,
}

impl Storage {
    pub const DEFAULT_SIZE: &'static str = "10Gi";

    /// Size of a volume, the default filled in.
    pub fn size(&self) -> &str {
        self.size.as_ref().map_or(Self::DEFAULT_SIZE, Quantity::as_str)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    #[default]
    Retain,
    Delete,
}

/// Upper bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Size of a message; up to 1Gi.
    #[schemars(transform = cel(&[checks::MESSAGE_SIZE]))]
    pub message_size: Quantity,
    /// Recipients of a message.
    #[schemars(range(min = 1, max = 100_000))]
    pub recipients: u32,
    /// Open connections of one pod.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: u32,
    /// Open connections of one client address to one pod.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections_per_client: u32,
    /// Messages that one client (a login, else an address) may hand to one pod within a minute. More get 450
    /// 4.7.1 and come again later. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_per_minute_per_client: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Quantity::new("50Mi"),
            recipients: 1000,
            connections: 2000,
            connections_per_client: 100,
            messages_per_minute_per_client: None,
        }
    }
}

/// Mail that the gateway writes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Notices {
    /// From address; default: postmaster at the first of `domains`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub from: Option<String>,
    /// The OutboundRoute such mail takes; default: normal routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteRef>,
}

/// Name resolution for delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::ANCHORS_NEED_DNSSEC]))]
pub struct Dns {
    /// Resolvers by IP address, with a port if it is not 53 (`192.0.2.53:5353`, `[2001:db8::53]:5353`);
    /// default: those of the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), transform = atomic, transform = each_len(1, 64), transform = each(&[checks::DNS_SERVER]))]
    pub servers: Vec<String>,
    /// Validate answers with DNSSEC, and use DANE (RFC 7672): a mail server whose certificate is published in
    /// signed DNS (TLSA) gets mail only under that certificate; otherwise mail waits. Forged answers are never
    /// believed. The resolvers must pass DNSSEC records on; most do. Names that are only known inside the cluster
    /// (`.local`, `.internal`, `.svc`, or without a dot) are not validated.
    #[serde(default)]
    pub dnssec: bool,
    /// DNSKEY records trusted beside those of the root that IANA publishes, for signed zones that are not
    /// reached from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), transform = atomic, transform = each_len(1, 1500), transform = each(&[checks::TRUST_ANCHOR]))]
    pub trust_anchors: Vec<String>,
}

/// A DKIM signing key (RFC 6376, RFC 8463).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DkimKey {
    /// The domain that signs (`d=`), for mail From it and its subdomains.
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOSTNAME]))]
    pub domain: String,
    /// The selector (`s=`): the public key stands in DNS at `<selector>._domainkey.<domain>`.
    #[schemars(length(min = 1, max = 63), transform = cel(&[checks::HOSTNAME]))]
    pub selector: String,
    /// The private key in PEM, RSA (2048 bits or more) or Ed25519.
    pub key_ref: SecretKeyRef,
}

/// The archive of all mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// The OutboundRoute to the archive. While it does not exist, mail waits.
    pub route: RouteRef,
    /// The recipient of the copies; default: postmaster at the first of `domains`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: Option<String>,
    /// Record messages too that a rule rejects.
    #[serde(default)]
    pub include_rejected: bool,
}

/// Programs that classify messages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ContentScanners {
    /// Tells spam and phishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rspamd: Option<Rspamd>,
}

/// An rspamd worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rspamd {
    /// Base address of a normal worker, such as `http://rspamd:11333`.
    #[schemars(length(min = 1, max = 1024), transform = cel(&[checks::SCANNER_URL]))]
    pub url: String,
}
