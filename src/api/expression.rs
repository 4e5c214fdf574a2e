//! The conditions of `match.expressions`: on the text of one place, on what is known of a message besides
//! its text, or on what a predefined detector finds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::schema::cel;

/// One condition: exactly one of `location` (a place and its text), `metadata` and `detector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[
    checks::EXPRESSION_ONE_OF,
    checks::EXPRESSION_TYPE,
    checks::EXPRESSION_DETECTOR,
    checks::EXPRESSION_TEXT_TYPE,
    checks::EXPRESSION_METADATA_TYPE,
    checks::EXPRESSION_VALUE,
    checks::EXPRESSION_NO_VALUE,
    checks::EXPRESSION_PATTERN,
    checks::EXPRESSION_IS,
    checks::EXPRESSION_SIZE,
    checks::EXPRESSION_COUNT,
    checks::EXPRESSION_CONFIDENCE,
]))]
pub struct Expression {
    /// Where to look. Body is the visible text without attachments; HeadersAndBody has attachments too;
    /// RawMessage is the message as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// What to look at besides text. Authenticated: the From domain has an aligned SPF or DKIM result.
    /// AttachmentType is told by content, AttachmentName covers files inside archives too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataName>,
    /// What to find in headers, body and attachments. Only finds whose check digits are right count, where
    /// the thing has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<Detector>,
    /// How to compare. With `location`: StartsWith to AllWords; texts ignore case, a regular expression
    /// does not unless it starts with `(?i)`; AnyWord and AllWords take words separated by blanks. With
    /// `metadata`: SourceIP takes In and NotIn, MessageSize Over and Under, AttachmentType and
    /// AttachmentName Is and Matches (a regular expression), the others Is.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ExpressionType>,
    /// What to compare with; every type but IsEmpty needs it. SourceIP: networks separated by blanks or
    /// commas; MessageSize: a size such as `10Mi`; Authenticated to AttachmentEncrypted: `"true"` or
    /// `"false"`, in quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub value: Option<String>,
    /// How many matches it takes; with `detector`, how many different finds.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_count: u32,
    /// How sure a find of `detector` must be: Low takes the form alone, Medium (the default) its check
    /// digits too, High also a word beside it that names the thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Location {
    HeadersAndBody,
    FullHeaders,
    Body,
    Subject,
    FromHeader,
    RecipientsHeader,
    EnvelopeSender,
    AnyEnvelopeRecipient,
    RawMessage,
    Attachments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MetadataName {
    #[serde(rename = "SourceIP")]
    SourceIp,
    Authenticated,
    InboundTls,
    SmimeSigned,
    SmimeEncrypted,
    AttachmentEncrypted,
    MessageSize,
    AttachmentType,
    AttachmentName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExpressionType {
    StartsWith,
    EndsWith,
    Contains,
    NotContains,
    Equals,
    IsEmpty,
    MatchesRegex,
    NotMatchesRegex,
    AnyWord,
    AllWords,
    In,
    NotIn,
    Is,
    Over,
    Under,
    Matches,
}

/// Things with a form that can be told from text by a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Detector {
    PaymentCard,
    Iban,
    EmailAddress,
    PhoneNumber,
    UsSocialSecurityNumber,
    UkNationalInsuranceNumber,
    GermanTaxId,
    FrenchSocialSecurityNumber,
    SpanishDni,
    ItalianFiscalCode,
    DutchBsn,
    SwedishPersonalNumber,
    IndonesianNik,
    JapaneseMyNumber,
    ChineseResidentId,
    IndianAadhaar,
    BrazilianCpf,
    PrivateKey,
    AccessKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Confidence {
    Low,
    #[default]
    Medium,
    High,
}
