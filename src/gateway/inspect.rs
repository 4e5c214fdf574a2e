//! What must be found out about a message before policy can judge it: who vouches for its sender, and
//! what a classifier says of it. Only what some rule asks for is looked at ([`Needs`]).
//!
//! Everything here asks the network and has a time limit. Nothing here refuses mail: without an answer
//! a sender is not authenticated and a message is not spam, which is counted; rules decide.

mod authenticate;
mod classify;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::bundle::document::Gateway;
use crate::delivery::dns::Dns;
use crate::mail::address::Domain;
use crate::mail::envelope::Envelope;
use crate::policy::verdict::{Needs, Spam};
use crate::spool::Content;

/// For SPF and DKIM together, and for the classifier, which work at the same time. A client waits for
/// the reply to its data for ten minutes (RFC 5321 section 4.5.3.2.6).
const PATIENCE: Duration = Duration::from_secs(10);

/// One message that arrived, as far as it matters here.
#[derive(Clone, Copy)]
pub struct Arrived<'a> {
    /// Its queue id.
    pub id: &'a str,
    pub client: IpAddr,
    pub helo: &'a str,
    pub envelope: &'a Envelope,
    pub content: &'a Content,
    /// Length of our own Received field at the front, which nobody else has seen.
    pub received: usize,
}

/// What goes into a [`Transaction`](crate::policy::Transaction).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Domains that SPF or DKIM vouch for, each once.
    pub authenticated: Vec<Domain>,
    pub spam: Spam,
}

/// Finds things out. One for the whole gateway: it remembers answers of DNS for as long as they hold.
#[derive(Default)]
pub struct Inspector {
    dns: Dns,
    metrics: Metrics,
}

#[derive(Clone, Default)]
struct Metrics {
    authentication: Family<[(&'static str, &'static str); 2], Counter>,
    classified: Family<[(&'static str, &'static str); 1], Counter>,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    fn authentication(&self, method: &'static str, result: &'static str) {
        self.authentication.get_or_create(&[("method", method), ("result", result)]).inc();
    }

    fn failure(&self, scanner: &'static str) {
        self.failures.get_or_create(&[("scanner", scanner)]).inc();
    }
}

impl Inspector {
    pub fn new(registry: &mut Registry) -> Self {
        let inspector = Self::default();
        let Metrics { authentication, classified, failures } = inspector.metrics.clone();
        registry.register(
            "postern_authentication",
            "Results of SPF (one per message) and DKIM (one per signature): pass, fail, none, unanswered",
            authentication,
        );
        registry.register(
            "postern_classified",
            "Messages by what the classifier said: clean, spam, blatant; phishy ones are counted beside it",
            classified,
        );
        registry.register(
            "postern_scanner_failures",
            "Messages that a content scanner gave no answer on",
            failures,
        );
        inspector
    }

    /// Never fails: what cannot be found out is left at its default and counted.
    pub async fn inspect(&self, needs: Needs, gateway: &Gateway, mail: Arrived<'_>) -> Findings {
        if needs == Needs::default() {
            return Findings::default();
        }
        let authenticate = async {
            if !needs.authentication {
                return Vec::new();
            }
            authenticate::authenticate(&self.dns, &self.metrics, &gateway.dns_servers, mail).await
        };
        let classify = async {
            match &gateway.rspamd {
                Some(base) if needs.classification => {
                    let verdict =
                        classify::classify(&self.dns, &gateway.dns_servers, base, mail, PATIENCE).await;
                    self.noted(mail.id, verdict)
                }
                _ => Spam::default(),
            }
        };
        // Large, and rarely needed: not a part of every transaction's future.
        let (authenticated, spam) = Box::pin(async { tokio::join!(authenticate, classify) }).await;
        Findings { authenticated, spam }
    }

    fn noted(&self, id: &str, verdict: Result<Spam, classify::ClassifyError>) -> Spam {
        let spam = match verdict {
            Ok(spam) => spam,
            Err(error) => {
                self.metrics.failure("rspamd");
                tracing::warn!(id, %error, "a message is not classified: taken for clean");
                return Spam::default();
            }
        };
        let word = match spam {
            Spam { blatant: true, .. } => "blatant",
            Spam { spam: true, .. } => "spam",
            Spam { .. } => "clean",
        };
        self.metrics.classified.get_or_create(&[("verdict", word)]).inc();
        if spam.phishy {
            self.metrics.classified.get_or_create(&[("verdict", "phishy")]).inc();
        }
        spam
    }
}
