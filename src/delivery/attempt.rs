//! One attempt: a message, the recipients that go the same way, the hosts of the plan one after the
//! other. Says for each recipient what became of it; decides nothing about the future.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use super::client::Timeouts;
use super::client::connect::{self, Session, Terms};
use super::client::pool::{Key, Pool};
use super::client::transaction::{Answers, Letter};
use super::dns::{Dns, LookupError};
use super::outcome::{Outcome, Problem, Receipt, Stage, Tally, Trouble, too_many_recipients};
use super::plan::{Hop, Plan};
use super::protect::{self, Approach, Protected, Protection};
use super::routes::{RouteTable, is_local};
use crate::mail::envelope::Recipient;

/// Recipients of one transaction: what every host takes (RFC 5321 section 4.5.3.1.8).
const MAX_RECIPIENTS: usize = 100;
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 6;

/// What every attempt shares.
#[derive(Default)]
pub struct Outside {
    pub dns: Dns,
    pub pool: Pool,
    pub protection: Protection,
    pub timeouts: Timeouts,
}

/// Tries the hosts of `plan` until each recipient has an outcome; as long as `recipients`.
pub async fn attempt(
    outside: &Outside,
    table: &RouteTable,
    plan: &Plan,
    letter: &Letter<'_>,
    recipients: &[&Recipient],
) -> Vec<Outcome> {
    let mut state: Vec<(Tally, Option<Outcome>)> =
        recipients.iter().map(|_| (Tally::default(), None)).collect();
    for hop in &plan.hops {
        let mut open = pending(&state);
        while !open.is_empty() {
            let batch: Vec<usize> = open.drain(..open.len().min(MAX_RECIPIENTS)).collect();
            let to: Vec<&Recipient> = batch.iter().map(|&at| recipients[at]).collect();
            match at_host(outside, table, plan, hop, letter, &to).await {
                Ok(Answered { answers, tls, protected, dsn }) => {
                    // "Too many recipients" after some were taken: the rest has a turn of its own now.
                    let progress = answers.iter().any(Result::is_ok);
                    for (&at, answer) in batch.iter().zip(answers) {
                        match answer {
                            Ok(reply) => {
                                let (host, tls) = (hop.host.clone(), tls.clone());
                                state[at].1 =
                                    Some(Outcome::Delivered(Receipt { host, reply, tls, protected, dsn }));
                            }
                            Err(Trouble::Refused(stage, reply))
                                if progress && too_many_recipients(stage, &reply) =>
                            {
                                open.push(at);
                            }
                            Err(trouble) => note(&mut state[at], plan, Problem::at(&hop.host, trouble)),
                        }
                    }
                }
                // The host is of no use now, for the other batches neither.
                Err(problems) => {
                    for at in batch.into_iter().chain(open.drain(..)) {
                        for problem in &problems {
                            note(&mut state[at], plan, problem.clone());
                        }
                    }
                }
            }
        }
        if pending(&state).is_empty() {
            break;
        }
    }
    let nowhere = || Outcome::Later(Problem::new(Trouble::Unreachable("there is no host to try".to_owned())));
    state
        .into_iter()
        .map(|(tally, outcome)| outcome.or_else(|| tally.sum()).unwrap_or_else(nowhere))
        .collect()
}

fn pending(state: &[(Tally, Option<Outcome>)]) -> Vec<usize> {
    (0..state.len()).filter(|&at| state[at].1.is_none()).collect()
}

fn note(state: &mut (Tally, Option<Outcome>), plan: &Plan, problem: Problem) {
    if state.1.is_none() {
        state.1 = state.0.add(problem, plan.route.on_tls_failure);
    }
}

/// What a host answered, and on what kind of connection.
struct Answered {
    answers: Answers,
    tls: Option<String>,
    protected: Protected,
    dsn: bool,
}

/// One transaction with one host. `Err`: problems that befell all recipients, one per address tried.
async fn at_host(
    outside: &Outside,
    table: &RouteTable,
    plan: &Plan,
    hop: &Hop,
    letter: &Letter<'_>,
    to: &[&Recipient],
) -> Result<Answered, Vec<Problem>> {
    let alone = |trouble| vec![Problem::at(&hop.host, trouble)];
    let now = Timestamp::now();
    let approach = protect::approach(outside, table, hop, letter, now).await.map_err(alone)?;
    let demand = &approach.demand;
    let protected = |answered: Answered| {
        let protected = demand.protected(&plan.route.tls, answered.tls.is_some());
        Answered { protected, ..answered }
    };
    let key = Key {
        host: hop.host.clone(),
        port: hop.port,
        hostname: table.hostname.clone(),
        tls: demand.identity(&plan.route.tls),
        require_tls: plan.require_tls || demand.requires_tls(),
        auth: plan.route.auth.as_ref().map(|credentials| credentials.identity()),
        home: crate::loops::here(),
    };
    while let Some(session) = outside.pool.take(&key) {
        match transact(outside, &key, session, letter, to).await {
            // The host closed it meanwhile, which says nothing about this message.
            Err(Trouble::Closed(Stage::Mail)) => {}
            Err(Trouble::Refused(Stage::Mail, reply)) if reply.code == 421 => {}
            result => return result.map(protected).map_err(alone),
        }
    }
    let session = open(outside, table, plan, hop, &approach, now).await?;
    transact(outside, &key, session, letter, to).await.map(protected).map_err(alone)
}

