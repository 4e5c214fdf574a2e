//! What delivery counts. Names and labels are a contract (design section 5).

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::protect::Protected;
use super::routes::Label;

/// Routes with a label of their own; further ones share `other`.
const MAX_ROUTES: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Verdict {
    delivered,
    deferred,
    failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum ReportKind {
    failed,
    delayed,
    relayed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRoute {
    pub route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    pub route: String,
    pub result: Verdict,
}

/// `reason` is a word of the closed list of `outcome::Trouble::reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    pub route: String,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    pub kind: ReportKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByNote {
    pub note: &'static str,
}

/// How deliveries were protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Protection {
    dane,
    sts,
    verified,
    unverified,
    none,
}

impl From<Protected> for Protection {
    fn from(protected: Protected) -> Self {
        match protected {
            Protected::Dane => Protection::dane,
            Protected::Sts => Protection::sts,
            Protected::Verified => Protection::verified,
            Protected::Unverified => Protection::unverified,
            Protected::None => Protection::none,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByProtection {
    pub protection: Protection,
}

/// Recipients that a delivery was tried for, and those that TLS kept from it; told to the controller.
#[derive(Debug, Default)]
pub struct Tried {
    pub attempts: AtomicU64,
    pub tls_failures: AtomicU64,
}

/// A cheap handle; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub tried: Arc<Tried>,
    routes: Arc<Mutex<BTreeSet<String>>>,
    pub deliveries: Family<ByResult, Counter>,
    pub plaintext: Family<ByRoute, Counter>,
    pub protection: Family<ByProtection, Counter>,
    /// Recipients whose mail waits because a next hop does not let the gateway in.
    pub unwelcome: Family<ByReason, Counter>,
    pub attempts: Family<ByRoute, Counter>,
    pub in_flight: Gauge,
    pub queue_seconds: Histogram,
    pub reports: Family<ByKind, Counter>,
    pub reports_suppressed: Counter,
    pub bounces_suppressed: Counter,
    pub double_bounces: Counter,
    pub edits: Family<ByNote, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds =
            [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 432_000.0];
        Self {
            tried: Arc::default(),
            routes: Arc::default(),
            deliveries: Family::default(),
            plaintext: Family::default(),
            protection: Family::default(),
            unwelcome: Family::default(),
            attempts: Family::default(),
            in_flight: Gauge::default(),
            queue_seconds: Histogram::new(seconds),
            reports: Family::default(),
            reports_suppressed: Counter::default(),
            bounces_suppressed: Counter::default(),
            double_bounces: Counter::default(),
            edits: Family::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_deliveries",
            "Recipients by what an attempt made of them",
            self.deliveries.clone(),
        );
        registry.register(
            "postern_plaintext_deliveries",
            "Recipients whose message left in clear text because the next hop had no TLS",
            self.plaintext.clone(),
        );
        registry.register(
            "postern_delivery_protection",
            "Recipients delivered to, by what protected the transport",
            self.protection.clone(),
        );
        registry.register(
            "postern_auth_deferrals",
            "Recipients whose mail waits because the next hop does not take the route's login or client certificate",
            self.unwelcome.clone(),
        );
        registry.register("postern_delivery_attempts", "Attempts by route", self.attempts.clone());
        registry.register("postern_delivery_in_flight", "Attempts that run now", self.in_flight.clone());
        registry.register(
            "postern_queue_seconds",
            "From acceptance to a recipient's delivery",
            self.queue_seconds.clone(),
        );
        registry.register("postern_reports", "Delivery reports written", self.reports.clone());
        registry.register(
            "postern_reports_suppressed",
            "Delivery reports not written because their sender got too many",
            self.reports_suppressed.clone(),
        );
        registry.register(
            "postern_bounces_suppressed",
            "Recipients whose failure was not told to the sender because a rule says so",
            self.bounces_suppressed.clone(),
        );
        registry.register(
            "postern_double_bounces",
            "Recipients of delivery reports and of other mail with a null sender whose delivery failed",
            self.double_bounces.clone(),
        );
        registry.register(
            "postern_edit_notes",
            "What changing a message on its way out led to: attachments and void signatures removed, encrypted \
             content kept, footers left out",
            self.edits.clone(),
        );
    }

    /// The label of a route: its name, up to a number of them.
    pub fn route(&self, label: Option<&Label>) -> String {
        let Some(label) = label else { return "none".to_owned() };
        let name = label.to_string();
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.contains(&name) || routes.len() < MAX_ROUTES {
            routes.insert(name.clone());
            return name;
        }
        "other".to_owned()
    }
}
