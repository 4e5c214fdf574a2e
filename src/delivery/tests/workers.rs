//! The worker with a real spool.
