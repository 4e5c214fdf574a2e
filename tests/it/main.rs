//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod architecture;
mod cluster;
mod fates;
mod generated;
mod kill;
mod mounted;
mod relayed;
mod secured;
mod standalone;
mod support;
