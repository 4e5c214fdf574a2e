//! Leader election by a Lease: of several controllers one works, the others wait.
//!
//! Clocks of different machines are never compared. A candidate watches the record, and only when it has
//! not changed for a whole lease by the candidate's own clock may it be taken. A leader counts from the
//! moment *before* a successful renewal was sent and stops working well before the lease could be taken.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::spread::spread;
use super::told::told;

/// How long a lease binds others, how often it is renewed, and when a leader that cannot renew gives up.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub lease: Duration,
    pub renew: Duration,
    pub give_up: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew: Duration::from_secs(2),
            give_up: Duration::from_secs(10),
        }
    }
}

pub struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    terms: Terms,
}

/// What a candidate saw last, and since when it has looked just so.
struct Observed {
    spec: LeaseSpec,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There is no lease: make one.
    Create,
    /// It is free, its holder is gone, or it is ours already: write our name.
    Take,
    /// Someone else holds it.
    Wait,
}

impl Election {
    pub fn new(client: Client, namespace: &str, name: String, identity: String, terms: Terms) -> Self {
        Self { leases: Api::namespaced(client, namespace), name, identity, terms }
    }

    /// Runs `work` whenever this process leads, until `shutdown`. `work` gets a token that is cancelled
    /// when leadership ends and must return soon after; what it has not ended after that is dropped.
    pub async fn run<F>(&self, shutdown: CancellationToken, mut work: impl FnMut(CancellationToken) -> F)
    where
        F: Future<Output = ()>,
    {
        while let Some((lease, since)) = self.acquire(&shutdown).await {
            info!(lease = self.name, identity = self.identity, "leading");
            let term = shutdown.child_token();
            let slack = self.terms.lease.saturating_sub(self.terms.give_up) / 2;
            let held = async {
                let lease = self.hold(lease, since, &term).await;
                term.cancel();
                lease
            };
            let working = async {
                let mut job = std::pin::pin!(work(term.clone()));
                tokio::select! {
                    biased;
                    () = &mut job => {}
                    () = term.cancelled() => {
                        if timeout(slack, job).await.is_err() {
                            warn!("work did not stop in time at the end of leadership; dropped");
                        }
                    }
                }
                term.cancel();
            };
            let (lease, ()) = tokio::join!(held, working);
            if let Some(lease) = lease {
                self.release(lease).await;
            }
            info!(lease = self.name, "not leading any more");
        }
    }

    /// Waits until the lease is ours. `None`: shut down before.
    async fn acquire(&self, shutdown: &CancellationToken) -> Option<(Lease, Instant)> {
        let mut observed = None;
        for turn in 0.. {
            let before = Instant::now();
            let attempt = timeout(self.terms.renew * 2, self.candidate(&mut observed));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                result = attempt => match result {
                    Ok(Ok(Some(lease))) => return Some((lease, before)),
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => warn!(error = told(&error), lease = self.name, "cannot read or take the lease"),
                    Err(_) => warn!(lease = self.name, "the API server did not answer in time"),
                },
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = sleep(spread(self.terms.renew, 0.2, &self.identity, turn)) => {}
            }
        }
        None
    }

    async fn candidate(&self, observed: &mut Option<Observed>) -> Result<Option<Lease>, kube::Error> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() },
                spec: Some(self.claim(None, Timestamp::now())),
            };
            return settle(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let now = Instant::now();
        match observed {
            Some(last) if last.spec == spec => {}
            _ => *observed = Some(Observed { spec: spec.clone(), since: now }),
        }
        match step(observed.as_ref(), &self.identity, now) {
            Step::Wait => Ok(None),
            Step::Create | Step::Take => {
                lease.spec = Some(self.claim(Some(&spec), Timestamp::now()));
                // The resourceVersion that came with it makes this fail if another candidate was faster.
                settle(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
            }
        }
    }

    /// Renews until shut down (returns the lease, to be released) or lost (`None`).
    async fn hold(&self, mut lease: Lease, mut since: Instant, term: &CancellationToken) -> Option<Lease> {
        loop {
            tokio::select! {
                biased;
                () = term.cancelled() => return Some(lease),
                () = sleep(self.terms.renew) => {}
            }
            let end = since + self.terms.give_up;
            let before = Instant::now();
            let spec = self.claim(lease.spec.as_ref(), Timestamp::now());
            let renewed = Lease { spec: Some(spec), ..lease.clone() };
            let params = PostParams::default();
            let renewal = timeout(self.terms.renew, self.leases.replace(&self.name, &params, &renewed));
            tokio::select! {
                biased;
                () = sleep_until(end) => {
                    warn!(lease = self.name, "could not renew the lease in time");
                    return None;
                }
                result = renewal => match result {
                    Ok(Ok(renewed)) => (lease, since) = (renewed, before),
                    Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                        // Our own renewal may have arrived although its answer was lost.
                        match timeout(self.terms.renew, self.leases.get_opt(&self.name)).await {
                            Ok(Ok(Some(found))) if holder(found.spec.as_ref()) == Some(&self.identity) => lease = found,
                            Ok(Ok(_)) => {
                                warn!(lease = self.name, "another controller has taken the lease");
                                return None;
                            }
                            Ok(Err(error)) => warn!(error = told(&error), lease = self.name, "cannot read the lease"),
                            Err(_) => {}
                        }
                    }
                    Ok(Err(error)) => warn!(error = told(&error), lease = self.name, "cannot renew the lease"),
                    Err(_) => warn!(lease = self.name, "the API server did not answer in time"),
                },
            }
            if Instant::now() >= since + self.terms.give_up {
                warn!(lease = self.name, "could not renew the lease in time");
                return None;
            }
        }
    }

    /// Leaves the lease free, so that the next leader need not wait.
    async fn release(&self, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        match timeout(self.terms.renew, self.leases.replace(&self.name, &params, &lease)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                warn!(error = told(&error), lease = self.name, "the lease was not released; it will run out");
            }
            Err(_) => warn!(lease = self.name, "the lease was not released in time; it will run out"),
        }
    }

    fn claim(&self, last: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let mine = holder(last) == Some(&self.identity);
        let transitions = last.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.terms.lease.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if mine {
                last.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(MicroTime(now))
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..Default::default()
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("name", &self.name).field("identity", &self.identity).finish()
    }
}

fn holder(spec: Option<&LeaseSpec>) -> Option<&String> {
    spec.and_then(|spec| spec.holder_identity.as_ref()).filter(|name| !name.is_empty())
}

/// Decides from what was seen and by our own clock alone.
fn step(observed: Option<&Observed>, me: &str, now: Instant) -> Step {
    let Some(Observed { spec, since }) = observed else { return Step::Create };
    match holder(Some(spec)) {
        None => Step::Take,
        Some(name) if name == me => Step::Take,
        Some(_) => {
            let lease = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(15).max(1) as u64);
            if now.duration_since(*since) >= lease { Step::Take } else { Step::Wait }
        }
    }
}

/// A lost race is no error: look again later.
fn settle(result: Result<Lease, kube::Error>) -> Result<Option<Lease>, kube::Error> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
