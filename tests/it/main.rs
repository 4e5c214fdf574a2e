//! The one integration binary: rules of the house, whole gateways, and the real cluster.
// Tests print what they measured.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod abuse;
mod architecture;
mod chart;
mod cluster;
mod dialogue;
mod directory;
mod fates;
mod faults;
mod generated;
mod handover;
mod inbound;
mod kill;
mod logins;
mod mounted;
mod power;
mod probe;
mod published;
mod quarantine;
mod queue;
mod relayed;
mod replies;
mod requirements;
mod resources;
mod secured;
mod sim;
mod standalone;
mod stock;
mod support;
