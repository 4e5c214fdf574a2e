//! OutboundGateway → Gateway record.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use super::order::{Pass, resolved};
use super::problem::{Findings, Outcome, Problem};
use super::resources::{ObjectKey, key, origin, target};
use super::routes::host;
use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};
use crate::api::gateway::{self as spec, OutboundGateway, OutboundGatewaySpec};
use crate::api::pod::ExternalTrafficPolicy;
use crate::bundle::Revision;
use crate::bundle::document::{
    Archive, Certificate, ChangeRoute, DefaultRoute, DkimKey, Gateway, HostPort, Limits, Listener,
    ListenerTls, Notices, ObjectKind, SpfClients, TlsReports,
};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::RouteName;

/// The gateway's record: as written, or as last accepted. `None`: there is no usable form of it.
pub(super) fn decide(
    pass: &Pass<'_>,
    routes: &BTreeSet<RouteName>,
    outcomes: &mut Vec<Outcome>,
) -> Option<Gateway> {
    let read = pass.resources.gateways.iter().find(|gateway| key(&***gateway) == *pass.gateway);
    let malformed = pass.resources.malformed.iter().find(|malformed| {
        let object = &malformed.object;
        object.kind == ObjectKind::OutboundGateway
            && object.namespace == pass.gateway.namespace
            && object.name == pass.gateway.name
    });
    let (origin, record, findings) = match (read, malformed) {
        (Some(gateway), _) => {
            let mut findings = Findings::default();
            let record = draft(pass, gateway, routes, &mut findings);
            (origin(&**gateway), Some(record), findings)
        }
        (None, Some(malformed)) => {
            let findings = Findings { problems: vec![malformed.problem()], ..Findings::default() };
            (malformed.origin(), None, findings)
        }
        (None, None) => return None,
    };
    // What the gateway names may come and go without making its own form invalid.
    let invalid = findings.problems.iter().any(|problem| problem.condition == ConditionType::Accepted);
    let mut outcome = Outcome::new(origin);
    let record = match record {
        Some(record) if !invalid => Some(record),
        _ => {
            let last = pass.last_good.map(|last| &last.bundle.gateway);
            let last = last.filter(|last| {
                last.origin.object == outcome.origin.object && last.origin.uid == outcome.origin.uid
            });
            outcome.in_force = last.map(|last| last.origin.generation);
            outcome.broken = last.is_none();
            last.map(|last| Gateway {
                default_route: again(last.default_route.as_ref(), routes),
                archive: last.archive.clone().map(|archive| {
                    let (ChangeRoute::To(name) | ChangeRoute::Missing(name)) = archive.route;
                    let there = routes.contains(&name);
                    let route = if there { ChangeRoute::To(name) } else { ChangeRoute::Missing(name) };
                    Archive { route, ..archive }
                }),
                ..last.clone()
            })
        }
    };
    let mut findings = findings;
    if record.as_ref().is_some_and(|record| !record.has_clients() && record.spf_clients.is_empty()) {
        findings.push(no_clients());
    }
    let Findings { problems, warnings } = findings;
    outcomes.push(Outcome { problems, warnings, ..outcome });
    record
}

/// A kept default route, looked up again: its route may have come or gone.
fn again(route: Option<&DefaultRoute>, routes: &BTreeSet<RouteName>) -> Option<DefaultRoute> {
    route.map(|route| match route {
        DefaultRoute::Host(host) => DefaultRoute::Host(host.clone()),
        DefaultRoute::Named(name) | DefaultRoute::Missing(name) => resolved(name.clone(), routes),
    })
}

