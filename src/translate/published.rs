//! What DNS said of the organisation's domains, and what it means for a gateway: `SPFAligned` (spec R30),
//! `DKIMPublished` (R33) and the networks of `clients.spfDomains` (R36). Pure: whoever asks DNS hands the answers in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::{ObjectKey, Resources};
use crate::api::conditions::{ConditionType, Reason, State, Verdict};
use crate::bundle::document::{DkimKey, Gateway, Route, SpfClients};
use crate::mail::address::Domain;
use crate::mail::dkim::PublicKey;

/// Look-ups that receivers allow (RFC 7208 section 4.6.4), and from where on an author is warned.
const LOOKUPS: u32 = 10;
const MANY_LOOKUPS: u32 = 8;
/// Domains that a message names.
const NAMED: usize = 5;

/// Answers to everything a gateway wanted to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedFacts {
    /// By domain.
    pub spf: BTreeMap<String, Told<SpfAnswer>>,
    /// By name, see [`dkim_name`].
    pub keys: BTreeMap<String, Told<KeyAnswer>>,
    /// By domain.
    pub ranges: BTreeMap<String, Told<Ranges>>,
}

/// The state of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<T> {
    /// What DNS said last; `None`: nothing yet in this process.
    pub last: Option<Arc<T>>,
    /// Why there is no newer answer, in words that stay the same while the reason does.
    pub problem: Option<String>,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self { last: None, problem: None }
    }
}

impl<T: PartialEq> Told<T> {
    pub fn learn(&mut self, answer: T) {
        self.problem = None;
        if self.last.as_deref() != Some(&answer) {
            self.last = Some(Arc::new(answer));
        }
    }

    /// DNS gave no answer; `since`: when that was, should it be news.
    pub fn miss(&mut self, why: &str, since: &str) {
        if !self.problem.as_ref().is_some_and(|problem| problem.ends_with(why)) {
            self.problem = Some(format!("not answered since {since}: {why}"));
        }
    }
}

/// The SPF record of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfAnswer {
    /// `None`: there is none. An error: there are several.
    pub record: Result<Option<String>, String>,
    /// Look-ups that its evaluation takes at most.
    pub lookups: u32,
    /// What receivers say of mail from each address.
    pub results: BTreeMap<IpAddr, SpfResult>,
    /// Names that it includes or redirects to, directly or through others.
    pub chain: Vec<String>,
    /// The networks it lets send, as far as it names any.
    pub passing: Option<Vec<IpNet>>,
}

/// A result of `check_host` (RFC 7208 section 2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpfResult {
    Pass,
    Fail,
    SoftFail,
    Neutral,
    None,
    PermError(String),
}

/// The TXT records where a DKIM key belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnswer {
    pub records: Vec<String>,
}

/// The networks that an SPF record lets send.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ranges {
    /// Sorted, none inside another.
    pub networks: Vec<IpNet>,
    /// Terms that name no networks.
    pub skipped: Vec<String>,
}

/// Where the public half of a key belongs.
pub fn dkim_name(key: &DkimKey) -> String {
    format!("{}._domainkey.{}", key.selector, key.domain.ascii())
}

/// The addresses that the world sees mail come from, as far as they are known.
pub fn egress(gateway: &Gateway, routes: &[Route]) -> BTreeSet<IpAddr> {
    let sources = routes.iter().flat_map(|route| &route.egress).flat_map(|egress| &egress.sources);
    let sources = sources.map(|source| source.address).filter(|address| is_public(*address));
    gateway.public_addresses.iter().copied().chain(sources).collect()
}

/// Whether hosts elsewhere can see it.
pub fn is_public(address: IpAddr) -> bool {
    !match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local()
        }
    }
}

/// What is to be said of a gateway's domains. Empty where nobody asks DNS.
pub(super) fn verdicts(resources: &Resources, gateway: &Gateway, routes: &[Route]) -> Vec<Verdict> {
    let Some(facts) = &resources.published else { return Vec::new() };
    let spf = aligned(facts, gateway, routes);
    [Some(spf), published(facts, resources, gateway)].into_iter().flatten().collect()
}

