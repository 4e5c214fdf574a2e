//! How destinations and sources stand, for `/status` and the metrics: looked up when somebody asks.

use std::fmt;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use super::Throttle;
use super::backoff::Step;
use super::state::State;
use crate::delivery::routes::{Destination, Label};

/// Destinations listed at most; the counts are always of all.
const LISTED: usize = 100;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// Pods that share the limits, this one included.
    pub pods: u32,
    /// Whether a server counts for all pods together at the moment.
    pub shared: bool,
    pub suspended: usize,
    pub limited: usize,
    /// Suspended ones first, then by since when.
    pub destinations: Vec<Standing>,
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub route: Option<String>,
    pub domain: Option<String>,
    pub source: Option<String>,
    /// Suspended, Probing or Limited.
    pub state: &'static str,
    /// SlowDown, Blocked or Down.
    pub reason: &'static str,
    /// The words it came with.
    pub said: String,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub connections: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub address: String,
    /// Usable or SetAside.
    pub state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
}

pub(super) fn view(state: &State, now: Timestamp) -> View {
    let mut destinations = Vec::new();
    for (place, standing) in standings(state) {
        let (destination, source) = place;
        let (word, until, connections) = match standing.stage {
            Step::Free => continue,
            Step::Limited { connections, .. } => ("Limited", None, Some(connections as u32)),
            Step::Suspended { until } if until > now => ("Suspended", Some(until), None),
            Step::Suspended { .. } | Step::Probing => ("Probing", None, Some(1)),
        };
        let (reason, said) = match &standing.cause {
            Some((sign, words)) => (sign.word(), words.clone()),
            None => ("SlowDown", String::new()),
        };
        destinations.push(Standing {
            route: destination.label().map(Label::to_string),
            domain: destination.domain().map(str::to_owned),
            source: source.map(|source| source.to_string()),
            state: word,
            reason,
            said,
            since: standing.since,
            until,
            connections,
        });
    }
    let limited = destinations.iter().filter(|standing| standing.state == "Limited").count();
    let suspended = destinations.len() - limited;
    destinations.sort_by(|a, b| {
        let order = |standing: &Standing| (standing.state == "Limited", standing.since);
        order(a).cmp(&order(b)).then_with(|| (&a.route, &a.domain).cmp(&(&b.route, &b.domain)))
    });
    destinations.truncate(LISTED);
    let mut sources: Vec<_> = state.sources.iter().collect();
    sources.sort_by_key(|(address, _)| **address);
    let sources = sources.into_iter().map(|(address, presence)| Source {
        address: address.to_string(),
        state: if presence.here { "Usable" } else { "SetAside" },
        reason: if presence.here { "" } else { presence.why },
    });
    View {
        pods: state.pods,
        shared: state.exact,
        suspended,
        limited,
        destinations,
        sources: sources.collect(),
    }
}

type Named<'a> = (&'a Destination, Option<std::net::IpAddr>);

fn standings(state: &State) -> impl Iterator<Item = (Named<'_>, &super::backoff::Standing)> {
    state.places.iter().flat_map(|(destination, place)| {
        place.standings.iter().map(move |(source, standing)| ((destination, *source), standing))
    })
}

/// Counts for a scrape.
pub(super) struct Gauges(pub Throttle);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (suspended, limited, usable, aside, pods) = {
            let state = self.0.state();
            let paused = |step: &Step| matches!(step, Step::Suspended { .. } | Step::Probing);
            let suspended = standings(&state).filter(|(_, standing)| paused(&standing.stage)).count();
            let limited = |step: &Step| matches!(step, Step::Limited { .. });
            let limited = standings(&state).filter(|(_, standing)| limited(&standing.stage)).count();
            let usable = state.sources.values().filter(|presence| presence.here).count();
            (suspended, limited, usable, state.sources.len() - usable, state.pods)
        };
        let families = [
            (
                "postern_destinations",
                "Destinations, at each source address, that get less mail than there is because of what they said",
                [("limited", limited), ("suspended", suspended)],
            ),
            (
                "postern_egress_sources",
                "Source addresses of routes; set_aside: this pod has neither the address nor a proxy that works",
                [("set_aside", aside), ("usable", usable)],
            ),
        ];
        for (name, help, values) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (state, value) in values {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&ByState { state })?)?;
            }
        }
        let gauge = ConstGauge::new(i64::from(pods));
        let help = "Pods that share the limits of routes, this one included";
        gauge.encode(encoder.encode_descriptor("postern_limit_pods", help, None, gauge.metric_type())?)
    }
}
