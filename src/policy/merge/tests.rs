//! Table and properties of the merge.
