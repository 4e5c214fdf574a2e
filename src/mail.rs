//! The vocabulary of mail: addresses, envelopes, messages, edits, reports. Values only, no IO.

pub mod address;
pub mod containers;
pub mod dkim;
pub mod dsn;
pub mod edit;
pub mod envelope;
pub mod filetype;
pub mod letter;
pub mod message;
pub mod rate;
