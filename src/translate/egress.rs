//! `egress`, `limits` and `sharedLimits` → their records.

use std::net::IpAddr;

use jiff::Timestamp;

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::ObjectKey;
use super::routes::host;
use crate::api::checks;
use crate::api::conditions::Reason;
use crate::api::egress::{self as spec, EgressProxy};
use crate::bundle::document::{
    DomainLimits, Egress, EgressSource, HostPort, Rotation, RouteLimits, SharedLimits, WarmUp,
};

pub(super) fn egress(egress: &spec::Egress, findings: &mut Findings) -> Egress {
    let spec::Egress { sources, rotation } = egress;
    if sources.is_empty() {
        findings.invalid("spec.egress.sources", "there must be at least one source");
    }
    let found: Vec<EgressSource> =
        sources.iter().enumerate().filter_map(|(at, source)| self::source(at, source, findings)).collect();
    let twice = found.iter().enumerate().any(|(at, a)| found[..at].iter().any(|b| a.address == b.address));
    findings.check(!twice, "spec.egress", &checks::EGRESS_ADDRESSES);
    Egress {
        sources: found,
        rotation: match rotation {
            spec::Rotation::RoundRobin => Rotation::RoundRobin,
            spec::Rotation::PerDomain => Rotation::PerDomain,
            spec::Rotation::Weighted => Rotation::Weighted,
        },
    }
}

fn source(at: usize, source: &spec::EgressSource, findings: &mut Findings) -> Option<EgressSource> {
    let path = format!("spec.egress.sources[{at}]");
    let spec::EgressSource { address, weight, ehlo, proxy, warm_up } = source;
    let parsed = address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let usable = parsed.filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    findings.check(usable.is_some(), &format!("{path}.address"), &checks::SOURCE_ADDRESS);
    if weight.is_some_and(|weight| !(1..=1000).contains(&weight)) {
        findings.invalid(&format!("{path}.weight"), "must be between 1 and 1000");
    }
    let ehlo = ehlo
        .as_ref()
        .and_then(|name| findings.ok(super::gateway::domain(&format!("{path}.ehlo"), name)))
        .map(|domain| domain.ascii().to_owned());
    let proxy = proxy
        .as_ref()
        .and_then(|EgressProxy { socks5 }| findings.ok(host_port(&format!("{path}.proxy.socks5"), socks5)));
    let warm_up =
        warm_up.as_ref().and_then(|schedule| findings.ok(self::warm_up(&format!("{path}.warmUp"), schedule)));
    Some(EgressSource { address: usable?, weight: weight.map(u32::from), ehlo, proxy, warm_up })
}

fn warm_up(path: &str, schedule: &spec::WarmUp) -> Result<WarmUp, Problem> {
    let spec::WarmUp { from, first_day, factor, days } = schedule;
    let from: Timestamp =
        from.parse().map_err(|_| Problem::invalid(format!("{path}.from"), checks::MOMENT.message))?;
    if *first_day == 0 || *days == 0 || *days > 365 {
        return Err(Problem::invalid(path, "firstDay is at least 1, days between 1 and 365"));
    }
    if !(1.0..=10.0).contains(factor) {
        return Err(Problem::invalid(format!("{path}.factor"), "must be between 1 and 10"));
    }
    Ok(WarmUp {
        from,
        first_day: *first_day,
        factor_percent: (factor * 100.0).round() as u32,
        days: u32::from(*days),
    })
}

pub(super) fn limits(limits: Option<&spec::RouteLimits>, findings: &mut Findings) -> RouteLimits {
    let Some(limits) = limits else { return RouteLimits::default() };
    let spec::RouteLimits {
        connections,
        messages_per_connection,
        messages_per_minute,
        recipients_per_message,
        per_domain,
    } = limits;
    let per_domain = per_domain.clone().unwrap_or_default();
    for (field, value) in [
        ("connections", *connections),
        ("messagesPerConnection", *messages_per_connection),
        ("messagesPerMinute", *messages_per_minute),
        ("recipientsPerMessage", *recipients_per_message),
        ("perDomain.connections", per_domain.connections),
        ("perDomain.messagesPerMinute", per_domain.messages_per_minute),
    ] {
        if value == Some(0) {
            findings.invalid(&format!("spec.limits.{field}"), "must be at least 1");
        }
    }
    RouteLimits {
        connections: *connections,
        messages_per_connection: *messages_per_connection,
        messages_per_minute: *messages_per_minute,
        recipients_per_message: *recipients_per_message,
        per_domain: DomainLimits {
            connections: per_domain.connections,
            messages_per_minute: per_domain.messages_per_minute,
        },
    }
}

/// The server where pods count together. While its Secret cannot be used, each pod keeps to its share.
pub(super) fn shared(
    pass: &Pass<'_>,
    shared: &spec::SharedLimits,
    findings: &mut Findings,
) -> Option<SharedLimits> {
    let spec::SharedLimits { redis: spec::Redis { address, password_ref, username_ref } } = shared;
    let path = "spec.sharedLimits.redis";
    let at = findings.ok(host_port(&format!("{path}.address"), address));
    findings.check(username_ref.is_none() || password_ref.is_some(), path, &checks::USERNAME_NEEDS_PASSWORD);
    let mut missing = false;
    let mut secret = |field: &str, reference: &Option<crate::api::refs::SecretKeyRef>| {
        let reference = reference.as_ref()?;
        let object = ObjectKey::new(&pass.gateway.namespace, &reference.name);
        let at = format!("{path}.{field}");
        let found = match pass.resources.secrets.get(&object) {
            // It would be said to a host that the gateway's author names.
            Some(secret) if secret.kind == "kubernetes.io/tls" && !secret.labelled => {
                let message = format!(
                    "Secret {object} is a certificate with its key, no password for another host; its owner can set \
                     the label postern.dev/use: \"true\""
                );
                Err(Problem::reference(&at, Reason::SecretNotAllowed, message))
            }
            _ => pass.secret_key(&at, &object, &reference.key),
        };
        match found {
            Ok(material) => Some(material),
            Err(mut problem) => {
                problem.message += "; until it can be used, each pod keeps to its share of the limits";
                findings.push(problem);
                missing = true;
                None
            }
        }
    };
    let password = secret("passwordRef", password_ref);
    let username = secret("usernameRef", username_ref);
    if missing {
        let last = pass.last_good.and_then(|last| last.bundle.gateway.shared_limits.clone());
        let there = |last: &SharedLimits| {
            [&last.password, &last.username].into_iter().flatten().all(|m| pass.published(m).is_some())
        };
        return last.filter(there);
    }
    Some(SharedLimits { at: at?, username, password })
}

/// `host:port`, IPv6 in brackets.
fn host_port(path: &str, text: &str) -> Result<HostPort, Problem> {
    let wrong = || Problem::invalid(path, checks::HOST_PORT.message);
    let (at, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let bare = at.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if bare.is_none() && at.contains(':') {
        return Err(wrong());
    }
    let host = host(path, bare.unwrap_or(at)).map_err(|_| wrong())?;
    Ok(HostPort { host, port })
}
