//! Records and what they are worth, with a DNS made of lines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::keeper::spf;
use super::names::{Found, Names, Silence};
use super::ranges::ranges;
use super::walk::Walk;
use crate::translate::published::{SpfAnswer, SpfResult};

/// `name TYPE value` a line; `SILENT` as the type: no answer.
struct Zone(BTreeMap<(String, String), Vec<String>>);

impl Zone {
    fn new(lines: &[&str]) -> Self {
        let mut records: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for line in lines {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            let (name, kind) = (parts.next().unwrap(), parts.next().unwrap());
            records.entry((name, kind)).or_default().push(parts.next().unwrap_or_default());
        }
        Self(records)
    }

    fn get<T>(&self, name: &str, kind: &str, read: impl Fn(&str) -> T) -> Result<Found<T>, Silence> {
        if self.0.contains_key(&(name.to_owned(), "SILENT".to_owned())) {
            return Err(Silence { name: name.to_owned(), why: "SERVFAIL".to_owned() });
        }
        let records = self.0.get(&(name.to_owned(), kind.to_owned()));
        let records = records.into_iter().flatten().map(|value| read(value)).collect();
        Ok(Found { records, ttl: Duration::from_secs(600) })
    }
}

impl Names for Zone {
    async fn txt(&self, name: &str) -> Result<Found<String>, Silence> {
        self.get(name, "TXT", str::to_owned)
    }
    async fn addresses(&self, name: &str, v6: bool) -> Result<Found<IpAddr>, Silence> {
        self.get(name, if v6 { "AAAA" } else { "A" }, |value| value.parse().unwrap())
    }
    async fn mx(&self, name: &str) -> Result<Found<String>, Silence> {
        self.get(name, "MX", str::to_owned)
    }
    async fn ptr(&self, address: IpAddr) -> Result<Found<String>, Silence> {
        self.get(&address.to_string(), "PTR", str::to_owned)
    }
}

fn run<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(what)
}

fn check(zone: &[&str], address: &str) -> SpfResult {
    let zone = Zone::new(zone);
    let mut walk = Walk::new(&zone, Some(address.parse().unwrap()), "own.example", "gw.own.example");
    run(walk.check("own.example")).unwrap()
}

