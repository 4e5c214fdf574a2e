//! Reports about TLS that other organisations ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::cel;

/// Who reports about TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsReports {
    /// What the organisation is called.
    #[schemars(length(min = 1, max = 200), transform = cel(&[checks::ONE_LINE]))]
    pub organization: String,
    /// How its administrators are reached: a mail address or a web page.
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ONE_LINE]))]
    pub contact: String,
}
