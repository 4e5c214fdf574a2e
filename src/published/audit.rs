//! Who may relay because DNS says so: every change of it is told (spec R36). Pure.

use ipnet::IpNet;

use crate::bundle::Bundle;

/// Networks that came and went with one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeNews {
    pub domain: String,
    pub added: Vec<IpNet>,
    pub removed: Vec<IpNet>,
}

/// What differs between two revisions, domain by domain.
pub fn range_news(before: Option<&Bundle>, after: &Bundle) -> Vec<RangeNews> {
    let of = |bundle: Option<&Bundle>, domain: &str| -> Vec<IpNet> {
        let clients = bundle.iter().flat_map(|bundle| &bundle.gateway.spf_clients);
        clients.filter(|from| from.domain.ascii() == domain).flat_map(|from| from.networks.clone()).collect()
    };
    let mut domains: Vec<&str> = before
        .iter()
        .flat_map(|bundle| &bundle.gateway.spf_clients)
        .chain(&after.gateway.spf_clients)
        .map(|from| from.domain.ascii())
        .collect();
    domains.sort_unstable();
    domains.dedup();
    let news = domains.into_iter().map(|domain| {
        let (old, new) = (of(before, domain), of(Some(after), domain));
        RangeNews {
            domain: domain.to_owned(),
            added: new.iter().filter(|net| !old.contains(net)).copied().collect(),
            removed: old.iter().filter(|net| !new.contains(net)).copied().collect(),
        }
    });
    news.filter(|news| !(news.added.is_empty() && news.removed.is_empty())).collect()
}

impl RangeNews {
    /// Writes it to the log, for those who audit.
    pub fn log(&self, gateway: &str) {
        let Self { domain, added, removed } = self;
        tracing::info!(target: "audit", gateway, %domain, ?added, ?removed, "networks that may relay have changed");
    }
}

impl std::fmt::Display for RangeNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 10;
        write!(f, "networks that may relay by the SPF record of {} have changed", self.domain)?;
        for (what, nets) in [("added", &self.added), ("removed", &self.removed)] {
            if nets.is_empty() {
                continue;
            }
            let shown: Vec<String> = nets.iter().take(SHOWN).map(ToString::to_string).collect();
            write!(f, "; {what}: {}", shown.join(", "))?;
            if nets.len() > SHOWN {
                write!(f, " and {} more", nets.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}
