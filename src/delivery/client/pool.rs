//! Sessions between messages: a short wait for the next one to the same host on the same terms.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::Session;

/// Most hosts close an idle session after some minutes; long before that it is of no use any more.
const IDLE: Duration = Duration::from_secs(15);
/// Messages on one connection; then the host gets a chance to balance its load.
const MAX_USES: u32 = 100;
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
    pub async fn give(&self, key: Key, session: Session) {
        if session.used < MAX_USES {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let sessions = idle.entry(key).or_default();
            if sessions.len() < MAX_IDLE {
                sessions.push((Instant::now(), session));
                return;
            }
        }
        session.quit().await;
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
