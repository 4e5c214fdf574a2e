//! Changes to a message as values, applied at the very end (design decision 8): the stored bytes
//! stay as they came, and what no edit touches leaves byte-identical.

use serde::{Deserialize, Serialize};

/// One change of the header section. Order matters and is the order of the rules' rank.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Edit {
    /// Adds a field at the top (below the gateway's own Received), encoded by RFC 2047 and folded
    /// as needed. The same name and value already added by an earlier edit is not added again.
    AddHeader { name: String, value: String },
    /// Puts `[text] ` before the subject, unless the prefix is already at its front (spec R81).
    /// A missing Subject is created.
    PrefixSubject { text: String },
}
