//! What the operator counts. Names and labels are a contract; every label value comes from a closed list.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watch {
    watch: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

pub struct Metrics {
    watch_failures: Family<Watch, Counter>,
    passes: Family<Outcome, Counter>,
    publications: Counter,
    status_writes: Family<Outcome, Counter>,
    writes: Counter,
    touches: Counter,
    looks: Counter,
    propagation: Histogram,
    pass_time: Histogram,
    leading: Gauge,
    audit_records: Counter,
    audit_failures: Counter,
    audit_pending: Gauge,
    api_requests: Family<Outcome, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = [0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0];
        let metrics = Self {
            watch_failures: Family::default(),
            passes: Family::default(),
            publications: Counter::default(),
            status_writes: Family::default(),
            writes: Counter::default(),
            touches: Counter::default(),
            looks: Counter::default(),
            propagation: Histogram::new(seconds),
            pass_time: Histogram::new(seconds),
            leading: Gauge::default(),
            audit_records: Counter::default(),
            audit_failures: Counter::default(),
            audit_pending: Gauge::default(),
            api_requests: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("postern_controller");
        let Self {
            watch_failures,
            passes,
            publications,
            status_writes,
            writes,
            touches,
            looks,
            propagation,
            pass_time,
            leading,
            audit_records,
            audit_failures,
            audit_pending,
            api_requests,
        } = &metrics;
        registry.register("watch_failures", "Interrupted watches, by resource", watch_failures.clone());
        registry.register("passes", "Looks at the world of a gateway, by outcome", passes.clone());
        registry.register("publications", "Bundles published", publications.clone());
        registry.register("status_writes", "Statuses written, by outcome", status_writes.clone());
        registry.register("object_writes", "Objects of our own created, changed or deleted", writes.clone());
        registry.register("pod_touches", "Pod annotations written to refresh a mount", touches.clone());
        registry.register("status_looks", "Objects of which it was worked out what to say", looks.clone());
        registry.register_with_unit(
            "propagation",
            "From a change seen to the last pod obeying it",
            Unit::Seconds,
            propagation.clone(),
        );
        registry.register_with_unit("pass_duration", "Duration of a pass", Unit::Seconds, pass_time.clone());
        registry.register("leading", "1 while this process leads", leading.clone());
        registry.register("audit_records", "Records written to the audit log", audit_records.clone());
        let failures = "Times the audit log could not be opened or written";
        registry.register("audit_failures", failures, audit_failures.clone());
        let pending = "Changes seen that are not in the audit log yet";
        registry.register("audit_pending", pending, audit_pending.clone());
        registry.register("api_requests", "Requests to the operator's API, by outcome", api_requests.clone());
        metrics
    }

    pub fn watch_failed(&self, watch: &'static str) {
        self.watch_failures.get_or_create(&Watch { watch }).inc();
    }

    /// A pass ended: `ok`, `conflict` or `error`.
    pub fn passed(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&Outcome { outcome }).inc();
        self.pass_time.observe(took.as_secs_f64());
    }

    pub fn published(&self) {
        self.publications.inc();
    }

    /// A status write ended: `ok`, `gone`, `conflict` or `error`.
    pub fn status_written(&self, outcome: &'static str) {
        self.status_writes.get_or_create(&Outcome { outcome }).inc();
    }

    pub fn wrote(&self) {
        self.writes.inc();
    }

    pub fn touched(&self) {
        self.touches.inc();
    }

    /// What there is to say of so many objects was worked out.
    pub fn looked(&self, objects: usize) {
        self.looks.inc_by(objects as u64);
    }

    pub fn propagated(&self, took: Duration) {
        self.propagation.observe(took.as_secs_f64());
    }

    pub fn leading(&self, leads: bool) {
        self.leading.set(leads.into());
    }

    pub fn audited(&self, records: usize) {
        self.audit_records.inc_by(records as u64);
    }

    pub fn audit_failed(&self) {
        self.audit_failures.inc();
    }

    pub fn audit_pending(&self, changes: usize) {
        self.audit_pending.set(i64::try_from(changes).unwrap_or(i64::MAX));
    }

    /// A request to the API ended: `ok`, `refused` (who asks, or may not), `unrecorded` or `failed`.
    pub fn api_asked(&self, outcome: &'static str) {
        self.api_requests.get_or_create(&Outcome { outcome }).inc();
    }
}
