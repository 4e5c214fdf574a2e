//! What limits and back-off count. Names and labels are a contract.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::backoff::Sign;
use super::state::Hold;

/// Sources with a label of their own; further ones share `other`.
const MAX_SOURCES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHold {
    reason: Hold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Cause {
    slow_down,
    blocked,
    down,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    cause: Cause,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum Answer {
    answered,
    failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    result: Answer,
}

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    waits: Family<ByHold, Counter>,
    suspensions: Family<ByCause, Counter>,
    left: Family<BySource, Counter>,
    asked: Family<ByAnswer, Counter>,
    sources: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_delivery_waits",
            "Times that mail had to wait before an attempt, by what it waited for",
            self.waits.clone(),
        );
        registry.register(
            "postern_suspensions",
            "Times that sending to a destination was suspended, by what it had said",
            self.suspensions.clone(),
        );
        registry.register(
            "postern_egress_attempts",
            "Connections and transactions tried from each source address of routes",
            self.left.clone(),
        );
        registry.register(
            "postern_shared_limit_calls",
            "Questions to the server where pods count together",
            self.asked.clone(),
        );
    }

    pub fn waited(&self, why: Hold) {
        self.waits.get_or_create(&ByHold { reason: why }).inc();
    }

    pub fn suspended(&self, sign: Sign) {
        let cause = match sign {
            Sign::Slow => Cause::slow_down,
            Sign::Blocked => Cause::blocked,
            Sign::Down => Cause::down,
        };
        self.suspensions.get_or_create(&ByCause { cause }).inc();
    }

    pub fn left(&self, source: IpAddr) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sources.contains(&source) || (sources.len() < MAX_SOURCES && sources.insert(source));
        drop(sources);
        let source = if known { source.to_string() } else { "other".to_owned() };
        self.left.get_or_create(&BySource { source }).inc();
    }

    pub fn asked(&self, answered: bool) {
        let result = if answered { Answer::answered } else { Answer::failed };
        self.asked.get_or_create(&ByAnswer { result }).inc();
    }
}
