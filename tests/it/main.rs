//! The one integration binary: rules of the house, whole gateways, and the real cluster.

mod architecture;
mod kill;
mod mounted;
mod standalone;
mod support;
