//! The audit log (spec R144-R147): who changed what, when it took effect, who looked at or decided about mail. An
//! append-only chain of JSON lines: each holds the hash of the one before, so that nothing can be changed, left
//! out or put in without [`verify`] naming the line.
//!
//! Values and files only. Who writes decides what an event means; nothing here knows a cluster or a mail, and no
//! secret gets in ([`diff`] redacts).

pub mod chain;
pub mod diff;
mod entry;
pub mod log;
pub mod read;
pub mod verify;

#[cfg(test)]
mod tests;

pub use chain::Link;
pub use diff::FieldChange;
pub use entry::{Entry, Event};
pub use log::{Limits, Log, Opening};
pub use read::Wanted;

/// The annotation in which people say why they change an object: a reason, or the number of a ticket.
pub const REASON_ANNOTATION: &str = "postern.dev/reason";
