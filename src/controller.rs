//! (to be written)
pub mod rollout;
pub mod status;
