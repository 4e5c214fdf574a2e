//! Resources → Bundle and outcomes: what users wrote, decided. Pure; no client, no clock.
//!
//! ```text
//! Resources + LastGood ─ translate ─▶ Translation { bundle, materials, outcomes }
//! ```
//!
//! Rules mean something only together, so a pass always reads the whole set of one gateway. An object that
//! cannot be used never disappears: its last accepted form stays in force, or a broken record stands in for
//! it and makes mail wait (design decision 6). One bad object never changes what another one becomes.

pub mod address_lists;
mod clients;
mod conflicts;
pub mod directory;
mod egress;
pub mod gateway;
pub mod ldap;
pub mod lists;
mod login;
mod memory;
pub mod order;
pub mod pattern;
pub mod problem;
pub mod published;
pub mod quarantines;
pub mod resources;
pub mod routes;
pub mod rules;
mod smime;

pub use memory::Memory;
pub use order::translate;
pub use problem::{Outcome, Problem, Severity};
pub use resources::{
    ConfigMapFacts, LastGood, Malformed, ObjectKey, References, Resources, SecretFacts, Translation,
    Unattached, references, unattached,
};