fn draft(
    pass: &Pass<'_>,
    gateway: &OutboundGateway,
    routes: &BTreeSet<RouteName>,
    findings: &mut Findings,
) -> Gateway {
    let OutboundGatewaySpec {
        replicas: _,
        allowed_namespaces: _,
        hostname,
        domains,
        listeners,
        clients,
        default_route,
        storage,
        limits,
        shared_limits,
        public_addresses,
        notices,
        dns,
        tls_reports,
        dkim,
        archive,
        allowed_external_targets,
        drop_blatant_spam,
        content_scanners,
        directory_ref,
        smime,
        pod: _,
        service,
        network_policy: _,
        rollout,
        pinned_revision,
        revision_history_limit: _,
    } = &gateway.spec;
    let namespace = &pass.gateway.namespace;
    name(&pass.gateway.name, findings);
    storage_form(storage, findings);
    rollout_form(rollout.as_ref(), pinned_revision.as_deref(), findings);
    let clients = clients.clone().unwrap_or_default();
    let proxied = listeners.iter().all(|listener| listener.proxy_protocol.is_some());
    service_form(service.as_ref(), &clients, proxied, findings);
    each("spec.allowedExternalTargets", allowed_external_targets, host, findings);
    if let Some(named) = directory_ref {
        directory(pass, &named.name, findings);
    }
    let scanner = content_scanners.as_ref().and_then(|scanners| scanners.rspamd.as_ref());
    let own = each("spec.domains", domains, domain, findings);
    let spf_clients = super::published::clients(pass, &clients.spf_domains, findings);
    let typed = each("spec.clients.cidrs", &clients.cidrs, network, findings);
    let hostname = hostname.as_ref().and_then(|text| findings.ok(domain("spec.hostname", text)));
    Gateway {
        hostname: hostname.map(|domain| domain.ascii().to_owned()),
        archive: archive.as_ref().and_then(|archive| journal(pass, archive, &own, routes, findings)),
        domains: own,
        listeners: ports(pass, listeners, findings),
        clients: together(typed, &spf_clients),
        spf_clients,
        users: super::clients::users(pass, &clients.users, findings),
        mutual_tls: super::clients::authority(pass, clients.mutual_tls.as_ref(), findings),
        public_addresses: each("spec.publicAddresses", public_addresses, ip, findings),
        allow_foreign_senders: clients.allow_foreign_senders,
        default_route: default_route.as_ref().and_then(|route| fallback(pass, route, routes, findings)),
        limits: bounds(limits, findings),
        shared_limits: shared_limits
            .as_ref()
            .and_then(|shared| super::egress::shared(pass, shared, findings)),
        notices: Notices {
            from: notices
                .as_ref()
                .and_then(|notices| notices.from.as_ref())
                .and_then(|from| findings.ok(address("spec.notices.from", from))),
            route: notices.as_ref().and_then(|notices| notices.route.as_ref()).map(|route| {
                let name = RouteName { namespace: namespace.clone(), name: route.name.clone() };
                if !routes.contains(&name) {
                    findings.push(pass.route_missing("spec.notices.route.name", &name));
                }
                name
            }),
        },
        dns_servers: dns
            .as_ref()
            .map(|dns| each("spec.dns.servers", &dns.servers, name_server, findings))
            .unwrap_or_default(),
        dnssec: dns.as_ref().is_some_and(|dns| dns.dnssec),
        dns_anchors: dns.as_ref().map(|dns| anchors(dns, findings)).unwrap_or_default(),
        tls_reports: tls_reports.as_ref().map(|reports| told(reports, findings)),
        dkim: dkim.iter().enumerate().filter_map(|(at, key)| signing_key(pass, at, key, findings)).collect(),
        drop_blatant_spam: *drop_blatant_spam,
        default_route_spam_headers: default_route.as_ref().is_some_and(|route| route.spam_headers),
        rspamd: scanner
            .and_then(|rspamd| findings.ok(web_address("spec.contentScanners.rspamd.url", &rspamd.url))),
        smime: super::smime::certificates(pass, smime.as_ref(), findings),
        smime_signers: super::smime::signers(pass, smime.as_ref(), findings),
        smime_cipher: super::smime::cipher(smime.as_ref()),
        ..Gateway::new(origin(gateway))
    }
}

