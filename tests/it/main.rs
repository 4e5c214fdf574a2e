//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod architecture;
mod cluster;
mod kill;
mod mounted;
mod standalone;
mod support;