async fn transact(
    outside: &Outside,
    key: &Key,
    mut session: Session,
    letter: &Letter<'_>,
    to: &[&Recipient],
) -> Result<Answered, Trouble> {
    let result = session.deliver(letter, to).await;
    let (tls, dsn) = (session.tls.clone(), session.extensions.dsn);
    let broken = |answers: &Answers| answers.iter().flat_map(|a| a.as_ref().err()).any(Trouble::ends_session);
    match &result {
        Ok(answers) if broken(answers) => drop(session),
        Err(trouble) if trouble.ends_session() => drop(session),
        // Refused as a whole: the state of the session is clear only after a fresh start.
        Err(_) => session.quit().await,
        Ok(_) => outside.pool.give(key.clone(), session).await,
    }
    result.map(|answers| Answered { answers, tls, protected: Protected::None, dsn })
}

/// A new session with a host: its addresses one after the other.
async fn open(
    outside: &Outside,
    table: &RouteTable,
    plan: &Plan,
    hop: &Hop,
    approach: &Approach,
    now: Timestamp,
) -> Result<Session, Vec<Problem>> {
    let problem = |trouble| Problem::at(&hop.host, trouble);
    let Approach { demand, addresses: known, applied } = approach;
    let addresses = to_try(outside, table, hop, known.clone()).await;
    let addresses = addresses.map_err(|trouble| vec![problem(trouble)])?;
    // The same certificates were read before; what they could not do then they cannot do now.
    let tls = demand.tls(&plan.route.tls);
    let tls = tls.map_err(|error| vec![problem(Trouble::Handshake(error.to_string()))])?;
    let terms = Terms {
        hostname: &table.hostname,
        host: &hop.host,
        tls: &tls,
        demand,
        require_tls: plan.require_tls || demand.requires_tls(),
        auth: plan.route.auth.as_ref(),
        timeouts: outside.timeouts,
        watch: None,
    };
    let reports = &outside.protection.reports;
    let mut problems = Vec::new();
    for ip in addresses {
        match connect::open(SocketAddr::new(ip, hop.port), terms).await {
            Ok(session) => {
                reports.session(table, hop, applied, (&session, &tls), ip, now);
                return Ok(session);
            }
            // A stranger's domain names this very machine, where nothing takes mail.
            Err(Trouble::Unreachable(_)) if hop.by_mx && is_local(ip) => {
                problems.push(problem(Trouble::LoopsBack(hop.host.clone())));
            }
            Err(trouble) => {
                reports.trouble(table, hop, applied, &trouble, ip, now);
                problems.push(problem(demand.trouble(trouble)));
            }
        }
    }
    Err(problems)
}

/// The addresses of a host that are tried, in this order; `known` if somebody had to ask before.
pub(super) async fn to_try(
    outside: &Outside,
    table: &RouteTable,
    hop: &Hop,
    known: Option<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, Trouble> {
    let found = match known {
        Some(known) => known,
        None => addresses(outside, table, hop).await?,
    };
    usable(hop, found)
}

async fn addresses(outside: &Outside, table: &RouteTable, hop: &Hop) -> Result<Vec<IpAddr>, Trouble> {
    if let Ok(ip) = hop.host.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    match outside.dns.hosts(&table.dns, &hop.host, hop.names).await {
        Ok(found) => Ok(found.what),
        Err(LookupError::NoSuchName | LookupError::NoRecord) => Ok(Vec::new()),
        Err(error) => Err(Trouble::Unreachable(format!("no address: {error}"))),
    }
}

/// The addresses that are tried; those that are no mail host of anybody (RFC 6890) are not, when a stranger
/// gave them.
fn usable(hop: &Hop, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Trouble> {
    addresses.retain(|ip| !(hop.by_mx && is_nowhere(*ip)));
    addresses.truncate(MAX_ADDRESSES);
    match addresses.is_empty() {
        false => Ok(addresses),
        true if hop.by_mx => Err(Trouble::MxWithoutAddress),
        true => Err(Trouble::NoAddress),
    }
}

fn is_nowhere(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast(),
    }
}
