//! The contract between the halves: what the controller decided, as the gateway reads it.
//!
//! `Bundle` goes down, `Ack` comes up. A bundle is resolved (references followed, order fixed,
//! defaults filled) and holds no secret: it names [`Material`] that is mounted beside it.

pub mod ack;
mod clients;
pub mod document;
pub mod manifest;
pub mod material;
pub mod names;
pub mod probe;
pub mod push;
mod route;
mod rule;
pub mod segment;
mod shared;
mod smime;

pub use ack::{Ack, Leaving, Nack, NackReason};
pub use document::Bundle;
pub use manifest::{Manifest, Revision, Sequence};
pub use material::{Material, MaterialKind, Materials};
pub use push::Push;
