//! The gate by itself: limits, turns, sources, with a clock of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bundle::document::{DomainLimits, OnTlsFailure, Retry, Rotation, RouteTarget, WarmUp};
use crate::delivery::client::tls::Tls;
use crate::delivery::egress::Sources;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

fn route(limits: RouteLimits) -> Route {
    Route {
        label: Label::Default,
        target: RouteTarget::RecipientMx,
        tls: Tls::opportunistic(),
        on_tls_failure: OnTlsFailure::Bounce,
        retry: Retry::default(),
        auth: None,
        egress: None,
        limits,
        edition: 1,
    }
}

fn from(sources: &[(&str, Option<WarmUp>)]) -> Route {
    let source = |(address, warm_up): &(&str, Option<WarmUp>)| {
        let (address, warm_up) = (address.parse().unwrap(), warm_up.clone());
        Arc::new(Source { address, weight: 1, ehlo: None, proxy: None, warm_up })
    };
    let list = sources.iter().map(source).collect();
    Route { egress: Some(Sources { list, rotation: Rotation::RoundRobin }), ..route(RouteLimits::default()) }
}

fn to(domain: &str) -> Destination {
    Destination::Domain(Label::Default, domain.to_owned())
}

fn state() -> State {
    State::new(Schedule::default(), 20, warm::Counts::default(), at(0))
}

impl State {
    fn go(&mut self, route: &Route, domain: &str, now: i64) -> Result<(Leave, Counted), Wait> {
        self.admit(route, &to(domain), at(now), |_| true)
    }
}

fn rates(route: Option<u32>, domain: Option<u32>) -> RouteLimits {
    RouteLimits {
        messages_per_minute: route,
        per_domain: DomainLimits { messages_per_minute: domain, connections: None },
        ..RouteLimits::default()
    }
}

#[test]
fn r160_connections_of_a_route_and_of_a_domain_are_counted_until_they_end() {
    let per_domain = DomainLimits { connections: Some(2), messages_per_minute: None };
    let route = route(RouteLimits { connections: Some(3), per_domain, ..RouteLimits::default() });
    let mut state = state();
    let first = state.go(&route, "a", 0).unwrap().1;
    state.go(&route, "a", 0).unwrap();
    assert_eq!(state.go(&route, "a", 0).unwrap_err().why, Hold::domain_connections);
    state.go(&route, "b", 0).unwrap();
    assert_eq!(state.go(&route, "c", 0).unwrap_err().why, Hold::route_connections);
    state.ended(&first, &[], at(1));
    state.go(&route, "c", 1).unwrap();
    // Sessions that stay open count as well.
    for _ in 0..2 {
        assert_eq!(state.open(&route.limits, &route.label, &to("a")), Ok(()));
    }
    assert_eq!(state.open(&route.limits, &route.label, &to("a")), Err(Hold::domain_connections));
    assert_eq!(state.open(&route.limits, &route.label, &to("b")), Ok(()));
    assert_eq!(state.open(&route.limits, &route.label, &to("c")), Err(Hold::route_connections));
    state.closed(&route.label, &to("a"));
    assert_eq!(state.open(&route.limits, &route.label, &to("c")), Ok(()));
}

#[test]
fn r160_limits_are_divided_among_pods_unless_a_server_counts() {
    let route = route(RouteLimits { connections: Some(10), ..rates(Some(60), None) });
    let mut state = state();
    state.pods = 4;
    let next = |state: &mut State, now| state.go(&route, "a", now).unwrap_err().until;
    // A process begins as if one before it had just used up its share.
    assert_eq!(next(&mut state, 0), at(4000));
    state.go(&route, "a", 4000).unwrap();
    assert_eq!(next(&mut state, 4000), at(8000));
    state.exact = true;
    assert_eq!(next(&mut state, 5000), at(8000), "a turn that was promised stays");
    state.go(&route, "a", 8000).unwrap();
    assert_eq!(state.go(&route, "a", 8000).unwrap_err().until, at(9000));
    state.go(&route, "a", 9000).unwrap_err();
}

#[test]
fn a_new_edition_of_a_route_knows_nothing_of_what_was_said_to_the_old_one() {
    let old = route(RouteLimits::default());
    let mut state = state();
    let counted = state.go(&old, "a", 0).unwrap().1;
    state.ended(&counted, &[(None, Heard::Sign(Sign::Blocked, "no".into()))], at(1));
    assert_eq!(state.go(&old, "a", 2).unwrap_err().why, Hold::suspended);
    assert!(matches!(&state.news[..], [News::Suspended { .. }]));
    assert!(state.go(&old, "b", 2).is_ok(), "another domain");
    state.go(&Route { edition: 2, ..old.clone() }, "a", 3).unwrap();
}

#[test]
fn r002_a_source_that_is_refused_is_passed_over_and_with_none_left_mail_waits() {
    let route = from(&[("192.0.2.1", None), ("192.0.2.2", None)]);
    let mut state = state();
    for (n, source) in ["192.0.2.1", "192.0.2.2"].into_iter().enumerate() {
        let (leave, counted) = state.go(&route, "a", 0).unwrap();
        assert_eq!(leave.addresses(), [Some(source.parse().unwrap())]);
        let blocked = Heard::Sign(Sign::Blocked, "550 5.7.1 your IP is blocked".into());
        state.ended(&counted, &[(Some(source.parse().unwrap()), blocked)], at(1));
        let next = state.go(&route, "a", 2).map(|(leave, _)| leave.addresses());
        match n {
            0 => assert_eq!(next, Ok(vec![Some("192.0.2.2".parse().unwrap())])),
            _ => assert_eq!(
                next.unwrap_err(),
                Wait { until: at(900_001), pace: Duration::ZERO, why: Hold::suspended }
            ),
        }
    }
    assert!(state.go(&route, "b", 3).is_ok());
}