/// The Directory it names must be there; what depends on it waits otherwise.
fn directory(pass: &Pass<'_>, name: &str, findings: &mut Findings) {
    let wanted = ObjectKey::new(&pass.gateway.namespace, name);
    let usable = pass.resources.directories.iter().any(|directory| {
        key(&**directory) == wanted && target(&directory.spec.gateway_ref, &wanted.namespace) == *pass.gateway
    });
    if !usable {
        let mut message = pass.why_not(ObjectKind::Directory, &wanted);
        message += "; mail whose treatment depends on it waits";
        findings.push(Problem::reference("spec.directoryRef.name", Reason::DirectoryNotFound, message));
    }
}

/// A signing key. While its Secret cannot be used, the one that was published last stays.
fn signing_key(pass: &Pass<'_>, at: usize, key: &spec::DkimKey, findings: &mut Findings) -> Option<DkimKey> {
    let path = format!("spec.dkim[{at}]");
    let spec::DkimKey { domain: signs, selector, key_ref } = key;
    let signs = findings.ok(domain(&format!("{path}.domain"), signs));
    let selector = findings.ok(domain(&format!("{path}.selector"), selector));
    let object = ObjectKey::new(&pass.gateway.namespace, &key_ref.name);
    let (domain, selector) = (signs?, selector?.ascii().to_owned());
    match pass.secret_key(&format!("{path}.keyRef"), &object, &key_ref.key) {
        Ok(key) => {
            if let Some(Err(why)) = pass.resources.secrets.get(&object).map(|s| s.signing_key(&key.key)) {
                let message = format!(
                    "Secret {object}, key {}: {why}; until that is repaired, it signs nothing",
                    key.key
                );
                findings.push(Problem::reference(format!("{path}.keyRef"), Reason::KeyInvalid, message));
            }
            Some(DkimKey { domain, selector, key })
        }
        Err(mut problem) => {
            let last = pass.last_good.iter().flat_map(|last| &last.bundle.gateway.dkim);
            let kept = last
                .filter(|last| last.domain == domain && last.selector == selector)
                .find(|kept| kept.key.name == key_ref.name && pass.published(&kept.key).is_some());
            problem.message += match kept {
                Some(_) => "; the key that was there before stays in use",
                None => "; until it can be used, nothing is signed for this domain",
            };
            findings.push(problem);
            kept.cloned()
        }
    }
}

fn journal(
    pass: &Pass<'_>,
    archive: &spec::Archive,
    own: &[Domain],
    routes: &BTreeSet<RouteName>,
    findings: &mut Findings,
) -> Option<Archive> {
    let spec::Archive { route, address: to, include_rejected } = archive;
    let recipient = match to {
        Some(to) => findings.ok(address("spec.archive.address", to)),
        None => {
            let first = own.first().and_then(|own| format!("postmaster@{}", own.as_str()).parse().ok());
            if first.is_none() {
                findings.invalid("spec.archive", "needs an address, because the gateway has no domains");
            }
            first
        }
    };
    let name = RouteName { namespace: pass.gateway.namespace.clone(), name: route.name.clone() };
    let there = routes.contains(&name);
    if !there {
        findings.push(pass.route_missing("spec.archive.route.name", &name));
    }
    Some(Archive {
        recipient: recipient?,
        route: if there { ChangeRoute::To(name) } else { ChangeRoute::Missing(name) },
        include_rejected: *include_rejected,
    })
}

/// The base address of a web server.
fn web_address(path: &str, text: &str) -> Result<String, Problem> {
    let authority = ["http://", "https://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    let authority = authority.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let host_part = match authority.rsplit_once(':') {
        Some((at, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => at,
        Some((at, _)) if !at.contains('[') => "",
        _ => authority,
    };
    let bare = host_part.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host_part);
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control() || "@?#".contains(c));
    match clean && host(path, bare).is_ok() {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(Problem::invalid(path, checks::SCANNER_URL.message)),
    }
}

