//! Quarantine → Quarantine record.

use std::time::Duration;

use super::order::{Given, Pass};
use super::problem::{Findings, Outcome};
use super::resources::origin;
use crate::api::checks;
use crate::api::quarantine::{self as spec, Quarantine as Spec, QuarantineSpec};
use crate::api::units::GoDuration;
use crate::bundle::document::{Digest, OnDeny, Quarantine};

/// Every quarantine of the gateway that can be used: as written, or as last accepted.
pub(super) fn decide(pass: &Pass<'_>, outcomes: &mut Vec<Outcome>) -> Vec<Quarantine> {
    let attached = pass.attached(&pass.resources.quarantines, |held| &held.spec.gateway_ref, outcomes);
    let mut records = Vec::new();
    for (origin, given) in attached {
        let mut findings = Findings::default();
        let record = match given {
            Given::Read(quarantine) => Some(draft(quarantine, &mut findings)),
            Given::Malformed(malformed) => {
                findings.push(malformed.problem());
                None
            }
        };
        let last = pass.last_quarantine(&origin);
        let mut outcome = Outcome::new(origin);
        let record = match (record.filter(|_| findings.problems.is_empty()), last) {
            (Some(record), _) => Some(record),
            (None, Some(last)) => {
                outcome.in_force = Some(last.origin.generation);
                Some(last.clone())
            }
            (None, None) => {
                outcome.broken = true;
                None
            }
        };
        let Findings { problems, warnings } = findings;
        outcomes.push(Outcome { problems, warnings, ..outcome });
        records.extend(record);
    }
    records
}

fn draft(quarantine: &Spec, findings: &mut Findings) -> Quarantine {
    let QuarantineSpec { gateway_ref: _, description: _, retention, on_deny, digest } = &quarantine.spec;
    let retention_ms = millis("spec.retention", retention, findings).unwrap_or(Quarantine::DEFAULT_RETENTION);
    let digest = digest.as_ref().map(|spec::Digest { to, every }| Digest {
        to: to
            .iter()
            .enumerate()
            .filter_map(|(at, to)| findings.ok(super::gateway::address(&format!("spec.digest.to[{at}]"), to)))
            .collect(),
        every_ms: whole(millis("spec.digest.every", every, findings).unwrap_or_default()),
    });
    Quarantine {
        origin: origin(quarantine),
        retention_ms: whole(retention_ms),
        on_deny: match on_deny {
            spec::OnDeny::Drop => OnDeny::Drop,
            spec::OnDeny::Reject => OnDeny::Reject,
        },
        digest,
    }
}

fn millis(path: &str, given: &GoDuration, findings: &mut Findings) -> Option<Duration> {
    let read = given.get();
    findings.check(read.is_some(), path, &checks::DURATION);
    read
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
