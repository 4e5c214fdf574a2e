//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod abuse;
mod architecture;
mod cluster;
mod dialogue;
mod fates;
mod generated;
mod kill;
mod mounted;
mod relayed;
mod secured;
mod standalone;
mod support;
