//! One attempt: a message, the recipients that go the same way, the hosts of the plan one after the
//! other. Says for each recipient what became of it; decides nothing about the future.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::client::Timeouts;
use super::client::connect::{self, Session, Terms};
use super::client::pool::{Key, MAX_USES, Pool};
use super::client::transaction::{Answers, Letter};
use super::dns::{Dns, LookupError};
use super::egress::Source;
use super::limits::{Hold, Lease, Pass};
use super::outcome::{Outcome, Problem, Receipt, Stage, Tally, Trouble, too_many_recipients};
use super::plan::{Hop, Plan};
use super::protect::{self, Approach, Protected, Protection};
use super::routes::{RouteTable, is_local};
use crate::mail::envelope::Recipient;

/// How long an attempt waits for another session of its route to close.
const ROOM: Duration = Duration::from_secs(2);
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
    pass: &Pass,
    letter: &Letter<'_>,
    recipients: &[&Recipient],
) -> Vec<Outcome> {
    let mut state: Vec<(Tally, Option<Outcome>)> =
        recipients.iter().map(|_| (Tally::default(), None)).collect();
    for hop in &plan.hops {
        let mut open = pending(&state);
        while !open.is_empty() {
            let batch: Vec<usize> = open.drain(..open.len().min(plan.route.max_recipients())).collect();
            let to: Vec<&Recipient> = batch.iter().map(|&at| recipients[at]).collect();
            match at_host(outside, table, plan, pass, hop, letter, &to).await {
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
    pass: &Pass,
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
    let lane = pass.lane();
    let key = |source: Option<&Source>| Key {
        host: hop.host.clone(),
        port: hop.port,
        hostname: ehlo(table, source).to_owned(),
        tls: demand.identity(&plan.route.tls),
        require_tls: plan.require_tls || demand.requires_tls(),
        auth: plan.route.auth.as_ref().map(|credentials| credentials.identity()),
        source: source.map(|source| source.address),
        // Limited connections are shared by all loops: there may be fewer than loops.
        home: if lane.is_some() { 0 } else { crate::loops::here() },
        lane: lane.clone(),
    };
    for way in pass.leave().ways() {
        let source = way.map(|source| &**source);
        let key = key(source);
        while let Some(session) = outside.pool.take(&key) {
            pass.meet();
            match transact(outside, plan, &key, session, letter, to).await {
                // The host closed it meanwhile, which says nothing about this message.
                Err(Trouble::Closed(Stage::Mail)) => {}
                Err(Trouble::Refused(Stage::Mail, reply)) if reply.code == 421 => {}
                result => {
                    note_result(pass, source, &result);
                    return result.map(protected).map_err(alone);
                }
            }
        }
    }
    let (session, source) = open(outside, table, plan, pass, hop, &approach, now).await?;
    pass.meet();
    let result = transact(outside, plan, &key(source), session, letter, to).await;
    note_result(pass, source, &result);
    result.map(protected).map_err(alone)
}

/// What EHLO says from there.
fn ehlo<'a>(table: &'a RouteTable, source: Option<&'a Source>) -> &'a str {
    source.and_then(|source| source.ehlo.as_deref()).unwrap_or(&table.hostname)
}

/// What the host's answers say about our pace, for those who come after.
fn note_result(pass: &Pass, source: Option<&Source>, result: &Result<Answered, Trouble>) {
    match result {
        Ok(answered) => {
            let some = answered.answers.iter().any(Result::is_ok);
            pass.note(source, answered.answers.iter().filter_map(|answer| answer.as_ref().err()), some);
        }
        Err(trouble) => pass.note(source, std::iter::once(trouble), false),
    }
}

async fn transact(
    outside: &Outside,
    plan: &Plan,
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
        Ok(_) => {
            let most = plan.route.limits.messages_per_connection.unwrap_or(MAX_USES);
            outside.pool.give(key.clone(), session, most).await;
        }
    }
    result.map(|answers| Answered { answers, tls, protected: Protected::None, dsn })
}

/// A new session with a host, and where it leaves from: the addresses that can be reached, one after the other.
async fn open<'a>(
    outside: &Outside,
    table: &'a RouteTable,
    plan: &Plan,
    pass: &'a Pass,
    hop: &Hop,
    approach: &Approach,
    now: Timestamp,
) -> Result<(Session, Option<&'a Source>), Vec<Problem>> {
    let problem = |trouble| Problem::at(&hop.host, trouble);
    let Approach { demand, addresses: known, applied } = approach;
    let addresses = to_try(outside, table, hop, known.clone()).await;
    let addresses = addresses.map_err(|trouble| vec![problem(trouble)])?;
    let ways = pass.leave().reach(&addresses);
    if ways.is_empty() {
        return Err(vec![problem(no_source(pass, &addresses))]);
    }
    // The same certificates were read before; what they could not do then they cannot do now.
    let tls = demand.tls(&plan.route.tls);
    let tls = tls.map_err(|error| vec![problem(Trouble::Handshake(error.to_string()))])?;
    let lease = room(outside, pass).await.map_err(|trouble| vec![problem(trouble)])?;
    let reports = &outside.protection.reports;
    let mut problems = Vec::new();
    for (ip, way) in ways {
        let source = way.map(|source| &**source);
        let terms = Terms {
            hostname: ehlo(table, source),
            source,
            host: &hop.host,
            tls: &tls,
            demand,
            require_tls: plan.require_tls || demand.requires_tls(),
            auth: plan.route.auth.as_ref(),
            timeouts: outside.timeouts,
            watch: None,
        };
        let trouble = match connect::open(SocketAddr::new(ip, hop.port), terms).await {
            Ok(mut session) => {
                reports.session(table, hop, applied, (&session, &tls), ip, now);
                session.lease = lease;
                return Ok((session, source));
            }
            Err(trouble) => trouble,
        };
        pass.note(source, std::iter::once(&trouble), false);
        if let Some(source) = source {
            pass.unusable(source, &trouble);
        }
        match trouble {
            // A stranger's domain names this very machine, where nothing takes mail.
            Trouble::Unreachable(_) if hop.by_mx && is_local(ip) => {
                problems.push(problem(Trouble::LoopsBack(hop.host.clone())));
            }
            // Ours, not the host's: nobody reports that.
            Trouble::NoSource(_) | Trouble::Proxy(_) => problems.push(problem(trouble)),
            trouble => {
                reports.trouble(table, hop, applied, &trouble, ip, now);
                problems.push(problem(demand.trouble(trouble)));
            }
        }
    }
    Err(problems)
}

/// Waits for room for one more session, and makes some: idle ones of other hosts are closed.
async fn room(outside: &Outside, pass: &Pass) -> Result<Option<Lease>, Trouble> {
    let by = Instant::now() + ROOM;
    loop {
        let hold = match pass.room() {
            Ok(lease) => return Ok(lease),
            Err(hold) if Instant::now() >= by => return Err(Trouble::HeldBack(hold.words().to_owned())),
            Err(hold) => hold,
        };
        let fits = |key: &Key| match hold {
            Hold::domain_connections => key.lane.as_ref() == Some(pass.place()),
            _ => key.lane.as_ref().is_some_and(|lane| lane.label() == pass.place().label()),
        };
        match outside.pool.evict(fits) {
            Some(session) => session.quit().await,
            // Whoever has it gives it back in a moment.
            None => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Why no address of a host can be reached from the route's sources.
fn no_source(pass: &Pass, addresses: &[IpAddr]) -> Trouble {
    let family = |ip: &IpAddr| if ip.to_canonical().is_ipv4() { "IPv4" } else { "IPv6" };
    let why = match (pass.leave().ways().is_empty(), addresses.first()) {
        (false, Some(ip)) => {
            format!("it has {} addresses only, and no source that can be used is one", family(ip))
        }
        _ => "this machine has none of them, and none has a proxy that works".to_owned(),
    };
    Trouble::NoSource(why)
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
