//! The changes a rule can make: headers, subject, way, recipients, attachments, transport and encryption.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::RouteRef;
use super::schema::{atomic, cel, each, each_len};
use super::units::{Quantity, plain_quantity};

/// Changes. Those of several matching rules are merged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::MODIFY_EMPTY]))]
pub struct Modify {
    /// Add `X-Gm-Original-To` with the envelope recipient that the message came with, each recipient on a
    /// copy of its own. Values that came with the message are removed.
    #[serde(default)]
    pub original_to_header: bool,
    /// Add `X-Gm-Spam` and `X-Gm-Phishy`, each 0 or 1, as the gateway's content scanner says (0 without
    /// one). Values that came with the message are removed. Not for Groups and Unrecognized.
    #[serde(default)]
    pub spam_headers: bool,
    /// Header fields to add. Those of several rules all appear; the same name and value once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), transform = atomic)]
    pub headers: Vec<Header>,
    /// Put in brackets before the subject: `Rahasia` turns `Laporan bulanan` into
    /// `[Rahasia] Laporan bulanan`. A prefix that is there already is not repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), transform = cel(&[checks::ONE_LINE]))]
    pub subject_prefix: Option<String>,
    /// Send over this OutboundRoute instead of normal routing. If it does not exist, mail waits; it
    /// never leaves another way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<ChangeRoute>,
    /// Deliver to another envelope recipient instead; the header stays. Normal routing for the new
    /// recipient decides the way, unless `route` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_recipient: Option<ChangeRecipient>,
    /// Do not classify as spam. Inbound messages only, and not for Groups and Unrecognized.
    #[serde(default)]
    pub bypass_spam_filter: bool,
    /// Take attachments out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_attachments: Option<RemoveAttachments>,
    /// Send copies to these recipients too, one message each; nobody sees who else gets one. The settings
    /// of this rule apply to them as well. At most 100: use the address of a group for more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), transform = atomic, transform = cel(&[checks::TOO_MANY_ADDED]))]
    pub add_recipients: Vec<AddedRecipient>,
    /// Demands on the transport, and encryption of the message itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Text below the message. Signed and encrypted messages stay without. It voids DKIM signatures made
    /// before the gateway: configure the gateway's `dkim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer: Option<Footer>,
    /// Take dynamic content out (text/x-amp-html, AMP for Email), which can change after it was checked.
    #[serde(default)]
    pub strip_amp: bool,
}

/// A header field to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Header {
    /// Name of the field, such as `X-Rule`. Fields that mean something to mail systems (From, To,
    /// Subject, Received, Content-*, DKIM-Signature and the like) cannot be added.
    #[schemars(length(min = 1, max = 76), transform = cel(&[checks::HEADER_NAME, checks::HEADER_FORBIDDEN]))]
    pub name: String,
    /// Value of the field, on one line. `{rule}`, `{revision}`, `{unit}` and `{id}` stand for the rule's
    /// name, the revision that decided, the rule's organizational unit and the id of the transaction.
    #[schemars(length(max = 900), transform = cel(&[checks::ONE_LINE]))]
    pub value: String,
}

/// Another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRoute {
    /// Name of the OutboundRoute, in the same namespace and attached to the same gateway.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Send spam this way too; false: spam takes normal routing. Not for Groups and Unrecognized.
    #[serde(default)]
    pub reroute_spam: bool,
    /// Let the next hop send no bounces to the sender (RFC 3461 NOTIFY=NEVER, else a null sender).
    #[serde(default)]
    pub suppress_bounces: bool,
}

/// Exactly one of `address`, `user` and `domain`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = cel(&[checks::RECIPIENT_ONE_OF]))]
pub struct ChangeRecipient {
    /// A whole address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: Option<String>,
    /// Another local part, at the domain it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), transform = cel(&[checks::LOCAL_PART]))]
    pub user: Option<String>,
    /// The local part it had, at another domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), transform = cel(&[checks::HOSTNAME]))]
    pub domain: Option<String>,
}

/// Which attachments go: all, or those that fulfil any of `types`, `names` and `largerThan`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::REMOVAL_EMPTY]))]
pub struct RemoveAttachments {
    /// Tells the recipients that something was removed: a text part where the attachment was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), transform = cel(&[checks::NOTICE]))]
    pub notice: Option<String>,
    /// Every attachment. Images that an HTML body shows are none.
    #[serde(default)]
    pub all: bool,
    /// Media types, such as `application/pdf` or `image/*`; told by the content, not by the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(1, 127), transform = each(&[checks::MEDIA_TYPE]))]
    pub types: Vec<String>,
    /// File names with `*` and `?`, such as `*.exe`. Case is ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), transform = atomic, transform = each_len(1, 255))]
    pub names: Vec<String>,
    /// Attachments of more than this many bytes, decoded, such as `10Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "plain_quantity")]
    pub larger_than: Option<Quantity>,
}

/// Somebody who gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddedRecipient {
    /// The address. Outside the organisation's domains it must be among the gateway's
    /// `allowedExternalTargets`, if that is set.
    #[schemars(length(min = 1, max = 320), transform = cel(&[checks::ADDRESS]))]
    pub address: String,
    /// Deliver this copy to another envelope recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_recipient: Option<ChangeRecipient>,
    /// Header fields to add to this copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), transform = atomic)]
    pub headers: Vec<Header>,
    /// Put in brackets before the subject of this copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), transform = cel(&[checks::ONE_LINE]))]
    pub subject_prefix: Option<String>,
    /// Take attachments out of this copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_attachments: Option<RemoveAttachments>,
    /// The OutboundRoute of this copy; default: that of the rule, else normal routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteRef>,
    /// Demands on the transport of this copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<TransportEncryption>,
    /// Make no copy of spam. Default: true; false in a rule whose `accountTypes` name Groups, which cannot
    /// have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_spam: Option<bool>,
    /// Let the next hop send no bounces of this copy to the sender.
    #[serde(default = "yes")]
    pub suppress_bounces: bool,
}

fn yes() -> bool {
    true
}

/// Demands on the transport, and encryption of the message itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// Require TLS on both sides: a message that came in clear text is refused, and one that cannot leave
    /// over TLS is not sent.
    #[serde(default)]
    pub require_tls: bool,
    /// Encrypt the message for its recipient, or sign it, with the certificates of the gateway's `smime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smime: Option<Smime>,
}

/// Demands on the transport.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransportEncryption {
    /// Require TLS on both sides.
    #[serde(default)]
    pub require_tls: bool,
}

/// S/MIME (RFC 8551): signed first, then encrypted. A message that is encrypted already is not touched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::SMIME_EMPTY]))]
pub struct Smime {
    /// Encrypt for the recipient.
    #[serde(default)]
    pub encrypt: bool,
    /// Sign with the sender's key, if From names the envelope sender and the gateway's `smime.signingFrom` has a valid
    /// certificate for that address. A message that is signed already is not signed again.
    #[serde(default)]
    pub sign: bool,
    /// Refuse the message for a recipient, or of a sender, without a valid certificate; false: it goes without.
    #[serde(default)]
    pub bounce_if_unable: bool,
}

/// Text below a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Footer {
    /// For text parts.
    #[schemars(length(min = 1, max = 10_000), transform = cel(&[checks::FOOTER]))]
    pub text: String,
    /// For HTML parts; default: made from `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20_000), transform = cel(&[checks::FOOTER]))]
    pub html: Option<String>,
}