/// Findings of several domains or keys on their way to one verdict.
#[derive(Default)]
struct Tally {
    good: Vec<String>,
    bad: Vec<(Reason, String)>,
    open: Vec<String>,
    notes: Vec<String>,
}

impl Tally {
    /// What is wrong counts before what is not known.
    fn verdict(self, kind: ConditionType, fine: Reason, well: &str) -> Verdict {
        let Tally { good, bad, open, notes } = self;
        let some = |texts: &[String]| {
            let more = texts.len().saturating_sub(NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("{}{more}", texts[..texts.len().min(NAMED)].join("; "))
        };
        let notes = if notes.is_empty() { String::new() } else { format!("; warning: {}", some(&notes)) };
        if let Some((reason, _)) = bad.first() {
            let texts: Vec<String> = bad.iter().map(|(_, text)| text.clone()).collect();
            return Verdict::new(kind, State::False, *reason, format!("{}{notes}", some(&texts)));
        }
        if !open.is_empty() {
            return Verdict::new(
                kind,
                State::Unknown,
                Reason::NotAnswered,
                format!("{}{notes}", some(&open)),
            );
        }
        let message = format!("{well}: {}{notes}", good.join(", "));
        Verdict::new(kind, State::True, fine, message)
    }
}

/// `SPFAligned`: whether the published records let mail come from every address it leaves by.
fn aligned(facts: &PublishedFacts, gateway: &Gateway, routes: &[Route]) -> Verdict {
    const KIND: ConditionType = ConditionType::SPFAligned;
    if gateway.domains.is_empty() {
        let message = "the gateway has no domains, so there is no SPF record to look at: set spec.domains";
        return Verdict::new(KIND, State::Unknown, Reason::NoDomains, message);
    }
    let addresses = egress(gateway, routes);
    if addresses.is_empty() {
        let message = "the addresses that the world sees mail come from are not known: list them in \
                       spec.publicAddresses (the public side of a NAT gateway, or those of the nodes)";
        return Verdict::new(KIND, State::Unknown, Reason::PublicAddressUnknown, message);
    }
    let mut tally = Tally::default();
    for domain in &gateway.domains {
        let told = facts.spf.get(domain.ascii()).cloned().unwrap_or_default();
        judge(domain, &told, &addresses, gateway, &mut tally);
    }
    let shown: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let well = format!("receivers accept mail from {} for", shown.join(", "));
    tally.verdict(KIND, Reason::SPFAligned, &well)
}

fn judge(
    domain: &Domain,
    told: &Told<SpfAnswer>,
    addresses: &BTreeSet<IpAddr>,
    gateway: &Gateway,
    tally: &mut Tally,
) {
    let name = domain.ascii();
    let Some(answer) = &told.last else {
        let why = told.problem.clone().unwrap_or_else(|| "DNS is being asked".to_owned());
        tally.open.push(format!("SPF of {name}: {why}"));
        return;
    };
    tally.notes.extend(told.problem.iter().map(|problem| format!("SPF of {name}: {problem}")));
    let SpfAnswer { record, lookups, results, chain, passing } = &**answer;
    if addresses.iter().any(|address| !results.contains_key(address)) {
        tally.open.push(format!("SPF of {name}: DNS is being asked about the addresses of today"));
        return;
    }
    let record = match record {
        Ok(record) => record.as_deref(),
        Err(why) => {
            tally.bad.push((Reason::SPFInvalid, format!("{why}: receivers ignore all of them; keep one")));
            return;
        }
    };
    let refused: Vec<(&IpAddr, &SpfResult)> = addresses
        .iter()
        .filter_map(|at| Some((at, results.get(at)?)))
        .filter(|(_, r)| **r != SpfResult::Pass)
        .collect();
    let upstream = upstream(gateway, chain, passing.as_deref());
    let many = *lookups > LOOKUPS;
    if refused.is_empty() && upstream.is_empty() {
        tally.good.push(name.to_owned());
        if *lookups >= MANY_LOOKUPS {
            let says =
                if many { "receivers that get to its end give up" } else { "receivers give up above 10" };
            tally.notes.push(format!("the SPF record of {name} takes {lookups} DNS look-ups; {says}"));
        }
        return;
    }
    let missing: Vec<String> = refused.iter().map(|(at, _)| mechanism(**at)).collect();
    let publish = with_missing(record, &[missing, upstream.clone()].concat(), many);
    let length = if publish.len() > 255 { " (as several strings of at most 255 characters)" } else { "" };
    let advice = format!("publish this TXT record at {name}{length}: \"{publish}\"");
    if let Some((_, SpfResult::PermError(why))) =
        refused.iter().find(|(_, result)| matches!(result, SpfResult::PermError(_)))
    {
        let text = format!("the SPF record of {name} is invalid for receivers: {why}; {advice}");
        tally.bad.push((Reason::SPFInvalid, text));
        return;
    }
    let reason = match (record, refused.is_empty()) {
        (None, _) => Reason::SPFMissing,
        (Some(_), false) => Reason::AddressMissing,
        (Some(_), true) => Reason::UpstreamMissing,
    };
    let lacks: Vec<String> =
        refused.iter().map(|(at, result)| format!("{at} ({result})")).chain(upstream).collect();
    let what = match record {
        None => format!("{name} has no SPF record, so nothing says that mail may come from"),
        Some(_) => format!("the SPF record of {name} does not let mail come from"),
    };
    let many = match lookups {
        _ if many => format!("; with {lookups} DNS look-ups it takes more than the 10 that receivers allow"),
        MANY_LOOKUPS.. => format!("; it takes {lookups} of the 10 DNS look-ups that receivers allow"),
        _ => String::new(),
    };
    tally.bad.push((reason, format!("{what} {}{many}; {advice}", lacks.join(", "))));
}

/// The organisation's mail servers that hand mail over and are not in the record: they should be in it together with
/// the gateway, for mail that does not pass here. As mechanisms.
fn upstream(gateway: &Gateway, chain: &[String], passing: Option<&[IpNet]>) -> Vec<String> {
    let Some(passing) = passing else { return Vec::new() };
    let inside = |net: &IpNet| passing.iter().any(|known| known.contains(net));
    let mut missing = Vec::new();
    for SpfClients { domain, networks } in &gateway.spf_clients {
        let named = chain.iter().any(|name| name == domain.ascii());
        let covered = !networks.is_empty() && networks.iter().all(inside);
        if !named && !covered {
            missing.push(format!("include:{}", domain.ascii()));
        }
    }
    let of_dns = |net: &&IpNet| gateway.spf_clients.iter().any(|from| from.networks.contains(net));
    let typed = gateway.clients.iter().filter(|net| !of_dns(net));
    for net in typed.filter(|net| is_public(net.addr()) && net.prefix_len() > 0 && !inside(net)) {
        let tag = if net.addr().is_ipv4() { "ip4" } else { "ip6" };
        let one = net.prefix_len() == net.max_prefix_len();
        missing.push(if one { format!("{tag}:{}", net.addr()) } else { format!("{tag}:{net}") });
    }
    missing
}

fn mechanism(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }
}

