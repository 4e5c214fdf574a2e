use super::*;
use crate::bundle::document::*;
use crate::mail::envelope::RouteName;
use crate::policy::testing::{modify, rule, words};

fn to(route: &str) -> Modify {
    let name = RouteName { namespace: "mail".into(), name: route.into() };
    Modify { route: Some(ChangeRoute::To(name)), ..Modify::default() }
}

fn routing(name: &str, priority: u16, route: &str) -> Rule {
    Rule { priority, ..modify(name, to(route)) }
}

/// What is said of each rule: its name, the reason and the message.
fn said(rules: Vec<Rule>) -> Vec<(String, Reason, String)> {
    let found = find(&crate::policy::testing::bundle(rules));
    found.into_iter().map(|(object, problem)| (object.name, problem.reason, problem.message)).collect()
}

fn reasons(rules: Vec<Rule>) -> Vec<(String, Reason)> {
    said(rules).into_iter().map(|(name, reason, _)| (name, reason)).collect()
}

fn senders(mut rule: Rule, filter: AddressFilter) -> Rule {
    rule.envelope.senders = Some(filter);
    rule
}

fn address(text: &str) -> AddressFilter {
    AddressFilter::Address(text.parse().unwrap())
}

#[test]
fn r143_of_two_rules_that_set_the_route_the_later_one_hears_who_wins() {
    let narrow = |rule| senders(rule, AddressFilter::Pattern(".*@solarmora.com".into()));
    let found = said(vec![narrow(routing("first", 100, "a")), routing("second", 500, "b")]);
    let [(name, reason, message)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((name.as_str(), *reason), ("second", Reason::Overridden));
    assert!(message.contains("RoutingRule/mail/first") && message.contains("priority 100"), "{message}");
    assert_eq!(reasons(vec![narrow(routing("first", 100, "a")), routing("second", 500, "a")]), []);
}

#[test]
fn r143_a_rule_that_another_always_overrides_is_shadowed() {
    let found = said(vec![routing("first", 100, "a"), routing("second", 500, "b")]);
    assert_eq!(found.len(), 1);
    assert!(found[0].1 == Reason::Shadowed && found[0].2.contains("the rule has no effect"), "{found:?}");
    let header = Header { name: "X-Rule".into(), value: "1".into() };
    let more = Rule { priority: 500, ..modify("second", Modify { headers: vec![header], ..to("b") }) };
    let found = said(vec![routing("first", 100, "a"), more]);
    assert!(found[0].2.starts_with("this field has no effect"), "{found:?}");
}

#[test]
fn r143_rules_whose_scopes_exclude_each_other_do_not_conflict() {
    let pairs: [fn(Rule) -> Rule; 4] = [
        |rule| Rule { messages: vec![Direction::Inbound], ..rule },
        |rule| Rule { accounts: vec![AccountType::Groups], ..rule },
        |rule| senders(rule, address("other@solarmora.com")),
        |rule| senders(rule, AddressFilter::Pattern("x.*@solarmora.com".into())),
    ];
    for (number, apart) in pairs.into_iter().enumerate() {
        let mut plain = senders(routing("plain", 500, "b"), address("ani@solarmora.com"));
        plain.messages = vec![Direction::Outbound];
        let other = apart(routing("other", 100, "a"));
        assert_eq!(reasons(vec![other, plain]), [], "pair {number}");
    }
    let in_unit = |name: &str, unit: &str, route: &str| Rule {
        unit: UnitPath(unit.into()),
        ..routing(name, 500, route)
    };
    assert_eq!(reasons(vec![in_unit("a", "/sales", "a"), in_unit("b", "/legal", "b")]), []);
    assert_eq!(
        reasons(vec![in_unit("a", "/sales", "a"), in_unit("b", "/", "b")]),
        [],
        "a child overrides its parent"
    );
}

#[test]
fn r143_what_another_rule_always_rejects_has_no_effect() {
    let all = rule(ObjectKind::RoutingRule, "none", Action::Reject(Reject::default()));
    let found = said(vec![routing("route", 1, "a"), all.clone()]);
    assert!(found[0].0 == "route" && found[0].1 == Reason::Shadowed, "{found:?}");
    assert!(found[0].2.contains("RoutingRule/mail/none rejects every message"), "{found:?}");
    // A content condition may not hold, and a shadow rule has no effect.
    assert_eq!(reasons(vec![routing("route", 1, "a"), words("words", &["x"])]), []);
    assert_eq!(reasons(vec![routing("route", 1, "a"), Rule { mode: Mode::Shadow, ..all }]), []);
}

#[test]
fn r143_rules_that_no_message_can_match_are_named() {
    let mut inside = routing("inside", 500, "a");
    inside.messages = vec![Direction::Outbound];
    inside.envelope.recipients = Some(address("b@eu.solarmora.com"));
    let mut size = words("size", &[]);
    let content = size.content.as_mut().unwrap();
    content.combine = Combine::All;
    content.expressions = vec![
        Expression::Metadata(Metadata::MessageSizeOver(10 << 20)),
        Expression::Metadata(Metadata::MessageSizeUnder(5 << 20)),
    ];
    let found = reasons(vec![inside, size]);
    assert_eq!(found, [("size".into(), Reason::Unreachable), ("inside".into(), Reason::Unreachable)]);
}

#[test]
fn r138_a_rule_that_requires_tls_over_a_route_that_does_not_is_told() {
    let mut bundle =
        crate::policy::testing::bundle(vec![modify("tls", Modify { require_tls: true, ..to("plain") })]);
    let origin = crate::policy::testing::origin(ObjectKind::OutboundRoute, "plain");
    bundle.routes = vec![Route::new(origin, RouteTarget::RecipientMx, RouteTls::opportunistic())];
    let found = find(&bundle);
    assert!(found[0].1.reason == Reason::TlsRequiredButRoutePlain, "{found:?}");
    bundle.routes[0].tls.require = true;
    assert!(find(&bundle).is_empty());
}

#[test]
fn ten_thousand_rules_for_one_sender_each_are_compared_in_a_moment() {
    let rules = (0..10_000).map(|n| {
        senders(routing(&format!("r{n}"), 500, &format!("route{n}")), address(&format!("u{n}@solarmora.com")))
    });
    let start = std::time::Instant::now();
    assert_eq!(said(rules.collect()).len(), 0);
    assert!(start.elapsed().as_secs() < 20, "it must not look at every pair");
}
