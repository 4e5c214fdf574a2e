//! OutboundRoute → Route record.

use std::net::IpAddr;

use super::login;
use super::order::{Draft, Given, Pass};
use super::problem::{Findings, Outcome, Problem};
use super::resources::{ObjectKey, origin};
use crate::api::checks;
use crate::api::login::TlsVersion;
use crate::api::refs::{KeyRef, SourceKind};
use crate::api::route::{self as spec, OutboundRoute, OutboundRouteSpec};
use crate::api::units::GoDuration;
use crate::bundle::document::{
    self as bundle, HostPort, OnTlsFailure, Origin, Retry, Route, RouteTarget, RouteTls, TlsMode,
    WeightedHost,
};
use crate::bundle::material::Material;
use crate::mail::address::Domain;

/// Every route of the gateway, one record each: as written, as last accepted, or broken.
pub(super) fn decide(pass: &Pass<'_>, outcomes: &mut Vec<Outcome>) -> Vec<Route> {
    let attached = pass.attached(&pass.resources.routes, |route| &route.spec.gateway_ref, outcomes);
    attached
        .into_iter()
        .map(|(origin, given)| {
            let Draft { record, findings } = draft(pass, &origin, given);
            let last = pass.last_route(&origin);
            let mut outcome = Outcome::new(origin);
            let record = match last {
                _ if findings.problems.is_empty() => record,
                Some(last) => {
                    outcome.in_force = Some(last.origin.generation);
                    last.clone()
                }
                None => {
                    outcome.broken = true;
                    Route { broken: Some(findings.summary()), ..record }
                }
            };
            let Findings { problems, warnings } = findings;
            outcomes.push(Outcome { problems, warnings, ..outcome });
            record
        })
        .collect()
}

fn draft(pass: &Pass<'_>, origin: &Origin, given: Given<'_, OutboundRoute>) -> Draft<Route> {
    match given {
        Given::Read(route) => read(pass, route),
        Given::Malformed(malformed) => {
            let findings = Findings { problems: vec![malformed.problem()], ..Findings::default() };
            let tls = RouteTls { require: true, ..RouteTls::opportunistic() };
            let record = Route {
                on_tls_failure: OnTlsFailure::Defer,
                ..Route::new(origin.clone(), RouteTarget::RecipientMx, tls)
            };
            Draft { record, findings }
        }
    }
}

fn read(pass: &Pass<'_>, route: &OutboundRoute) -> Draft<Route> {
    let mut findings = Findings::default();
    let origin = origin(route);
    let OutboundRouteSpec {
        description: _,
        gateway_ref: _,
        hosts,
        secondary_hosts,
        mx_lookup,
        tls,
        auth: _,
        egress,
        limits,
        retry,
        on_tls_failure,
        probe,
    } = &route.spec;
    let target = target(hosts, secondary_hosts, *mx_lookup, &mut findings);
    let tls = protection(pass, &origin.object.namespace, tls, &mut findings);
    let auth = login::login(pass, &origin.object.namespace, &route.spec, &tls, &mut findings);
    let record = Route {
        auth,
        on_tls_failure: match on_tls_failure {
            spec::OnTlsFailure::Bounce => OnTlsFailure::Bounce,
            spec::OnTlsFailure::Defer => OnTlsFailure::Defer,
        },
        retry: schedule(retry.as_ref(), &mut findings),
        probe_seconds: tests(probe, &mut findings),
        egress: egress.as_ref().map(|egress| super::egress::egress(egress, &mut findings)),
        limits: super::egress::limits(limits.as_ref(), &mut findings),
        ..Route::new(origin, target, tls)
    };
    Draft { record, findings }
}

fn target(
    hosts: &[spec::Host],
    secondary_hosts: &[spec::Host],
    mx_lookup: bool,
    findings: &mut Findings,
) -> RouteTarget {
    let primary = weighted("hosts", hosts, findings);
    let secondary = weighted("secondaryHosts", secondary_hosts, findings);
    findings.check(secondary.is_empty() || !hosts.is_empty(), "spec", &checks::SECONDARY_ALONE);
    if mx_lookup {
        let is_ip = |host: &WeightedHost| host.at.host.parse::<IpAddr>().is_ok();
        findings.check(!hosts.is_empty(), "spec", &checks::MX_NEEDS_HOSTS);
        findings.check(!primary.iter().any(is_ip), "spec", &checks::MX_IP);
        findings.check(hosts.iter().all(|host| host.weight.is_none()), "spec", &checks::MX_WEIGHT);
        findings.check(secondary_hosts.is_empty(), "spec", &checks::MX_SECONDARY);
        return RouteTarget::MxOf(primary.into_iter().map(|host| host.at).collect());
    }
    match primary.is_empty() {
        true => RouteTarget::RecipientMx,
        false => RouteTarget::Hosts { primary, secondary },
    }
}

fn weighted(set: &str, hosts: &[spec::Host], findings: &mut Findings) -> Vec<WeightedHost> {
    let weights: Vec<u32> = hosts.iter().filter_map(|host| host.weight).map(u32::from).collect();
    if !weights.is_empty() && weights.len() < hosts.len() {
        let check = if set == "hosts" { &checks::WEIGHTS_HOSTS } else { &checks::WEIGHTS_SECONDARY };
        findings.check(false, "spec", check);
    } else if !weights.is_empty() && weights.iter().sum::<u32>() != 100 {
        findings.invalid("spec", checks::weight_sum(set, weights.iter().sum()));
    }
    let mut found = Vec::new();
    for (at, spec::Host { host, port, weight }) in hosts.iter().enumerate() {
        if let Some(host) = findings.ok(self::host(&format!("spec.{set}[{at}].host"), host)) {
            found.push(WeightedHost { at: HostPort { host, port: *port }, weight: *weight });
        }
    }
    found
}