fn no_clients() -> Problem {
    let message = "no client may relay, so all mail is refused; add the networks of your mail servers: \
                   spec: {clients: {cidrs: [10.0.0.0/8]}}";
    Problem::new("", Reason::NoClients, message, ConditionType::AcceptsMail).warning()
}

fn each<T>(
    path: &str,
    texts: &[String],
    read: impl Fn(&str, &str) -> Result<T, Problem>,
    findings: &mut Findings,
) -> Vec<T> {
    let read = texts.iter().enumerate().map(|(at, text)| read(&format!("{path}[{at}]"), text));
    read.filter_map(|result| findings.ok(result)).collect()
}

fn name(name: &str, findings: &mut Findings) {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
    findings.check(name.len() <= 40 && letters && edges, "metadata.name", &checks::GATEWAY_NAME);
}

pub(super) fn domain(path: &str, text: &str) -> Result<Domain, Problem> {
    Domain::parse(text).map_err(|_| Problem::invalid(path, checks::HOSTNAME.message))
}

fn network(path: &str, text: &str) -> Result<IpNet, Problem> {
    let net: IpNet = text.parse().map_err(|_| Problem::invalid(path, checks::CIDR.message))?;
    Ok(net.trunc())
}

fn ip(path: &str, text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::invalid(path, checks::IP.message))
}

/// All networks that may relay, each once.
fn together(typed: Vec<IpNet>, spf: &[SpfClients]) -> Vec<IpNet> {
    let mut all = typed;
    for net in spf.iter().flat_map(|from| &from.networks) {
        if !all.contains(net) {
            all.push(*net);
        }
    }
    all
}

pub(super) fn address(path: &str, text: &str) -> Result<Mailbox, Problem> {
    text.parse().map_err(|error| Problem::invalid(path, format!("{}: {error}", checks::ADDRESS.message)))
}

fn name_server(path: &str, text: &str) -> Result<SocketAddr, Problem> {
    let with_port = text.parse::<SocketAddr>();
    with_port
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| Problem::invalid(path, checks::DNS_SERVER.message))
}

fn anchors(dns: &spec::Dns, findings: &mut Findings) -> Vec<String> {
    let alone = dns.trust_anchors.is_empty() || dns.dnssec;
    findings.check(alone, "spec.dns", &checks::ANCHORS_NEED_DNSSEC);
    each("spec.dns.trustAnchors", &dns.trust_anchors, anchor, findings)
}

/// A DNSKEY record on one line (RFC 4034 section 2.2) of an algorithm that can be validated.
fn anchor(path: &str, text: &str) -> Result<String, Problem> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    if words.get(1).is_some_and(|ttl| ttl.bytes().all(|b| b.is_ascii_digit())) {
        words.remove(1);
    }
    let key = |words: &[&str]| STANDARD.decode(words.concat()).is_ok_and(|key| key.len() >= 32);
    let fine = match words.as_slice() {
        [zone, "IN", "DNSKEY", "256" | "257", "3", "8" | "10" | "13" | "14" | "15", key_words @ ..] => {
            let named = zone
                .strip_suffix('.')
                .is_some_and(|zone| zone.is_empty() || (zone.is_ascii() && domain(path, zone).is_ok()));
            named && key(key_words)
        }
        _ => false,
    };
    if fine { Ok(words.join(" ")) } else { Err(Problem::invalid(path, checks::TRUST_ANCHOR.message)) }
}

fn told(reports: &crate::api::tls_reports::TlsReports, findings: &mut Findings) -> TlsReports {
    let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    let crate::api::tls_reports::TlsReports { organization, contact } = reports;
    findings.check(plain(organization), "spec.tlsReports.organization", &checks::ONE_LINE);
    findings.check(plain(contact), "spec.tlsReports.contact", &checks::ONE_LINE);
    TlsReports { organization: organization.clone(), contact: contact.clone() }
}