/// The record with what it lacks: before `all`, else before `redirect=`, else at its end. In front where the
/// record's look-ups are too many, since receivers would not get as far.
fn with_missing(record: Option<&str>, missing: &[String], first: bool) -> String {
    let Some(record) = record else { return format!("v=spf1 mx {} ~all", missing.join(" ")) };
    let mut words: Vec<&str> = record.split(' ').filter(|word| !word.is_empty()).collect();
    let is_all = |word: &&str| word.trim_start_matches(['+', '-', '~', '?']).eq_ignore_ascii_case("all");
    let redirects = |word: &&str| word.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("redirect="));
    let all = words.iter().position(is_all).or_else(|| words.iter().position(redirects));
    let at = if first { 1 } else { all.unwrap_or(words.len()) };
    words.splice(at..at, missing.iter().map(String::as_str));
    words.join(" ")
}

impl std::fmt::Display for SpfResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SpfResult::Pass => "pass",
            SpfResult::Fail => "fail",
            SpfResult::SoftFail => "softfail",
            SpfResult::Neutral => "neutral",
            SpfResult::None => "none",
            SpfResult::PermError(_) => "permerror",
        })
    }
}

/// `DKIMPublished`: whether receivers find the public half of each signing key. `None`: there are no keys.
fn published(facts: &PublishedFacts, resources: &Resources, gateway: &Gateway) -> Option<Verdict> {
    if gateway.dkim.is_empty() {
        return None;
    }
    let mut tally = Tally::default();
    for key in &gateway.dkim {
        let name = dkim_name(key);
        let secret = ObjectKey::new(&key.key.namespace, &key.key.name);
        let public = match resources.secrets.get(&secret).map(|facts| facts.signing_key(&key.key.key)) {
            Some(Ok(public)) => public,
            Some(Err(why)) => {
                let text = format!("Secret {secret}, key {}, signs nothing: {why}", key.key.key);
                tally.bad.push((Reason::KeyInvalid, text));
                continue;
            }
            // The object's own problem; the copy that is published still signs.
            None => {
                tally.open.push(format!("{name}: Secret {secret} is not there to compare with"));
                continue;
            }
        };
        let told = facts.keys.get(&name).cloned().unwrap_or_default();
        let Some(answer) = &told.last else {
            let why = told.problem.unwrap_or_else(|| "DNS is being asked".to_owned());
            tally.open.push(format!("{name}: {why}"));
            continue;
        };
        tally.notes.extend(told.problem.map(|problem| format!("{name}: {problem}")));
        compare(&name, &public, &answer.records, &mut tally);
    }
    let well = "receivers find the key of each signature at";
    Some(tally.verdict(ConditionType::DKIMPublished, Reason::DKIMPublished, well))
}