/// A host in the form of the bundle: an IP address, or a name in ASCII.
pub(super) fn host(path: &str, text: &str) -> Result<String, Problem> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().to_string());
    }
    match Domain::parse(text) {
        // Four numbers that are no address are not a name either.
        Ok(domain) if !domain.ascii().ends_with(|c: char| c.is_ascii_digit()) || !looks_like_ip(text) => {
            Ok(domain.ascii().to_owned())
        }
        _ => Err(Problem::invalid(path, checks::HOST.message)),
    }
}

fn looks_like_ip(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn protection(pass: &Pass<'_>, namespace: &str, tls: &spec::Tls, findings: &mut Findings) -> RouteTls {
    let spec::Tls {
        mode,
        require,
        require_ca_signed,
        validate_hostname,
        server_name,
        ca_ref,
        client_certificate_ref,
        min_version,
    } = tls;
    let checks = require_ca_signed.unwrap_or(false) || validate_hostname.unwrap_or(false);
    findings.check(*require || !checks, "spec.tls", &checks::CERTIFICATE_NEEDS_TLS);
    let terms = client_certificate_ref.is_some() || min_version.is_some();
    findings.check(*require || !terms, "spec.tls", &checks::TLS_TERMS_NEED_TLS);
    RouteTls {
        mode: match mode {
            spec::TlsMode::StartTls => TlsMode::StartTls,
            spec::TlsMode::Implicit => TlsMode::Implicit,
        },
        require: *require,
        require_ca_signed: require_ca_signed.unwrap_or(*require),
        validate_hostname: validate_hostname.unwrap_or(*require),
        server_name: server_name.as_ref().and_then(|name| findings.ok(host("spec.tls.serverName", name))),
        ca: ca_ref.as_ref().and_then(|reference| findings.ok(authority(pass, namespace, reference))),
        client_certificate: client_certificate_ref
            .as_ref()
            .and_then(|reference| findings.ok(login::certificate(pass, namespace, reference))),
        min_version: match min_version {
            None | Some(TlsVersion::Tls12) => bundle::TlsVersion::Tls12,
            Some(TlsVersion::Tls13) => bundle::TlsVersion::Tls13,
        },
    }
}

/// Seconds between two tests of the hosts; `None`: never.
fn tests(probe: &spec::Probe, findings: &mut Findings) -> Option<u32> {
    const DEFAULT: u32 = 15 * 60;
    let spec::Probe { mode, interval } = probe;
    let seconds = match interval {
        None => DEFAULT,
        Some(interval) => match interval.get() {
            None => {
                findings.invalid("spec.probe.interval", checks::DURATION.message);
                DEFAULT
            }
            Some(interval) => {
                let fits = (10..=168 * 3600).contains(&interval.as_secs());
                findings.check(fits, "spec.probe", &checks::PROBE_INTERVAL);
                u32::try_from(interval.as_secs()).unwrap_or(DEFAULT)
            }
        },
    };
    match mode {
        spec::ProbeMode::Scheduled => Some(seconds),
        spec::ProbeMode::Disabled => None,
    }
}

fn authority(pass: &Pass<'_>, namespace: &str, reference: &KeyRef) -> Result<Material, Problem> {
    let KeyRef { kind, name, key } = reference;
    let object = ObjectKey::new(namespace, name);
    match kind {
        SourceKind::ConfigMap => pass.config_map_key("spec.tls.caRef", &object, key),
        SourceKind::Secret => pass.secret_key("spec.tls.caRef", &object, key),
    }
}

fn schedule(retry: Option<&spec::Retry>, findings: &mut Findings) -> Retry {
    let Some(spec::Retry { initial, factor, max, give_up_after, warn_after }) = retry else {
        return Retry::default();
    };
    let mut read = |field: &str, given: &Option<GoDuration>, default| match given {
        None => default,
        Some(given) => given.get().unwrap_or_else(|| {
            findings.invalid(&format!("spec.retry.{field}"), checks::DURATION.message);
            default
        }),
    };
    let default = Retry::default();
    let mut schedule = Retry {
        initial: read("initial", initial, default.initial),
        factor: factor.unwrap_or(default.factor),
        max: read("max", max, default.max),
        give_up_after: read("giveUpAfter", give_up_after, default.give_up_after),
        warn_after: read("warnAfter", warn_after, default.warn_after),
    };
    if schedule.initial > schedule.max {
        findings.check(initial.is_none() || max.is_none(), "spec.retry", &checks::RETRY_ORDER);
        // Only one of them was written: the other one gives way.
        match initial {
            None => schedule.initial = schedule.max,
            Some(_) => schedule.max = schedule.initial,
        }
    }
    if !(1.0..=10.0).contains(&schedule.factor) {
        findings.invalid("spec.retry.factor", "must be between 1 and 10");
        schedule.factor = default.factor;
    }
    schedule
}
