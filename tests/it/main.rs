//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod architecture;
mod cluster;
mod generated;
mod kill;
mod mounted;
mod standalone;
mod support;
