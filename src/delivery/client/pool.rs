//! Sessions between messages: a short wait for the next one to the same host on the same terms.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Session;
use crate::delivery::routes::Destination;

/// Most hosts close an idle session after some minutes; long before that it is of no use any more.
const IDLE: Duration = Duration::from_secs(15);
/// Messages on one connection where the route says nothing; then the host gets a chance to balance its load.
pub const MAX_USES: u32 = 100;
/// Idle sessions of one key.
const MAX_IDLE: usize = 20;

/// Sessions are shared only where all of this is equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub host: String,
    pub port: u16,
    pub hostname: String,
    pub tls: blake3::Hash,
    pub require_tls: bool,
    /// Where it leaves from.
    pub source: Option<IpAddr>,
    /// Whose connections are counted, where their number is limited.
    pub lane: Option<Destination>,
    /// Who the session is logged in as: after a change of credentials nobody takes an older one.
    pub auth: Option<blake3::Hash>,
    /// The event loop that has the socket (see [`crate::loops::here`]).
    pub home: usize,
}

#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<Key, Vec<(Instant, Session)>>>,
}

impl Pool {
    /// A session that was fine when it was given back. It may have died since: see
    /// [`super::wire::Wire::is_stale`] and the retry in [`crate::delivery::attempt`].
    pub fn take(&self, key: &Key) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = idle.get_mut(key)?;
        while let Some((since, mut session)) = sessions.pop() {
            if since.elapsed() < IDLE && !session.wire.is_stale() {
                return Some(session);
            }
        }
        None
    }

    /// Keeps a session for later, or says goodbye when it did enough.
    pub async fn give(&self, key: Key, session: Session, max_uses: u32) {
        if session.used < max_uses {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let sessions = idle.entry(key).or_default();
            if sessions.len() < MAX_IDLE {
                sessions.push((Instant::now(), session));
                return;
            }
        }
        session.quit().await;
    }

    /// Takes out the session that has waited longest among those that fit, to make room for another.
    pub fn evict(&self, fits: impl Fn(&Key) -> bool) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter_mut().filter(|(key, sessions)| !sessions.is_empty() && fits(key));
        let (_, sessions) = fitting.min_by_key(|(_, sessions)| sessions[0].0)?;
        Some(sessions.remove(0).1)
    }

    /// Takes out every session that waited too long, or all of them, to say goodbye.
    pub fn sweep(&self, all: bool) -> Vec<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        idle.retain(|_, sessions| {
            let old = |(since, _): &mut (Instant, Session)| all || since.elapsed() >= IDLE;
            out.extend(sessions.extract_if(.., old).map(|(_, session)| session));
            !sessions.is_empty()
        });
        out
    }
}