fn storage_form(storage: &spec::Storage, findings: &mut Findings) {
    let spec::Storage { ephemeral, size, storage_class_name, on_delete: _ } = storage;
    let alone = !ephemeral || (size.is_none() && storage_class_name.is_none());
    findings.check(alone, "spec.storage", &checks::EPHEMERAL_ALONE);
    if let Some(size) = size {
        findings.check(size.bytes().is_some(), "spec.storage.size", &checks::QUANTITY);
    }
}

fn rollout_form(rollout: Option<&spec::StagedRollout>, pinned: Option<&str>, findings: &mut Findings) {
    if let Some(pinned) = pinned {
        findings.check(Revision::named(pinned).is_some(), "spec.pinnedRevision", &checks::REVISION);
    }
    let Some(spec::StagedRollout { steps, halt_on }) = rollout else { return };
    for (number, spec::RolloutStep { pods, pause }) in steps.iter().enumerate() {
        let path = |field: &str| format!("spec.rollout.steps[{number}].{field}");
        if pods.of(1).is_none() {
            findings.invalid(&path("pods"), "write a number of pods, or a percentage such as 25%");
        }
        findings.check(pause.get().is_some(), &path("pause"), &checks::DURATION);
    }
    let spec::HaltOn { rejected_percent, deferred_percent, tls_failures_percent, min_messages: _ } = halt_on;
    let percent = [rejected_percent, deferred_percent, tls_failures_percent];
    if steps.is_empty() || !percent.into_iter().all(|percent| (1..=100).contains(percent)) {
        findings.invalid("spec.rollout", "write at least one step, and percentages from 1 to 100");
    }
}

fn service_form(
    service: Option<&crate::api::pod::Service>,
    clients: &spec::Clients,
    proxied: bool,
    findings: &mut Findings,
) {
    let Some(service) = service else { return };
    let balanced = service.kind == crate::api::pod::ServiceType::LoadBalancer;
    let inside = service.kind == crate::api::pod::ServiceType::ClusterIP;
    let policy = service.external_traffic_policy;
    findings.check(policy.is_none() || !inside, "spec.service", &checks::POLICY_NEEDS_OUTSIDE);
    let only = service.load_balancer_class.is_none() && service.load_balancer_source_ranges.is_empty();
    findings.check(balanced || only, "spec.service", &checks::LOAD_BALANCER_ONLY);
    let hides = policy == Some(ExternalTrafficPolicy::Cluster);
    let by_address = !clients.cidrs.is_empty() || !clients.spf_domains.is_empty();
    findings.check(!hides || proxied || !by_address, "spec", &checks::CLUSTER_POLICY);
    let ranges = &service.load_balancer_source_ranges;
    each("spec.service.loadBalancerSourceRanges", ranges, network, findings);
}

fn ports(pass: &Pass<'_>, listeners: &[spec::Listener], findings: &mut Findings) -> Vec<Listener> {
    let distinct: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
    findings.check(distinct.len() == listeners.len(), "spec.listeners", &checks::LISTENER_PORTS);
    let names: BTreeSet<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
    if names.len() < listeners.len() {
        findings.invalid("spec.listeners", "two listeners have the same name");
    }
    if listeners.is_empty() {
        findings.invalid("spec.listeners", "there must be at least one listener");
    }
    let mut found = Vec::new();
    for (at, spec::Listener { name, port, tls, certificate_ref, proxy_protocol }) in
        listeners.iter().enumerate()
    {
        let path = format!("spec.listeners[{at}]");
        let free = !matches!(port, 0 | 8025 | 8026 | 10_000..=11_023);
        findings.check(free, &format!("{path}.port"), &checks::LISTENER_PORT);
        findings.check(is_port_name(name), &format!("{path}.name"), &checks::PORT_NAME);
        let reference = certificate_ref.as_ref().map(|reference| &reference.name);
        found.push(Listener {
            name: name.clone(),
            port: *port,
            tls: match tls {
                spec::ListenerTls::Optional => ListenerTls::Optional,
                spec::ListenerTls::Required => ListenerTls::Required,
                spec::ListenerTls::Implicit => ListenerTls::Implicit,
            },
            certificate: reference.and_then(|secret| certificate(pass, &path, name, secret, findings)),
            proxy_from: proxy_protocol
                .as_ref()
                .map(|proxy| each(&format!("{path}.proxyProtocol.from"), &proxy.from, network, findings))
                .unwrap_or_default(),
        });
    }
    found
}

