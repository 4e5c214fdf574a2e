//! Bundle → Policy: every pattern and word list compiled, so that a mistake is found before it runs.

use crate::bundle::Bundle;
use crate::bundle::document::ObjectId;

/// A compiled bundle.
pub struct Policy {}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{object}: {message}")]
pub struct CompileError {
    /// The object whose author must act.
    pub object: ObjectId,
    pub message: String,
}

pub fn compile(_bundle: &Bundle) -> Result<Policy, CompileError> {
    todo!("policy helper")
}