fn broken(zone: &[&str], address: &str) -> String {
    match check(zone, address) {
        SpfResult::PermError(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r030_an_address_passes_by_each_mechanism_and_by_no_other() {
    let others = [
        "own.example A 192.0.2.1",
        "own.example AAAA 2001:db8::1",
        "own.example MX mx.own.example",
        "mx.own.example A 192.0.2.2",
        "inner.example TXT v=spf1 ip4:192.0.2.64/26 -all",
        "other.example TXT v=spf1 ip4:192.0.2.5 -all",
        "192.0.2.7 PTR host.own.example",
        "host.own.example A 192.0.2.7",
        "192.0.2.8 PTR liar.own.example",
        "4.2.0.192.in-addr.ok.own.example A 127.0.0.2",
    ];
    let with = |record: &str, address: &str| {
        let record = format!("own.example TXT {record}");
        let zone: Vec<&str> = others.iter().copied().chain(["own.example TXT not spf", &record]).collect();
        check(&zone, address)
    };
    use SpfResult::{Fail, Neutral, Pass, SoftFail};
    for (record, address, expected) in [
        ("v=spf1 a -all", "192.0.2.1", Pass),
        ("v=spf1 a -all", "2001:db8::1", Pass),
        ("v=spf1 a -all", "192.0.2.2", Fail),
        ("v=spf1 a/24 -all", "192.0.2.200", Pass),
        ("v=spf1 a//64 -all", "2001:db8::ffff", Pass),
        ("v=spf1 mx ~all", "192.0.2.2", Pass),
        ("v=spf1 mx ~all", "192.0.2.3", SoftFail),
        ("v=spf1 include:inner.example ?all", "192.0.2.65", Pass),
        ("v=spf1 include:inner.example ?all", "192.0.2.1", Neutral),
        ("v=spf1 -ip4:192.0.2.65 include:inner.example", "192.0.2.65", Fail),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8:1::1", Pass),
        ("v=spf1 ptr -all", "192.0.2.7", Pass),
        ("v=spf1 ptr -all", "192.0.2.8", Fail),
        ("v=spf1 exists:%{ir}.%{v}.ok.%{d} -all", "192.0.2.4", Pass),
        ("v=spf1 exists:%{ir}.%{v}.ok.%{d} -all", "192.0.2.5", Fail),
        ("v=spf1 redirect=other.example", "192.0.2.5", Pass),
        ("v=spf1 redirect=other.example ?all", "192.0.2.5", Neutral),
        ("v=spf1", "192.0.2.5", Neutral),
    ] {
        assert_eq!(with(record, address), expected, "{record} {address}");
    }
    assert_eq!(check(&[], "192.0.2.1"), SpfResult::None);
}

#[test]
fn r030_look_ups_count_as_receivers_count_them() {
    let chain = |count: usize| -> Vec<String> {
        let mut zone: Vec<String> =
            (0..count).map(|n| format!("i{n}.example TXT v=spf1 ip4:198.51.100.{n} -all")).collect();
        let includes: Vec<String> = (0..count).map(|n| format!("include:i{n}.example")).collect();
        zone.push(format!("own.example TXT v=spf1 {} ip4:192.0.2.1 -all", includes.join(" ")));
        zone
    };
    let ten = chain(10);
    let ten: Vec<&str> = ten.iter().map(String::as_str).collect();
    assert_eq!(check(&ten, "192.0.2.1"), SpfResult::Pass);
    let eleven = chain(11);
    let eleven: Vec<&str> = eleven.iter().map(String::as_str).collect();
    assert!(broken(&eleven, "192.0.2.1").contains("more than 10 DNS look-ups"));
    // Who stands before the eleventh passes nevertheless; the survey tells the whole cost.
    assert_eq!(check(&eleven, "198.51.100.3"), SpfResult::Pass);
    let zone = Zone::new(&eleven);
    let addresses = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    let (answer, ttl) = run(spf(&zone, "own.example", &addresses, "")).unwrap();
    let SpfAnswer { lookups, chain, .. } = answer;
    assert_eq!((lookups, chain.len(), ttl), (11, 11, Duration::from_secs(600)));
}

#[test]
fn a_record_that_receivers_refuse_is_refused_with_its_reason() {
    for (zone, expected) in [
        (&["own.example TXT v=spf1 a:x.example a:y.example a:z.example -all"][..], "lead nowhere"),
        (&["own.example TXT v=spf1 include:nobody.example -all"], "nobody.example, which has no SPF record"),
        (&["own.example TXT v=spf1 redirect=nobody.example"], "redirects to nobody.example"),
        (&["own.example TXT v=spf1 -all", "own.example TXT v=spf1 +all"], "more than one SPF record"),
        (&["own.example TXT v=spf1 ipv4:192.0.2.1 -all"], "`ipv4:192.0.2.1` is no SPF term"),
        (&["own.example TXT v=spf1 include:own.example -all"], "more than 10 DNS look-ups"),
    ] {
        let why = broken(zone, "192.0.2.1");
        assert!(why.contains(expected), "{why}");
    }
    let zone = Zone::new(&["own.example TXT v=spf1 include:x.example", "x.example SILENT"]);
    let mut walk = Walk::new(&zone, Some("192.0.2.1".parse().unwrap()), "own.example", "");
    assert_eq!(run(walk.check("own.example")).unwrap_err().name, "x.example");
}

#[test]
fn r036_the_networks_of_a_chain_are_those_that_pass_and_no_others() {
    let found = |lines: &[&str]| {
        let found = run(ranges(&Zone::new(lines), "_spf.example")).map_err(|error| error.to_string());
        found.map(|(found, _)| {
            (found.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), found.skipped)
        })
    };
    let nets = |lines: &[&str]| found(lines).unwrap().0;
    let google = [
        "_spf.example TXT v=spf1 include:_a.example include:_b.example ~all",
        "_a.example TXT v=spf1 ip4:35.190.247.0/24 ip4:64.233.160.0/19 ip4:64.233.170.0/24 ~all",
        "_b.example TXT v=spf1 ip6:2001:4860:4000::/36 ~all",
    ];
    assert_eq!(nets(&google), "35.190.247.0/24 64.233.160.0/19 2001:4860:4000::/36");
    let refused = ["_spf.example TXT v=spf1 -ip4:192.0.2.0/26 ip4:192.0.2.0/24 -all"];
    assert_eq!(nets(&refused), "192.0.2.64/26 192.0.2.128/25");
    let hosts = [
        "_spf.example TXT v=spf1 a:h.example/30 mx:d.example redirect=_c.example",
        "h.example A 198.51.100.5",
        "h.example AAAA 2001:db8::5",
        "d.example MX m.example",
        "m.example A 203.0.113.1",
        "_c.example TXT v=spf1 ip4:203.0.113.9 ?ip4:203.0.113.10 -all",
    ];
    assert_eq!(nets(&hosts), "198.51.100.4/30 203.0.113.1/32 203.0.113.9/32 2001:db8::5/128");
    let (some, skipped) =
        found(&["_spf.example TXT v=spf1 ip4:192.0.2.1 exists:%{i}.x.example ptr -all"]).unwrap();
    assert_eq!((some.as_str(), skipped.len()), ("192.0.2.1/32", 2));
    assert_eq!(nets(&["_spf.example TXT v=spf1 +all"]), "0.0.0.0/0 ::/0", "refused where it is judged");
    assert!(
        found(&["_spf.example TXT v=spf1 include:_spf.example"]).unwrap_err().contains("more than 50 names")
    );
    assert!(found(&[]).unwrap_err().contains("no SPF record"));
}
