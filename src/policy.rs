//! The bundle compiled: what runs. Pure (no clock, no file, no socket), so that the gateway,
//! `explain` and the tests judge mail by the same code.
//!
//! ```text
//! Bundle ─ compile ─▶ Policy ─ decide(transaction, message, fuel) ─▶ Decision ─ settle ─▶ Settlement
//! ```

mod changes;
pub mod compile;
mod content;
mod copies;
pub mod decide;
mod detect;
mod directory;
mod lists;
pub mod matcher;
pub mod merge;
mod metadata;
mod notice;
pub mod pattern;
mod scope;
pub mod settle;
pub mod snippet;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod verdict;

pub use compile::{CompileError, Policy, compile, compile_after};
pub use decide::decide;
pub use verdict::{Decision, Delivery, Fuel, Transaction, Verdict};
