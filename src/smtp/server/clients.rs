//! How many connections there are, in all and of each client.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::logins::Logins;
use crate::smtp::settings::Limits;

/// Open connections of one or more listeners, and how their clients' logins went.
#[derive(Debug, Default)]
pub struct Connections {
    counts: Mutex<Counts>,
    logins: Logins,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A counted connection; dropping it frees its place.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    /// `None`: not known yet.
    client: Option<IpAddr>,
}

impl Connections {
    /// How many there are now.
    pub fn open(&self) -> usize {
        self.counts().all
    }

    pub fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Counts a connection from `address`, unless a limit is reached.
    pub fn take(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let mut place = self.take_unknown(limits)?;
        place.is_of(address, limits).then_some(place)
    }

    /// Counts a connection of which only a load balancer knows the client.
    pub fn take_unknown(self: &Arc<Self>, limits: &Limits) -> Option<Place> {
        let mut counts = self.counts();
        if counts.all >= limits.connections {
            return None;
        }
        counts.all += 1;
        Some(Place { connections: self.clone(), client: None })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        // Counting cannot panic half way, so the counts are right even if a holder did.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Says whose connection it is; false when that client has too many.
    pub fn is_of(&mut self, address: IpAddr, limits: &Limits) -> bool {
        let client = client(address);
        let mut counts = self.connections.counts();
        let of_client = counts.by_client.entry(client).or_default();
        if *of_client >= limits.connections_per_client {
            if *of_client == 0 {
                counts.by_client.remove(&client);
            }
            return false;
        }
        *of_client += 1;
        drop(counts);
        self.client = Some(client);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.all -= 1;
        let Some(client) = self.client else { return };
        if let Some(of_client) = counts.by_client.get_mut(&client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&client);
            }
        }
    }
}

/// An IPv6 client has a /64 of addresses for nothing, so that is what counts as one client.
pub fn client(address: IpAddr) -> IpAddr {
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
