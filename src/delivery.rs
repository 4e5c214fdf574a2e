//! From the spool to the next hop: the last stretch of a mail's journey.
//!
//! ```text
//! spool ─▶ worker ─▶ routes, plan (which hosts, on what terms) ─▶ attempt (client: the wire)
//!             ▲                                                        │ Outcome, classified once
//!             └── settle: done | retry | bounce ◀──────────────────────┘
//! ```
//!
//! Nothing here decides whether mail may leave, nor changes it beyond the edits decided at its
//! acceptance. Routes are read afresh for each attempt (spec R141); terms of TLS only ever get
//! stricter on the way from a rule to the wire.

pub mod attempt;
pub mod bounce;
pub mod client;
pub mod dane;
pub mod dns;
pub mod edits;
pub mod egress;
pub mod files;
pub mod limits;
pub mod metrics;
pub mod outcome;
pub mod pauses;
pub mod plan;
pub mod probe;
pub mod protect;
pub mod retry;
pub mod routes;
pub mod settle;
pub mod sign;
pub mod sts;
pub mod tlsrpt;
pub mod wake;
pub mod web;
pub mod worker;

#[cfg(test)]
#[path = "../tests/it/support/authority.rs"]
pub(crate) mod authority;
#[cfg(test)]
#[path = "../tests/it/support/sink.rs"]
mod sink;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../tests/it/support/web.rs"]
mod webserver;
#[cfg(test)]
pub(crate) use sink::nobody;

pub use bounce::Allowance;
pub use limits::Throttle;
pub use metrics::{Metrics, Tried};
pub use pauses::Pauses;
pub use routes::{Own, RouteTable, Routes};
pub use worker::{Config, Worker};