fn compare(name: &str, public: &PublicKey, records: &[String], tally: &mut Tally) {
    let advice = format!("publish this TXT record at {name}: \"{}\"", public.record());
    match records {
        [] => tally.bad.push((Reason::KeyNotPublished, format!("nothing is published at {name}; {advice}"))),
        [record] => match public.check(record) {
            Ok(()) => {
                tally.good.push(name.to_owned());
                if PublicKey::is_testing(record) {
                    tally.notes.push(format!(
                        "the record at {name} has t=y, so receivers treat signed mail as unsigned: take that out"
                    ));
                }
            }
            Err(why) => {
                let text = format!("the record at {name} does not fit the signing key: {why}; {advice}");
                tally.bad.push((Reason::KeyMismatch, text));
            }
        },
        several => {
            let text = format!(
                "there are {} records at {name}, of which receivers take any: keep one; {advice}",
                several.len()
            );
            tally.bad.push((Reason::KeyMismatch, text));
        }
    }
}

/// The networks of `clients.spfDomains`. An answer that cannot be meant is not taken over, and while there is no answer the networks of
/// before stay (spec R36).
pub(super) fn clients(pass: &Pass<'_>, domains: &[String], findings: &mut Findings) -> Vec<SpfClients> {
    let mut found: Vec<SpfClients> = Vec::new();
    for (at, text) in domains.iter().enumerate() {
        let path = format!("spec.clients.spfDomains[{at}]");
        let Some(domain) = findings.ok(super::gateway::domain(&path, text)) else { continue };
        if found.iter().any(|known| known.domain == domain) {
            continue;
        }
        let last = pass.last_good.iter().flat_map(|last| &last.bundle.gateway.spf_clients);
        let last = last.clone().find(|last| last.domain == domain).map(|last| last.networks.clone());
        let last = last.unwrap_or_default();
        let networks = match &pass.resources.published {
            None => {
                let message = "DNS is not asked here, so the networks it names are not known";
                findings.push(Problem::reference(&path, Reason::NotAnswered, message).warning());
                last
            }
            Some(facts) => {
                let told = facts.ranges.get(domain.ascii()).cloned().unwrap_or_default();
                current(&path, &domain, told, last, findings)
            }
        };
        found.push(SpfClients { domain, networks });
    }
    found
}

