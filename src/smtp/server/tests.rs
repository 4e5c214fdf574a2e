//! Whole conversations: on a pipe in memory where the dialogue matters, over loopback where the
//! transport does.

mod dialogues;
mod support;
mod transport;
