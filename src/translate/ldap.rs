//! What an LDAP server said of a Directory, as far as translation must know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Users and groups as an LDAP server gave them, in the form of a Directory's own lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Sorted by address.
    pub users: Vec<User>,
    /// Sorted by address.
    pub groups: Vec<Group>,
}

/// The state of one Directory's LDAP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LdapFacts {
    /// What it said last; `None`: nothing yet in this process.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why there is no newer answer, in words that stay the same while the reason does.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub address: String,
    pub aliases: Vec<String>,
    pub unit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Group {
    pub address: String,
    pub members: Vec<String>,
}
