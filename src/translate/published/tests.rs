//! From answers to conditions and networks.

use super::*;
use crate::bundle::document::{ObjectId, ObjectKind, Origin};

fn gateway(domains: &[&str], addresses: &[&str]) -> Gateway {
    let object =
        ObjectId { kind: ObjectKind::OutboundGateway, namespace: "ns".into(), name: "default".into() };
    let mut gateway = Gateway::new(Origin { object, uid: "u".into(), generation: 1 });
    gateway.domains = domains.iter().map(|domain| domain.parse().unwrap()).collect();
    gateway.public_addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    gateway
}

/// What DNS says of one domain: its record, its cost, and the result of each address.
fn facts(domain: &str, record: Option<&str>, lookups: u32, results: &[(&str, SpfResult)]) -> PublishedFacts {
    let answer = SpfAnswer {
        record: Ok(record.map(str::to_owned)),
        lookups,
        results: results.iter().map(|(at, result)| (at.parse().unwrap(), result.clone())).collect(),
        chain: Vec::new(),
        passing: Some(Vec::new()),
    };
    let told = Told { last: Some(Arc::new(answer)), problem: None };
    PublishedFacts { spf: BTreeMap::from([(domain.to_owned(), told)]), ..PublishedFacts::default() }
}

fn said(facts: &PublishedFacts, gateway: &Gateway) -> (State, Reason, String) {
    let Verdict { state, reason, message, .. } = aligned(facts, gateway, &[]);
    (state, reason, message)
}

#[test]
fn r030_the_condition_names_the_missing_address_and_the_record_to_publish() {
    let own = gateway(&["solarmora.com"], &["203.0.113.9", "2001:db8::9"]);
    let record = "v=spf1 include:_spf.google.com ip4:203.0.113.9 ~all";
    let results = [("203.0.113.9", SpfResult::Pass), ("2001:db8::9", SpfResult::SoftFail)];
    let (state, reason, message) = said(&facts("solarmora.com", Some(record), 4, &results), &own);
    assert_eq!((state, reason), (State::False, Reason::AddressMissing));
    let expected = "does not let mail come from 2001:db8::9 (softfail); publish this TXT record at solarmora.com: \
                    \"v=spf1 include:_spf.google.com ip4:203.0.113.9 ip6:2001:db8::9 ~all\"";
    assert!(message.contains(expected), "{message}");

    let none = [("203.0.113.9", SpfResult::None), ("2001:db8::9", SpfResult::None)];
    let (_, reason, message) = said(&facts("solarmora.com", None, 0, &none), &own);
    assert_eq!(reason, Reason::SPFMissing);
    assert!(
        message.ends_with("solarmora.com: \"v=spf1 mx ip4:203.0.113.9 ip6:2001:db8::9 ~all\""),
        "{message}"
    );

    let both = [("203.0.113.9", SpfResult::Pass), ("2001:db8::9", SpfResult::Pass)];
    let (state, _, message) = said(&facts("solarmora.com", Some(record), 9, &both), &own);
    assert_eq!(state, State::True);
    assert!(message.contains("takes 9 DNS look-ups"), "{message}");

    // Receivers would not get to the end: what is added stands in front.
    let broken = SpfResult::PermError("it takes more than 10 DNS look-ups".into());
    let results = [("203.0.113.9", broken.clone()), ("2001:db8::9", broken)];
    let (_, reason, message) = said(&facts("solarmora.com", Some("v=spf1 mx a -all"), 13, &results), &own);
    assert_eq!(reason, Reason::SPFInvalid);
    assert!(message.ends_with("v=spf1 ip4:203.0.113.9 ip6:2001:db8::9 mx a -all\""), "{message}");
}

