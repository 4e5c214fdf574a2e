//! Which hosts a message goes to, in which order, on which terms. The ordering is pure; DNS is asked
//! through [`Dns`]. Addresses of the hosts are looked up by the attempt, one host at a time.

use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;
use rand::seq::SliceRandom;

use super::dns::{self, Dns, Found, LookupError, Names};
use super::outcome::{Problem, Trouble};
use super::routes::{Route, RouteTable};
use crate::bundle::document::{HostPort, RouteTarget, WeightedHost};
use crate::mail::address::Host;

/// At most this many mail hosts of a domain are tried (RFC 5321 section 5.1 wants at least two).
const MAX_MX: usize = 10;
/// Where mail hosts of a domain listen.
pub const MX_PORT: u16 = 25;

/// One host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// A host name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    pub names: Names,
    /// Named by the recipient's domain, not by an administrator.
    pub by_mx: bool,
    /// Nobody between here and whoever named it could have put another name in its place: an administrator
    /// typed it, or DNSSEC proves the MX records.
    pub proved: bool,
    /// The domain whose policies hold for this host (RFC 8461 section 3.4); `None`: it has none.
    pub domain: Option<Arc<str>>,
}

/// What an attempt needs to know.
#[derive(Debug, Clone)]
pub struct Plan {
    pub route: Arc<Route>,
    /// The route's own demand or the rule's: the strictest wins (spec R138).
    pub require_tls: bool,
    pub hops: Vec<Hop>,
}

/// Makes the plan for a recipient's domain.
pub async fn plan(
    table: &RouteTable,
    dns: &Dns,
    route: Arc<Route>,
    recipient: &Host,
    require_tls: bool,
    mx_port: u16,
) -> Result<Plan, Problem> {
    let hops = match &route.target {
        RouteTarget::Hosts { primary, secondary } => {
            let mut rng = rand::rng();
            let mut hosts = by_weight(primary, &mut rng);
            hosts.extend(by_weight(secondary, &mut rng));
            hosts.into_iter().map(typed).collect()
        }
        RouteTarget::MxOf(domains) => of_named_domains(table, dns, domains).await?,
        RouteTarget::RecipientMx => match recipient {
            Host::Literal(ip) if table.is_self((*ip, mx_port).into()) => {
                return Err(Problem::new(Trouble::LoopsBack(recipient.to_string())));
            }
            Host::Literal(ip) => {
                let host = ip.to_string();
                vec![Hop { by_mx: true, names: Names::Complete, ..typed(HostPort { host, port: mx_port }) }]
            }
            Host::Domain(domain) => of_domain(table, dns, domain.ascii(), mx_port).await?,
        },
    };
    let require_tls = require_tls || route.tls.require || route.auth.is_some();
    Ok(Plan { route, require_tls, hops })
}

fn typed(at: HostPort) -> Hop {
    let public = at.host.parse::<IpAddr>().is_err() && !dns::is_private(&at.host);
    let domain = public.then(|| at.host.trim_end_matches('.').to_ascii_lowercase().into());
    Hop { host: at.host, port: at.port, names: Names::Typed, by_mx: false, proved: true, domain }
}