#[test]
fn r001_a_source_that_is_not_here_is_set_aside_and_comes_back() {
    let route = from(&[("192.0.2.1", None), ("192.0.2.2", None)]);
    let mut state = state();
    let missing: IpAddr = "192.0.2.2".parse().unwrap();
    for now in [0, 1000] {
        let (leave, _) = state.admit(&route, &to("a"), at(now), |ip| ip != missing).unwrap();
        assert_eq!(leave.addresses(), [Some("192.0.2.1".parse().unwrap())]);
    }
    assert_eq!(state.news, [News::SourceGone { source: missing, why: NOT_HERE }], "said once");
    let turns: Vec<_> = (0..2).map(|_| state.go(&route, "a", 6000).unwrap().0.addresses()[0]).collect();
    assert!(turns.contains(&Some(missing)));
    assert_eq!(state.news[1..], [News::SourceBack { source: missing }]);
    let (leave, _) = state.admit(&route, &to("a"), at(20_000), |_| false).unwrap();
    assert_eq!(leave, Leave::nowhere(), "never by another address");
}

#[test]
fn r002_a_new_address_takes_what_it_may_and_the_others_take_the_rest() {
    let warm = WarmUp { from: at(0), first_day: 3, factor_percent: 200, days: 2 };
    let route = from(&[("192.0.2.1", None), ("192.0.2.2", Some(warm.clone()))]);
    let mut state = state();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..20 {
        let (leave, counted) = state.go(&route, "a", 1000).unwrap();
        let source = leave.addresses()[0].unwrap();
        *shares.entry(source.to_string()).or_default() += 1;
        state.ended(&counted, &[(Some(source), Heard::Used), (Some(source), Heard::Served)], at(1001));
    }
    assert_eq!(shares, BTreeMap::from([("192.0.2.1".to_owned(), 17), ("192.0.2.2".to_owned(), 3)]));
    // Alone it makes mail wait for the next day; what was not sent is not counted.
    let alone = from(&[("192.0.2.2", Some(warm))]);
    let wait = state.go(&alone, "a", 2000).unwrap_err();
    assert_eq!((wait.until, wait.why), (at(86_400_000), Hold::warm_up));
    let counted = state.go(&alone, "b", 2000).unwrap().1;
    state.ended(&counted, &[], at(2001));
    for _ in 0..3 {
        state.go(&alone, "b", 2002).unwrap();
    }
    assert!(state.go(&alone, "b", 2003).is_err());
}

#[test]
fn what_says_nothing_any_more_is_forgotten() {
    let route = route(rates(None, Some(600)));
    let mut state = state();
    for n in 0..100 {
        let counted = state.go(&route, &format!("d{n}"), 1000).unwrap().1;
        state.ended(&counted, &[(None, Heard::Served)], at(1001));
    }
    assert_eq!(state.places.len(), 100);
    state.tidy(at(1050));
    assert_eq!(state.places.len(), 100, "their buckets are not full yet");
    state.tidy(at(2000));
    assert!(state.places.is_empty() && state.flows.is_empty());
}

/// The most in any window of a minute that does not include its end.
fn most(times: &[i64]) -> usize {
    let within = |from: usize| times[from..].iter().take_while(|t| **t - times[from] < 60_000).count();
    (0..times.len()).map(within).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Many domains wait for one route; each asks when it was told to, or a little later, some ask too early.
    #[test]
    fn r160_no_minute_ever_has_more_than_allowed_and_no_domain_starves(
        route_limit in 1u32..120,
        domain_limit in 1u32..120,
        domains in 1usize..12,
        late in prop::collection::vec(0i64..40, 1..50),
        early in any::<bool>(),
    ) {
        let route = route(rates(Some(route_limit), Some(domain_limit)));
        let mut state = state();
        let mut asks: Vec<(i64, usize)> = (0..domains).map(|n| (n as i64, n)).collect();
        let (mut all, mut of) = (Vec::new(), vec![Vec::new(); domains]);
        for (n, late) in late.iter().cycle().take(3000).enumerate() {
            asks.sort_unstable();
            let (now, domain) = asks[0];
            if now > 240_000 {
                break;
            }
            asks[0].0 = match state.go(&route, &format!("d{domain}"), now) {
                Ok((_, counted)) => {
                    all.push(now);
                    of[domain].push(now);
                    state.ended(&counted, &[], at(now));
                    now + late
                }
                Err(wait) if early && n % 5 == 0 => (now + 1).max((now + wait.until.as_millisecond()) / 2),
                Err(wait) => wait.until.as_millisecond() + 1 + late,
            };
        }
        prop_assert!(most(&all) <= route_limit as usize);
        for times in &of {
            prop_assert!(most(times) <= domain_limit as usize);
        }
        // Whoever waits gets a turn after everybody else had one.
        let round = 60_000 / i64::from(route_limit).max(1) * (domains as i64 + 1);
        let own = 60_000 / i64::from(domain_limit).max(1);
        if asks.iter().all(|(next, _)| *next > 200_000) {
            for times in of {
                let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
                prop_assert!(gap <= 3 * (round + own) + 500, "{gap} of {round} and {own}");
            }
        }
    }
}
