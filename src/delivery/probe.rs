//! Tests the way to a next hop without mail (spec R23-R27): the same names, addresses and terms that delivery
//! would use, one stage after the other, each told for itself.
//!
//! Nothing may go over a tested session that its certificate does not allow: credentials and addresses follow
//! only when every demand of the route was met.

pub mod advice;
mod findings;
mod log;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;

use self::findings::Findings;
use self::log::Log;
use super::attempt::{self, Outside};
use super::client::Timeouts;
use super::client::connect::{self, Session, Terms};
use super::client::transaction::Letter;
use super::egress::Source;
use super::outcome::Trouble;
use super::plan::{self, Hop, MX_PORT};
use super::protect::{self, Approach, Demand};
use super::routes::{Route, RouteTable};
use crate::bundle::document::{HostPort, RouteTarget};
use crate::bundle::probe::{HostProbe, Stage};
use crate::mail::address::Host;
use crate::mail::envelope::{Recipient, Sender};

/// Hosts of a route that are tested at the same time.
const AT_ONCE: usize = 8;
/// One address, whatever its stages add up to.
const LONGEST: Duration = Duration::from_secs(40);
/// When this has passed no further address of a host is tried: somebody waits.
const ENOUGH: Duration = Duration::from_secs(15);

/// Whom the host is asked to take mail for; nothing is sent.
#[derive(Debug, Clone)]
pub struct Trial {
    pub sender: Sender,
    pub recipient: Recipient,
}

/// Long enough for hosts that greet late on purpose, short enough for a person who waits.
pub fn timeouts() -> Timeouts {
    let seconds = Duration::from_secs;
    Timeouts {
        connect: seconds(8),
        greeting: seconds(30),
        hello: seconds(20),
        mail: seconds(20),
        rcpt: seconds(20),
        data: seconds(20),
        block: seconds(20),
        end: seconds(20),
    }
}

/// Tests every host of a route, primaries first, in the order in which they are written. Empty for a route
/// that names no host: its hosts are those of each recipient's domain.
pub async fn hosts(
    outside: &Outside,
    table: &RouteTable,
    route: &Arc<Route>,
    trial: Option<&Trial>,
) -> Vec<HostProbe> {
    if route.target == RouteTarget::RecipientMx {
        return Vec::new();
    }
    let start = Instant::now();
    // The recipient matters only for routes that were sent away above.
    let nobody = Host::Literal(IpAddr::from([0, 0, 0, 0]));
    let plan = match plan::plan(table, &outside.dns, Arc::clone(route), &nobody, false, MX_PORT).await {
        Ok(plan) => plan,
        Err(problem) => {
            let at = named(&route.target).into_iter().next();
            let at = at.unwrap_or(HostPort { host: String::new(), port: MX_PORT });
            let findings = Findings::new(route, &at.host, at.port);
            return vec![findings.unresolved(&problem, start.elapsed())];
        }
    };
    let mut hops = plan.hops;
    let order = named(&route.target);
    let place = |hop: &Hop| order.iter().position(|at| at.host == hop.host && at.port == hop.port);
    hops.sort_by_cached_key(|hop| (place(hop).unwrap_or(usize::MAX), hop.host.clone(), hop.port));
    let tests = hops.into_iter().map(|hop| async move { one(outside, table, route, &hop, trial).await });
    futures::stream::iter(tests).buffered(AT_ONCE).collect().await
}

fn named(target: &RouteTarget) -> Vec<HostPort> {
    match target {
        RouteTarget::Hosts { primary, secondary } => {
            primary.iter().chain(secondary).map(|host| host.at.clone()).collect()
        }
        RouteTarget::MxOf(domains) => domains.clone(),
        RouteTarget::RecipientMx => Vec::new(),
    }
}

