//! What is measured at the moment of a scrape: the queue, the spool's disk, the policy that runs, the sessions.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::delivery::Pauses;
use crate::delivery::pauses::Closed;
use crate::gateway::live::Live;
use crate::smtp::server::Try;
use crate::spool::Spool;

pub struct Gauges {
    pub live: Arc<Live>,
    pub spool: Spool,
    pub pauses: Pauses,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.spool.stats();
        let sequence = self.live.current().map_or(0, |running| running.sequence.0);
        let sessions = self.live.listeners().sessions() as u64;
        let closures = self.pauses.current();
        let routes = closures.keys().filter(|closed| matches!(closed, Closed::Route(_))).count() as u64;
        let domains = closures.len() as u64 - routes;
        let gauges = [
            ("postern_queue_messages", "Accepted messages with a recipient that waits", stats.messages),
            ("postern_queue_recipients", "Recipients that wait for their delivery", stats.recipients),
            ("postern_held_recipients", "Recipients in quarantine", stats.held_recipients),
            ("postern_queue_paused_routes", "Routes whose delivery is paused", routes),
            ("postern_queue_paused_domains", "Recipient domains whose delivery is paused", domains),
            ("postern_held_messages", "Accepted messages with a recipient in quarantine", stats.held),
            ("postern_queue_bytes", "Bytes of accepted messages that wait or are held", stats.bytes_live),
            ("postern_spool_disk_bytes", "Bytes that the spool takes on its disk", stats.bytes_on_disk),
            ("postern_spool_free_bytes", "Bytes that the spool may still take", self.spool.free()),
            (
                "postern_spool_failing",
                "1 while the spool's disk cannot be written, and the pod is not ready",
                u64::from(!self.spool.disk_works()),
            ),
            ("postern_policy_sequence", "Sequence of the policy that runs; 0 without one", sequence),
            ("postern_sessions", "SMTP sessions that are open", sessions),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counters = [
            (
                "postern_queue_entered",
                "Recipients that came into the spool to be delivered or held",
                stats.entered,
            ),
            ("postern_queue_delivered", "Recipients that left the spool delivered", stats.delivered),
            ("postern_queue_failed", "Recipients that left the spool without delivery", stats.failed),
            ("postern_queue_released", "Recipients that left the quarantine", stats.released),
            ("postern_queue_lost", "Recipients whose message the disk gave back no more", stats.lost),
            ("postern_spool_commits", "Calls of the spool that made something durable", stats.commits),
            ("postern_spool_syncs", "Times the spool synced its log to the disk", stats.syncs),
            ("postern_spool_failures", "Times the spool's disk refused or failed", stats.failures),
            ("postern_spool_damaged", "Damaged places found in the spool and set aside", stats.damaged),
            ("postern_spool_rewritten", "Segments of the spool rewritten to free the disk", stats.rewritten),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let name = "postern_listener_certificate_expiry_seconds";
        let help = "When the certificate of a listener expires, in seconds since 1970; none for one without certificateRef";
        let mut expiries = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (listener, at) in self.live.listeners().expiries() {
            ConstGauge::new(at).encode(expiries.encode_family(&[("listener", listener)])?)?;
        }
        let (name, help) =
            ("postern_logins", "Logins of clients by what came of them: success, failure, held_off");
        let mut logins = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for what in Try::ALL {
            let counter = ConstCounter::new(self.live.listeners().logins().counted(what));
            counter.encode(logins.encode_family(&[("result", what.word())])?)?;
        }
        Ok(())
    }
}
