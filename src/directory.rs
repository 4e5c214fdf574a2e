//! People out of an LDAP server: read now and then, turned into the users and groups that a Directory could
//! have listed itself, and kept while the server is away. Translation sees only the result.
//!
//! ```text
//! spec.ldap ─▶ Settings ─▶ server (TLS, bind, pages) ─▶ entries (pure) ─▶ Snapshot ─▶ keeper (last good) ─▶ translate
//! ```

pub mod entries;
pub mod keeper;
mod server;
#[cfg(test)]
mod tests;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use crate::api::ldap::Mapping;

pub use keeper::Keeper;
pub use server::{ReadError, read};
pub use wanted::wanted;

/// Where people are and how to ask for them: a Directory's `ldap` with its Secret and CA file at hand.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// `ldaps://host:port`, or `ldap://host:port`, which is never used without StartTLS.
    pub url: String,
    /// Trusted beside the system's roots, PEM.
    pub ca: Option<Arc<[u8]>>,
    /// Name and password; `None`: anonymous.
    pub bind: Option<(String, String)>,
    pub base: String,
    pub mapping: Mapping,
    pub refresh: Duration,
}

/// Shows no password.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("url", &self.url).field("base", &self.base).finish_non_exhaustive()
    }
}