#[test]
fn r030_what_is_not_known_is_unknown_and_says_what_is_missing() {
    let nobody = PublishedFacts::default();
    let (state, reason, message) = said(&nobody, &gateway(&["a.example"], &[]));
    assert_eq!((state, reason), (State::Unknown, Reason::PublicAddressUnknown));
    assert!(message.contains("spec.publicAddresses"), "{message}");
    assert_eq!(said(&nobody, &gateway(&[], &["203.0.113.9"])).1, Reason::NoDomains);
    let own = gateway(&["a.example"], &["203.0.113.9"]);
    assert_eq!(said(&nobody, &own).0, State::Unknown);
    // A known mistake counts more than a domain that was not answered.
    let two = gateway(&["a.example", "b.example"], &["203.0.113.9"]);
    let known = facts("b.example", Some("v=spf1 -all"), 0, &[("203.0.113.9", SpfResult::Fail)]);
    assert_eq!(said(&known, &two).0, State::False);
    // Silence later on does not forget what was known.
    let mut known = facts("a.example", Some("v=spf1 a -all"), 1, &[("203.0.113.9", SpfResult::Pass)]);
    let told = known.spf.get_mut("a.example").unwrap();
    told.miss("SERVFAIL", "noon");
    told.miss("SERVFAIL", "later");
    let (state, _, message) = said(&known, &own);
    assert_eq!(state, State::True);
    assert!(message.contains("not answered since noon: SERVFAIL"), "{message}");
}

#[test]
fn r030_the_mail_servers_that_hand_mail_over_belong_into_the_record_too() {
    let mut own = gateway(&["a.example"], &["203.0.113.9"]);
    own.clients = ["10.0.0.0/8", "198.51.100.7/32"].map(|net| net.parse().unwrap()).to_vec();
    own.spf_clients = vec![SpfClients { domain: "_spf.google.com".parse().unwrap(), networks: Vec::new() }];
    let known =
        facts("a.example", Some("v=spf1 ip4:203.0.113.9 -all"), 0, &[("203.0.113.9", SpfResult::Pass)]);
    let (state, reason, message) = said(&known, &own);
    assert_eq!((state, reason), (State::False, Reason::UpstreamMissing));
    let record = "v=spf1 ip4:203.0.113.9 include:_spf.google.com ip4:198.51.100.7 -all\"";
    assert!(message.ends_with(record), "{message}");
}

