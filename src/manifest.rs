//! A folder of YAML → Resources, with file and line: what the API server and a watch are in a cluster.
//!
//! Files are read as kubectl reads them, objects are held against the same schemas as at admission, and
//! what cannot be read is never mistaken for what was deleted. Rules over fields are `translate`'s.

pub mod form;
pub mod load;
pub mod number;
pub mod object;
pub mod scalar;
pub mod yaml;

pub use load::{Loaded, Located, Stamps, load, stamps};
pub use number::Generations;

#[cfg(test)]
mod tests;