/// Which networks are in force: those of the answer, or those of before.
fn current(
    path: &str,
    domain: &Domain,
    told: Told<Ranges>,
    last: Vec<IpNet>,
    findings: &mut Findings,
) -> Vec<IpNet> {
    let name = domain.ascii();
    let held = |findings: &mut Findings, reason, why: String| {
        let message = match last.len() {
            0 => format!("{why}; no network may relay because of {name} until then"),
            count => format!("{why}; the {count} networks of before stay in force"),
        };
        let kind = ConditionType::ClientRangesHeld;
        findings.push(Problem::new(path, reason, message.clone(), kind).warning());
        if last.is_empty() {
            findings.push(Problem::reference(path, reason, message));
        }
    };
    let Told { last: answer, problem } = told;
    let Some(answer) = answer else {
        match problem {
            Some(problem) => {
                held(findings, Reason::NotAnswered, format!("the SPF record of {name} is {problem}"));
            }
            // A start is no incident while there is something to go by.
            None if last.is_empty() => {
                let message = format!("DNS is being asked for the networks of {name}");
                findings.push(Problem::reference(path, Reason::NotAnswered, message).warning());
            }
            None => {}
        }
        return last;
    };
    if let Err(why) = plausible(&answer.networks, &last) {
        let why = format!(
            "the SPF record of {name} {why}. If that is right, take {name} out of spfDomains, wait until that is \
             Ready, and put it back"
        );
        held(findings, Reason::RangesRefused, why);
        return last;
    }
    if let Some(problem) = problem {
        let why = format!("the SPF record of {name} is {problem}");
        let message = format!("{why}; the {} networks of before stay in force", answer.networks.len());
        let kind = ConditionType::ClientRangesHeld;
        findings.push(Problem::new(path, Reason::NotAnswered, message, kind).warning());
    }
    if !answer.skipped.is_empty() {
        let message = format!("terms that name no networks are left out: {}", answer.skipped.join(", "));
        findings.push(Problem::reference(path, Reason::NotUsed, message).warning());
    }
    answer.networks.clone()
}

/// Whether an answer can be meant, beside what was in force: nothing, almost everything, or the loss of more than half
/// is somebody's accident.
fn plausible(networks: &[IpNet], last: &[IpNet]) -> Result<(), String> {
    if networks.is_empty() {
        return Err("names no networks".to_owned());
    }
    let wide = |net: &&IpNet| match net {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 16,
    };
    if let Some(net) = networks.iter().find(wide) {
        return Err(format!("names {net}, which is far too much to let relay"));
    }
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        let (before, now) = (size(last, v6), size(networks, v6));
        if now < before / 2.0 {
            return Err(format!(
                "covers {:.0} % of the {family} addresses that it covered before; more than half are gone",
                100.0 * now / before
            ));
        }
    }
    Ok(())
}

/// How many addresses (IPv6: networks of 64 bits) of one family.
fn size(networks: &[IpNet], v6: bool) -> f64 {
    let size = |net: &IpNet| match net {
        IpNet::V4(net) if !v6 => 2f64.powi(32 - i32::from(net.prefix_len())),
        IpNet::V6(net) if v6 => 2f64.powi(64 - i32::from(net.prefix_len())),
        _ => 0.0,
    };
    networks.iter().map(size).sum()
}

#[cfg(test)]
mod tests;
