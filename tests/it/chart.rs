//! The chart: who may do what, who reaches whom, what its values are, and what it says when something is wrong.

mod delivery;
mod monitoring;
mod network;
mod rights;
mod values;