#[test]
fn a_missing_mechanism_stands_before_what_ends_the_record() {
    let with = |record: &str| with_missing(Some(record), &["ip4:192.0.2.1".to_owned()], false);
    assert_eq!(with("v=spf1 mx -all"), "v=spf1 mx ip4:192.0.2.1 -all");
    assert_eq!(with("v=spf1 mx  redirect=x.example"), "v=spf1 mx ip4:192.0.2.1 redirect=x.example");
    assert_eq!(with("v=spf1 exp=x.example ?ALL"), "v=spf1 exp=x.example ip4:192.0.2.1 ?ALL");
    assert_eq!(with("v=spf1"), "v=spf1 ip4:192.0.2.1");
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn r036_an_answer_that_cannot_be_meant_is_not_taken_over() {
    let last = nets(&["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]);
    let fine = |networks: &[&str]| plausible(&nets(networks), &last);
    assert_eq!(fine(&["198.51.100.0/24", "2001:db8::/32"]), Ok(()), "half is left");
    assert_eq!(fine(&["198.51.100.0/22", "192.0.2.0/24", "2001:db8::/33"]), Ok(()));
    for (networks, why) in [
        (&[][..], "names no networks"),
        (&["198.51.100.0/25", "2001:db8::/32"], "more than half are gone"),
        (&["198.51.100.0/24", "203.0.113.0/24"], "0 % of the IPv6"),
        (&["0.0.0.0/0"], "far too much"),
        (&["0.0.0.0/7", "2001:db8::/32"], "far too much"),
        (&["198.51.100.0/23", "2000::/12"], "far too much"),
    ] {
        let refused = fine(networks).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(plausible(&nets(&["192.0.2.1/32"]), &[]), Ok(()));
}

#[test]
fn r036_the_networks_of_before_stay_while_dns_says_nothing_or_nonsense() {
    let domain: Domain = "_spf.example".parse().unwrap();
    let before = nets(&["198.51.100.0/24"]);
    let run = |told: Told<Ranges>, last: &[IpNet]| {
        let mut findings = Findings::default();
        let networks = current("spec", &domain, told, last.to_vec(), &mut findings);
        let kinds: Vec<ConditionType> = findings.warnings.iter().map(|warning| warning.condition).collect();
        (networks, kinds, findings.problems.len())
    };
    let answer = |texts: &[&str]| Told {
        last: Some(Arc::new(Ranges { networks: nets(texts), skipped: Vec::new() })),
        problem: None,
    };
    let silent = || Told { last: None, problem: Some("not answered since noon: SERVFAIL".to_owned()) };
    const HELD: &[ConditionType] = &[ConditionType::ClientRangesHeld];
    assert_eq!(run(Told::default(), &before), (before.clone(), vec![], 0), "a start");
    assert_eq!(run(silent(), &before), (before.clone(), HELD.to_vec(), 0));
    assert_eq!(run(silent(), &[]), (vec![], HELD.to_vec(), 1));
    assert_eq!(run(answer(&["0.0.0.0/0"]), &before), (before.clone(), HELD.to_vec(), 0));
    assert_eq!(run(answer(&["0.0.0.0/0"]), &[]), (vec![], HELD.to_vec(), 1));
    let new = &["198.51.100.0/24", "192.0.2.0/24"];
    assert_eq!(run(answer(new), &before), (nets(new), vec![], 0));
    let old = Told { problem: Some("not answered since noon: SERVFAIL".to_owned()), ..answer(new) };
    assert_eq!(run(old, &before), (nets(new), HELD.to_vec(), 0));
}

#[test]
fn r033_the_published_key_is_compared_with_the_one_that_signs() {
    let key = PublicKey::Ed25519(vec![7; 32]);
    let said = |records: &[&str]| {
        let mut tally = Tally::default();
        let records: Vec<String> = records.iter().map(|record| (*record).to_owned()).collect();
        compare("s1._domainkey.a.example", &key, &records, &mut tally);
        tally.verdict(ConditionType::DKIMPublished, Reason::DKIMPublished, "at")
    };
    let right = key.record();
    assert_eq!(said(&[&right]).state, State::True);
    assert!(said(&[&format!("{right}; t=y")]).message.contains("t=y"));
    let none = said(&[]);
    assert_eq!((none.state, none.reason), (State::False, Reason::KeyNotPublished));
    assert!(
        none.message.ends_with(&format!("publish this TXT record at s1._domainkey.a.example: \"{right}\""))
    );
    let other = PublicKey::Ed25519(vec![8; 32]).record();
    for (records, why) in [
        (&[other.as_str()][..], "another key"),
        (&["v=DKIM1; k=ed25519; p="], "revokes"),
        (&["v=DKIM1; p=AAAA"], "another kind"),
        (&["v=DKIM1; k=ed25519; h=sha1; p=AAAA"], "SHA-256"),
        (&["v=DKIM1; k=ed25519; s=other; p=AAAA"], "not for e-mail"),
        (&["hello"], "no DKIM key record"),
        (&[&right, &other], "2 records"),
    ] {
        let verdict = said(records);
        assert_eq!((verdict.state, verdict.reason), (State::False, Reason::KeyMismatch), "{records:?}");
        assert!(verdict.message.contains(why), "{}", verdict.message);
    }
}

#[test]
fn r030_public_sources_of_routes_are_addresses_of_the_gateway() {
    use crate::bundle::document::{Egress, EgressSource, Rotation, RouteTarget, RouteTls};
    let own = gateway(&["a.example"], &["203.0.113.9"]);
    let source = |address: &str| EgressSource {
        address: address.parse().unwrap(),
        weight: None,
        ehlo: None,
        proxy: None,
        warm_up: None,
    };
    let object = ObjectId { kind: ObjectKind::OutboundRoute, namespace: "ns".into(), name: "out".into() };
    let origin = Origin { object, uid: "u".into(), generation: 1 };
    let mut route = Route::new(origin, RouteTarget::RecipientMx, RouteTls::opportunistic());
    let sources = ["198.51.100.1", "10.0.0.7", "2001:db8::1", "fd00::1"].map(source).to_vec();
    route.egress = Some(Egress { sources, rotation: Rotation::RoundRobin });
    let found: Vec<String> = egress(&own, &[route]).iter().map(IpAddr::to_string).collect();
    assert_eq!(
        found,
        ["198.51.100.1", "203.0.113.9", "2001:db8::1"],
        "private ones are behind somebody's NAT"
    );
}