fn is_port_name(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = !name.starts_with('-') && !name.ends_with('-');
    (1..=15).contains(&name.len()) && letters && edges && name.bytes().any(|b| b.is_ascii_lowercase())
}

/// The certificate of a listener. While its Secret cannot be used, the one that was published last stays;
/// before there ever was one, the listener shows a self-signed certificate, which no client that checks
/// certificates accepts.
fn certificate(
    pass: &Pass<'_>,
    path: &str,
    listener: &str,
    secret: &str,
    findings: &mut Findings,
) -> Option<Certificate> {
    let object = ObjectKey::new(&pass.gateway.namespace, secret);
    let path = format!("{path}.certificateRef");
    let pair = pass
        .secret_key(&path, &object, "tls.crt")
        .and_then(|chain| Ok(Certificate { chain, key: pass.secret_key(&path, &object, "tls.key")? }));
    let mut problem = match pair {
        Ok(certificate) => return Some(certificate),
        Err(problem) => problem,
    };
    let last = pass.last_good.iter().flat_map(|last| &last.bundle.gateway.listeners);
    let kept = last
        .filter(|last| last.name == listener)
        .filter_map(|last| last.certificate.as_ref())
        .find(|kept| kept.chain.name == secret && pass.published(&kept.chain).is_some());
    problem.message += match kept {
        Some(_) => "; the certificate that was there before stays in use",
        None => "; until it can be used, the listener shows a self-signed certificate",
    };
    findings.push(problem);
    kept.cloned()
}

fn fallback(
    pass: &Pass<'_>,
    route: &spec::DefaultRoute,
    routes: &BTreeSet<RouteName>,
    findings: &mut Findings,
) -> Option<DefaultRoute> {
    let spec::DefaultRoute { host: at, port, name, spam_headers: _ } = route;
    findings.check(at.is_some() != name.is_some(), "spec.defaultRoute", &checks::DEFAULT_ROUTE_ONE_OF);
    findings.check(port.is_none() || at.is_some(), "spec.defaultRoute", &checks::DEFAULT_ROUTE_PORT);
    if let Some(at) = at {
        let host = findings.ok(host("spec.defaultRoute.host", at))?;
        return Some(DefaultRoute::Host(HostPort { host, port: port.unwrap_or(25) }));
    }
    let name = RouteName { namespace: pass.gateway.namespace.clone(), name: name.clone()? };
    if !routes.contains(&name) {
        findings.push(pass.route_missing("spec.defaultRoute.name", &name));
    }
    Some(resolved(name, routes))
}

fn bounds(limits: &spec::Limits, findings: &mut Findings) -> Limits {
    const MOST: u64 = 1 << 30;
    let spec::Limits {
        message_size,
        recipients,
        connections,
        connections_per_client,
        messages_per_minute_per_client,
    } = limits;
    let path = "spec.limits.messageSize";
    let size = message_size.bytes();
    findings.check(size.is_some(), path, &checks::QUANTITY);
    let size = size.unwrap_or(Limits::default().message_size);
    findings.check((1..=MOST).contains(&size), path, &checks::MESSAGE_SIZE);
    for (field, value) in [
        ("recipients", recipients),
        ("connections", connections),
        ("connectionsPerClient", connections_per_client),
        ("messagesPerMinutePerClient", &messages_per_minute_per_client.unwrap_or(1)),
    ] {
        if *value == 0 {
            findings.invalid(&format!("spec.limits.{field}"), "must be at least 1");
        }
    }
    Limits {
        message_size: size,
        recipients: *recipients,
        connections: *connections,
        connections_per_client: *connections_per_client,
        messages_per_minute_per_client: *messages_per_minute_per_client,
    }
}
