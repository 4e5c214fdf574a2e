//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod abuse;
mod architecture;
mod cluster;
mod dialogue;
mod fates;
mod faults;
mod generated;
mod kill;
mod mounted;
mod relayed;
mod resources;
mod secured;
mod standalone;
mod stock;
mod support;
