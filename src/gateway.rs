//! The data plane assembled: the mounted bundle becomes the running policy ([`live`]), mail is judged
//! and stored ([`intake`]), and delivery works off the spool. Holds no cluster credentials and knows
//! no Kubernetes.

pub mod acceptance;
pub mod access;
pub mod admission;
pub mod budget;
pub mod control;
pub mod decisions;
pub use crate::delivery::files;
pub mod gauges;
pub mod handover;
pub mod inspect;
pub mod intake;
pub mod judge;
pub mod listeners;
pub mod live;
pub mod mount;
pub mod papers;
pub mod probe;
pub mod quarantine;
pub mod queue;
pub mod received;
pub mod run;