/// One host: like delivery, its addresses one after the other until one is fine. What is told is the first
/// that is, else the one that came furthest.
async fn one(
    outside: &Outside,
    table: &RouteTable,
    route: &Route,
    hop: &Hop,
    trial: Option<&Trial>,
) -> HostProbe {
    let start = Instant::now();
    let mut findings = Findings::new(route, &hop.host, hop.port);
    // What the world demands of the host beside the route (DANE, MTA-STS), as for a plain message.
    let nobody = Sender::default();
    let sender = trial.map_or(&nobody, |trial| &trial.sender);
    let letter = Letter::new(sender, b"", b"");
    let approach = match protect::approach(outside, table, hop, &letter, Timestamp::now()).await {
        Ok(approach) => approach,
        Err(trouble) => return findings.failed(Stage::Resolve, trouble, start.elapsed()),
    };
    let Approach { demand, addresses: known, .. } = approach;
    match demand.tls(&route.tls) {
        Ok(tls) => findings.demanded_of(tls.into_owned(), demand),
        // Read before when the route was made; what it could not do then it cannot do now.
        Err(error) => {
            return findings.failed(Stage::Handshake, Trouble::Handshake(error.to_string()), Duration::ZERO);
        }
    }
    let mut addresses = match attempt::to_try(outside, table, hop, known).await {
        Ok(addresses) => addresses,
        Err(trouble) => return findings.failed(Stage::Resolve, trouble, start.elapsed()),
    };
    // DNS servers turn the order at every question; two tests are to be comparable.
    addresses.sort();
    findings.resolved(&addresses, start.elapsed());
    let mut best: Option<HostProbe> = None;
    let mut others = Vec::new();
    for ip in addresses {
        let found = address(outside, table, route, hop, ip, trial, findings.clone()).await;
        let passed = found.passed();
        let before = best.as_ref().map_or(0, reach);
        if reach(&found) > before || passed {
            others.extend(best.replace(found));
        } else {
            others.push(found);
        }
        if passed || start.elapsed() > ENOUGH {
            break;
        }
    }
    let best = best.unwrap_or_else(|| {
        findings.failed(
            Stage::Connect,
            Trouble::Unreachable("there is no address".to_owned()),
            Duration::ZERO,
        )
    });
    findings::with_others(best, &others)
}

/// How far a test came.
fn reach(probe: &HostProbe) -> usize {
    use crate::bundle::probe::Mark;
    1 + probe.steps.iter().filter(|step| step.result == Mark::Passed).count()
}

async fn address(
    outside: &Outside,
    table: &RouteTable,
    route: &Route,
    hop: &Hop,
    ip: IpAddr,
    trial: Option<&Trial>,
    mut findings: Findings<'_>,
) -> HostProbe {
    findings.at(ip);
    let log = Log::default();
    let (mut tls, recorder) = match findings.tls().recording() {
        Ok(recording) => recording,
        // Read before when the route was made; what it could not do then it cannot do now.
        Err(error) => {
            return findings.failed(Stage::Handshake, Trouble::Handshake(error.to_string()), Duration::ZERO);
        }
    };
    if tls.server_name.is_none() {
        tls.server_name = findings.sni().map(str::to_owned);
    }
    // From where mail would leave: firewalls differ.
    let fits = |source: &&Arc<Source>| source.address.is_ipv4() == ip.to_canonical().is_ipv4();
    let source =
        route.egress.as_ref().and_then(|egress| egress.list.iter().find(fits)).map(|source| &**source);
    let terms = Terms {
        source,
        hostname: source.and_then(|source| source.ehlo.as_deref()).unwrap_or(&table.hostname),
        host: &hop.host,
        tls: &tls,
        // Looked at afterwards, so that all of it can be told.
        demand: &Demand::Nothing,
        // What the route could do without is asked for too: that is what a test is for.
        require_tls: true,
        // Who answers is known only when it has answered.
        auth: None,
        timeouts: outside.timeouts,
        watch: Some(&log),
    };
    let opening = connect::open(SocketAddr::new(ip, hop.port), terms);
    let opened = match tokio::time::timeout(LONGEST, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Trouble::TimedOut(log.stage())),
    };
    findings.heard(&log, recorder.seen());
    match opened {
        Err(trouble) => findings.stopped(trouble, log.since_last()),
        Ok(session) if !findings.allow_more() => {
            session.quit().await;
            findings.done()
        }
        Ok(session) => go_on(session, route, trial, findings).await,
    }
}

/// What only a host may see that is what the route wants it to be.
async fn go_on(
    mut session: Session,
    route: &Route,
    trial: Option<&Trial>,
    mut findings: Findings<'_>,
) -> HostProbe {
    if let Some(credentials) = &route.auth {
        let start = Instant::now();
        let login = match findings.is_verified() {
            true => session.try_login(credentials).await,
            false => Err(Trouble::AuthUnprotected),
        };
        let refused = login.is_err();
        findings.login(credentials.mechanism(), login, start.elapsed());
        if refused {
            session.quit().await;
            return findings.done();
        }
    }
    if let Some(Trial { sender, recipient }) = trial {
        let start = Instant::now();
        match session.try_recipient(sender, recipient).await {
            Ok(reply) => findings.recipient(Ok(&reply), start.elapsed()),
            Err(trouble) => findings.recipient(Err(trouble), start.elapsed()),
        }
    }
    session.quit().await;
    findings.done()
}