/// The mail hosts of the domains that a route names. Their mistakes are an administrator's, so
/// nothing here is final.
async fn of_named_domains(table: &RouteTable, dns: &Dns, domains: &[HostPort]) -> Result<Vec<Hop>, Problem> {
    let mut hops = Vec::new();
    let mut problem = None;
    for domain in domains {
        match of_domain(table, dns, &domain.host, domain.port).await {
            Ok(found) => hops.extend(found.into_iter().map(|hop| Hop { by_mx: false, ..hop })),
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(problem) if hops.is_empty() => match problem.trouble {
            // R11: the domain itself says that it takes no mail.
            Trouble::NullMx(_) | Trouble::LoopsBack(_) | Trouble::Dns { .. } => Err(problem),
            _ => {
                let name = domains.first().map(|domain| domain.host.clone()).unwrap_or_default();
                Err(Problem::new(Trouble::Dns { name, why: problem.to_string() }))
            }
        },
        _ => Ok(hops),
    }
}

/// The mail hosts of a domain, best first (RFC 5321 section 5.1).
async fn of_domain(table: &RouteTable, dns: &Dns, domain: &str, port: u16) -> Result<Vec<Hop>, Problem> {
    let policies: Arc<str> = domain.into();
    let hop = |host: String, proved| Hop {
        host,
        port,
        names: Names::Complete,
        by_mx: true,
        proved,
        domain: Some(Arc::clone(&policies)),
    };
    let unanswered =
        |error: LookupError| Problem::new(Trouble::Dns { name: domain.to_owned(), why: error.to_string() });
    match dns.mx(&table.dns, domain).await {
        Ok(Found { what: records, proved, .. }) if !records.is_empty() => {
            let mut own = Vec::new();
            for (_, host) in records.iter().take(4 * MAX_MX) {
                if is_own(table, dns, host, port).await {
                    own.push(host.clone());
                }
            }
            let hosts = by_preference(domain, records, &own, &mut rand::rng())?;
            Ok(hosts.into_iter().map(|host| hop(host, proved)).collect())
        }
        // No MX: the domain is its own mail host, if it has an address.
        Ok(Found { proved, .. }) => match dns.hosts(&table.dns, domain, Names::Complete).await {
            Ok(_) if is_own(table, dns, domain, port).await => {
                Err(Problem::new(Trouble::LoopsBack(domain.to_owned())))
            }
            Ok(_) => Ok(vec![hop(domain.to_owned(), proved)]),
            Err(LookupError::NoRecord) => Err(Problem::new(Trouble::NoMailHost(domain.to_owned()))),
            Err(LookupError::NoSuchName) => Err(Problem::new(Trouble::NoSuchDomain(domain.to_owned()))),
            Err(error @ (LookupError::Bogus | LookupError::Unanswered(_))) => Err(unanswered(error)),
        },
        Err(LookupError::NoSuchName) => Err(Problem::new(Trouble::NoSuchDomain(domain.to_owned()))),
        Err(error) => Err(unanswered(error)),
    }
}

/// Whether a mail host is this gateway, by its name or by where its name leads.
async fn is_own(table: &RouteTable, dns: &Dns, host: &str, port: u16) -> bool {
    if host.eq_ignore_ascii_case(&table.hostname) {
        return true;
    }
    if !table.listens_on(port) {
        return false;
    }
    match dns.hosts(&table.dns, host, Names::Complete).await {
        Ok(found) => found.what.iter().any(|ip| table.is_self((*ip, port).into())),
        Err(_) => false,
    }
}

/// Orders MX records: smaller preference first, equal ones by chance. This gateway and every host
/// that is no better are left out, else mail would go in circles.
fn by_preference(
    domain: &str,
    mut records: Vec<(u16, String)>,
    own: &[String],
    rng: &mut impl Rng,
) -> Result<Vec<String>, Problem> {
    if records.iter().all(|(_, host)| host.is_empty()) {
        return Err(Problem::new(Trouble::NullMx(domain.to_owned())));
    }
    // A null MX beside others is a mistake (RFC 7505 section 3); the others count. An address where a
    // name must be is one too (RFC 5321 section 5.1).
    records.retain(|(_, host)| !host.is_empty() && host.parse::<IpAddr>().is_err());
    records.shuffle(rng);
    records.sort_by_key(|(preference, _)| *preference);
    if let Some((limit, _)) = records.iter().find(|(_, host)| own.contains(host)) {
        let limit = *limit;
        records.retain(|(preference, _)| *preference < limit);
        if records.is_empty() {
            return Err(Problem::new(Trouble::LoopsBack(domain.to_owned())));
        }
    }
    let mut hosts: Vec<String> = Vec::new();
    for (_, host) in records {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.truncate(MAX_MX);
    if hosts.is_empty() { Err(Problem::new(Trouble::NoMailHost(domain.to_owned()))) } else { Ok(hosts) }
}

/// Orders a set of hosts by chance: each is first in its share of the cases. A host without weight
/// counts like every other; one of weight 0 comes last.
fn by_weight(hosts: &[WeightedHost], rng: &mut impl Rng) -> Vec<HostPort> {
    let mut left: Vec<(u32, &HostPort)> =
        hosts.iter().map(|host| (host.weight.map_or(1, u32::from), &host.at)).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let total: u32 = left.iter().map(|(weight, _)| weight).sum();
        let mut dice = if total == 0 { 0 } else { rng.random_range(0..total) };
        let at = left.iter().position(|(weight, _)| {
            let hit = dice < *weight;
            dice = dice.saturating_sub(*weight);
            hit
        });
        order.push(left.remove(at.unwrap_or(0)).1.clone());
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn mx(records: &[(u16, &str)]) -> Vec<(u16, String)> {
        records.iter().map(|(preference, host)| (*preference, (*host).to_owned())).collect()
    }

    fn order(records: &[(u16, &str)], own: &[&str], seed: u64) -> Result<Vec<String>, Trouble> {
        let own: Vec<String> = own.iter().map(|host| (*host).to_owned()).collect();
        by_preference("d.example", mx(records), &own, &mut StdRng::seed_from_u64(seed))
            .map_err(|problem| problem.trouble)
    }

    #[test]
    fn better_preference_comes_first_and_equals_share_the_load() {
        let records = [(20, "c"), (10, "a"), (10, "b")];
        let first = (0..400).filter(|seed| order(&records, &[], *seed).unwrap()[0] == "a").count();
        assert!((120..280).contains(&first), "a was first {first} times of 400");
        assert!((0..50).all(|seed| order(&records, &[], seed).unwrap()[2] == "c"));
    }

    #[test]
    fn a_domain_that_takes_no_mail_is_told_from_one_with_a_mistake() {
        assert_eq!(order(&[(0, "")], &[], 1), Err(Trouble::NullMx("d.example".into())));
        assert_eq!(order(&[(0, ""), (10, "a")], &[], 1).unwrap(), ["a"]);
        assert_eq!(order(&[(10, "192.0.2.1")], &[], 1), Err(Trouble::NoMailHost("d.example".into())));
    }

    #[test]
    fn mail_never_goes_to_ourselves_nor_to_a_host_that_is_no_better() {
        let records = [(10, "a"), (20, "us"), (20, "b"), (30, "c")];
        assert_eq!(order(&records, &["us"], 1).unwrap(), ["a"]);
        assert_eq!(order(&records[1..], &["us"], 1), Err(Trouble::LoopsBack("d.example".into())));
    }

    #[test]
    fn five_hundred_mail_hosts_are_capped_after_sorting() {
        let names: Vec<String> = (0..500).map(|n| format!("mx{n}")).collect();
        let records: Vec<(u16, &str)> =
            names.iter().enumerate().map(|(n, name)| (500 - n as u16, name.as_str())).collect();
        let hosts = order(&records, &[], 1).unwrap();
        assert_eq!((hosts.len(), hosts[0].as_str()), (MAX_MX, "mx499"));
    }

    fn host(name: &str, weight: Option<u8>) -> WeightedHost {
        WeightedHost { at: HostPort { host: name.to_owned(), port: 25 }, weight }
    }

    #[test]
    fn r010_primaries_share_the_load_by_weight() {
        let hosts = [host("a", Some(70)), host("b", Some(30)), host("z", Some(0))];
        let mut rng = StdRng::seed_from_u64(7);
        let orders: Vec<_> = (0..1000).map(|_| by_weight(&hosts, &mut rng)).collect();
        let first = orders.iter().filter(|order| order[0].host == "a").count();
        assert!((650..750).contains(&first), "a was first {first} times of 1000");
        assert!(orders.iter().all(|order| order[2].host == "z"));
    }

    proptest! {
        #[test]
        fn every_host_is_in_the_order_exactly_once(
            weights in prop::collection::vec(prop::option::of(any::<u8>()), 0..8), seed in any::<u64>(),
        ) {
            let hosts: Vec<_> = weights.iter().enumerate().map(|(n, w)| host(&n.to_string(), *w)).collect();
            let mut order: Vec<_> = by_weight(&hosts, &mut StdRng::seed_from_u64(seed)).into_iter().map(|at| at.host).collect();
            order.sort();
            let mut all: Vec<_> = hosts.into_iter().map(|host| host.at.host).collect();
            all.sort();
            prop_assert_eq!(order, all);
        }
    }
}
