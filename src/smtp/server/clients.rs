//! How many connections there are, in all and of each client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::smtp::settings::Limits;

/// Open connections of one or more listeners.
#[derive(Debug, Default)]
pub struct Connections(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A counted connection; dropping it frees its place.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// How many there are now.
    pub fn open(&self) -> usize {
        self.counts().all
    }

    /// Counts a connection from `address`, unless a limit is reached.
    pub fn take(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let client = client(address);
        let mut counts = self.counts();
        if counts.all >= limits.connections {
            return None;
        }
        let of_client = counts.by_client.entry(client).or_default();
        if *of_client >= limits.connections_per_client {
            if *of_client == 0 {
                counts.by_client.remove(&client);
            }
            return None;
        }
        *of_client += 1;
        counts.all += 1;
        Some(Place { connections: self.clone(), client })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Counting cannot panic half way, so the counts are right even if a holder did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.all -= 1;
        if let Some(of_client) = counts.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

/// An IPv6 client has a /64 of addresses for nothing, so that is what counts as one client.
fn client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_at_its_limit_does_not_keep_others_out_and_leaves_no_trace() {
        let connections = Arc::new(Connections::default());
        let limits = Limits { connections: 3, connections_per_client: 2, ..Limits::default() };
        let take = |text: &str| connections.take(text.parse().unwrap(), &limits);
        let (first, second) = (take("2001:db8::1"), take("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("2001:db8::ffff").is_none(), "the same /64");
        let other = take("192.0.2.1");
        assert!(other.is_some());
        assert!(take("192.0.2.2").is_none(), "the limit over all");
        drop(first);
        assert!(take("192.0.2.2").is_some());
        drop((second, other));
        assert_eq!(connections.open(), 0);
        assert!(connections.counts().by_client.is_empty());
    }
}
