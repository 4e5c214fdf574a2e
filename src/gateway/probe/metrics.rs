//! What is measured of tests. Names and labels are a contract (design section 5).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Prober;

/// Routes with series of their own.
const MAX_ROUTES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    pub reason: &'static str,
}

pub type Tests = Family<ByReason, Counter>;

/// The state of each route at the moment of a scrape.
pub struct Series(pub Prober);

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Series")
    }
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = self.0.all();
        all.truncate(MAX_ROUTES);
        let name = |probe: &crate::bundle::probe::RouteProbe| {
            format!("{}/{}", probe.origin.object.namespace, probe.origin.object.name)
        };
        let help = "1 while every host of the route passes the TLS test on its terms, 0 while one does not";
        let mut verified =
            encoder.encode_descriptor("postern_route_tls_verified", help, None, MetricType::Gauge)?;
        for probe in &all {
            let labels = [("route", name(probe)), ("reason", probe.reason.as_str().to_owned())];
            let gauge = ConstGauge::new(i64::from(probe.passed()));
            gauge.encode(verified.encode_family(&labels)?)?;
        }
        let help = "When the first certificate of the route's hosts expires, in seconds since 1970";
        let name_of_expiry = "postern_route_certificate_expiry_seconds";
        let mut expiry = encoder.encode_descriptor(name_of_expiry, help, None, MetricType::Gauge)?;
        for (probe, at) in all.iter().filter_map(|probe| Some((probe, probe.expires()?))) {
            ConstGauge::new(at.as_second()).encode(expiry.encode_family(&[("route", name(probe))])?)?;
        }
        Ok(())
    }
}
