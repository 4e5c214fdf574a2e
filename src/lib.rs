//! Postern: an outbound-mail gateway for Kubernetes. ARCHITECTURE.md has the map.

pub mod admin;
pub mod api;
pub mod audit;
pub mod bundle;
pub mod cli;
pub mod controller;
pub mod delivery;
pub mod directory;
pub mod gateway;
pub mod loops;
pub mod mail;
pub mod manifest;
pub mod policy;
pub mod published;
pub mod smtp;
pub mod spool;
pub mod telemetry;
pub mod translate;
