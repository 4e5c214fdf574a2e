//! The promise behind 250 (spec R158): accepted mail survives kill -9 and power cuts until each
//! recipient has had a final outcome. Append-only checksummed segments, one committer, group commit.
//!
//! Each recipient has its own fate. Delivery is at least once: a crash may repeat a delivery whose
//! completion was not yet synced, and never loses one.

pub mod commit;
pub mod due;
pub mod record;
pub mod recover;
pub mod segment;
