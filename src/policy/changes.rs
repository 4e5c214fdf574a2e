//! What the merge decided, turned into what a delivery carries: edits in their order (spec R106), the recipient
//! it goes to, and encryption for that recipient.

use std::sync::Arc;

use super::compile::Policy;
use super::merge::{Changes, Wish, unite};
use super::verdict::{Delivery, Spam, Transaction};
use crate::bundle::document::{AddedRecipient, ChangeRecipient, Header, SmimeCipher, UnitPath};
use crate::mail::address::Mailbox;
use crate::mail::edit::{Edit, Removal};
use crate::mail::envelope::{Recipient, Via};
use crate::mail::message::Message;

const ORIGINAL_TO: &str = "X-Gm-Original-To";

/// A delivery but for its recipient; recipients alike share it.
#[derive(Debug)]
pub(super) struct Template {
    pub via: Via,
    pub require_tls: bool,
    pub suppress_bounces: bool,
    edits: Arc<[Edit]>,
    /// With the rule that changes it.
    recipient: Option<(usize, ChangeRecipient)>,
    original_to: bool,
    encrypt: Option<Wish>,
    sign: Option<Wish>,
}

/// What is missing, so that a delivery cannot be made for one recipient. Each names the rank of the rule to blame.
#[derive(Debug)]
pub(super) enum Undeliverable {
    Certificate {
        rank: usize,
        to: Mailbox,
    },
    /// Nobody signs for the sender.
    Signer {
        rank: usize,
    },
    /// The changed recipient is no address.
    Address {
        rank: usize,
    },
}

/// What of a message matters for S/MIME.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealing<'a> {
    /// It is encrypted already, so that nothing more is asked of it.
    pub encrypted: bool,
    /// Who signs it, by folded address.
    pub signer: Option<&'a str>,
}

/// A delivery, and whether it should have been encrypted or signed but goes as it is.
pub(super) struct Addressed {
    pub delivery: Delivery,
    pub unencrypted: bool,
}

impl Template {
    /// `unit`: of the account through which the rule of a rank came to apply.
    pub fn primary<'u>(
        changes: &Changes<'_>,
        policy: &Policy,
        transaction: &Transaction<'_>,
        unit: impl Fn(usize) -> Option<&'u UnitPath>,
    ) -> Self {
        let headers = filled(&changes.headers, policy, transaction, unit);
        Self {
            via: changes.via.clone(),
            require_tls: changes.require_tls,
            suppress_bounces: changes.suppress_bounces,
            edits: edits(changes, changes.removal.clone(), &[], headers).into(),
            recipient: changes.recipient.map(|(rank, change)| (rank, change.clone())),
            original_to: changes.original_to,
            encrypt: changes.encrypt,
            sign: changes.sign,
        }
    }

    /// A copy: `changes` (the primary's, and those of rules that match the copy itself) with its own settings on
    /// top. `via`: its own route, where it has one.
    pub fn copy<'u>(
        changes: &Changes<'_>,
        (rank, added): (usize, &AddedRecipient),
        via: Option<Via>,
        policy: &Policy,
        transaction: &Transaction<'_>,
        unit: impl Fn(usize) -> Option<&'u UnitPath>,
    ) -> Self {
        let AddedRecipient {
            address: _,
            envelope_recipient,
            headers,
            subject_prefix,
            remove_attachments,
            route: _,
            require_tls,
            drop_spam: _,
            suppress_bounces,
        } = added;
        let mut removal = changes.removal.clone();
        if let Some(more) = remove_attachments {
            unite(removal.get_or_insert_default(), more);
        }
        let mut all = changes.headers.clone();
        all.extend(headers.iter().map(|header| (rank, header)));
        let headers = filled(&all, policy, transaction, unit);
        let own = envelope_recipient.as_ref().map(|change| (rank, change.clone()));
        Self {
            via: via.unwrap_or_else(|| changes.via.clone()),
            require_tls: changes.require_tls || *require_tls,
            suppress_bounces: changes.suppress_bounces || *suppress_bounces,
            edits: edits(changes, removal, subject_prefix.as_slice(), headers).into(),
            recipient: own.or_else(|| changes.recipient.map(|(rank, change)| (rank, change.clone()))),
            original_to: changes.original_to,
            encrypt: changes.encrypt,
            sign: changes.sign,
        }
    }

    /// The delivery for one recipient.
    pub fn address(
        &self,
        recipient: &Recipient,
        policy: &Policy,
        transaction: &Transaction<'_>,
        Sealing { encrypted, signer }: Sealing<'_>,
    ) -> Result<Addressed, Undeliverable> {
        let mut to = recipient.clone();
        if let Some((rank, change)) = &self.recipient {
            to.mailbox = changed(&recipient.mailbox, change).ok_or(Undeliverable::Address { rank: *rank })?;
        }
        let mut more = Vec::new();
        // Only where it was changed, and only on this recipient's own copy (spec R77).
        if self.original_to && to.mailbox != recipient.mailbox {
            let value = recipient.mailbox.to_string();
            more.push(Edit::SetHeader { name: ORIGINAL_TO.to_owned(), value });
        }
        let mut unencrypted = false;
        if let Some(sign) = self.sign.filter(|_| !encrypted) {
            match signer {
                Some(address) => more.push(Edit::SmimeSign { address: address.to_owned() }),
                None if sign.bounce_if_unable => return Err(Undeliverable::Signer { rank: sign.rank }),
                None => unencrypted = true,
            }
        }
        if let Some(encrypt) = self.encrypt.filter(|_| !encrypted) {
            match policy.certificate(&to.mailbox, transaction.now) {
                Some(certificate) => {
                    let certificate = certificate.der.clone();
                    more.push(match policy.bundle().gateway.smime_cipher {
                        SmimeCipher::Aes256Gcm => Edit::Smime { certificate },
                        SmimeCipher::Aes256Cbc => Edit::SmimeCbc { certificate },
                    });
                }
                None if encrypt.bounce_if_unable => {
                    return Err(Undeliverable::Certificate { rank: encrypt.rank, to: to.mailbox });
                }
                None => unencrypted = true,
            }
        }
        let edits = match more.is_empty() {
            true => Arc::clone(&self.edits),
            false => self.edits.iter().cloned().chain(more).collect(),
        };
        let delivery = Delivery {
            recipient: to,
            via: self.via.clone(),
            edits,
            require_tls: self.require_tls,
            suppress_bounces: self.suppress_bounces,
            drop_spam: false,
            copy_of: None,
        };
        Ok(Addressed { delivery, unencrypted })
    }
}

/// Edits in the order of the pipeline (spec R106); encryption and what is one recipient's own come after.
fn edits(
    changes: &Changes<'_>,
    removal: Option<Removal>,
    outer_prefix: &[String],
    headers: Vec<Edit>,
) -> Vec<Edit> {
    let mut edits = Vec::new();
    edits.extend(removal.map(Edit::RemoveAttachments));
    edits.extend(changes.strip_amp.then_some(Edit::StripAmp));
    edits.extend(changes.footers.iter().map(|footer| Edit::Footer((*footer).clone())));
    let outer = outer_prefix.iter().map(String::as_str);
    let inner =
        changes.prefixes.iter().copied().filter(|text| outer_prefix.iter().all(|known| known != text));
    edits.extend(outer.chain(inner).map(|text| Edit::PrefixSubject { text: text.to_owned() }));
    edits.extend(headers);
    if changes.spam_headers {
        let Spam { spam, phishy, blatant: _ } = changes.spam;
        for (name, yes) in [("X-Gm-Spam", spam), ("X-Gm-Phishy", phishy)] {
            edits.push(Edit::SetHeader { name: name.to_owned(), value: u8::from(yes).to_string() });
        }
    }
    edits
}

fn filled<'u>(
    headers: &[(usize, &Header)],
    policy: &Policy,
    transaction: &Transaction<'_>,
    unit: impl Fn(usize) -> Option<&'u UnitPath>,
) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    for (rank, header) in headers {
        let known = [
            ("{rule}", policy.rule(&policy.rules[*rank]).origin.object.name.as_str()),
            ("{revision}", policy.revision().as_str()),
            ("{unit}", unit(*rank).map_or("/", |unit| unit.0.as_str())),
            ("{id}", transaction.id),
        ];
        let edit = Edit::AddHeader { name: header.name.clone(), value: fill(&header.value, &known) };
        if !edits.contains(&edit) {
            edits.push(edit);
        }
    }
    edits
}

/// Placeholders of header values (spec R80), in one pass: what is filled in is not read again.
fn fill(value: &str, known: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = known.iter().find(|(name, _)| rest.starts_with(name));
        let (written, filled) = found.copied().unwrap_or(("{", "{"));
        out.push_str(filled);
        rest = &rest[written.len()..];
    }
    out.push_str(rest);
    out
}

/// One of the three forms of spec R86.
pub(super) fn changed(mailbox: &Mailbox, change: &ChangeRecipient) -> Option<Mailbox> {
    match change {
        ChangeRecipient::Address(address) => Some(address.clone()),
        ChangeRecipient::User(user) => format!("{user}@{}", mailbox.host()).parse().ok(),
        ChangeRecipient::Domain(domain) => format!("{}@{domain}", mailbox.local()).parse().ok(),
    }
}

/// Whether the whole message is encrypted, as its top-level type says (RFC 8551, RFC 3156).
pub(super) fn is_encrypted(message: &Message<'_>) -> bool {
    let mut types = message.all("content-type").map(|field| field.unfolded().to_ascii_lowercase());
    let Some(first) = types.next() else { return false };
    let kind = first.split(';').next().unwrap_or_default().trim();
    let enveloped = first.contains("enveloped-data");
    // Two types: which of them counts is anybody's guess.
    types.next().is_none()
        && (kind == "multipart/encrypted"
            || (matches!(kind, "application/pkcs7-mime" | "application/x-pkcs7-mime") && enveloped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r086_a_recipient_changes_in_three_forms() {
        let change = |change: &ChangeRecipient| {
            let changed = changed(&"Ani@solarmora.com".parse().unwrap(), change);
            changed.map(|mailbox| mailbox.to_string())
        };
        let whole = ChangeRecipient::Address("b@other.example".parse().unwrap());
        assert_eq!(change(&whole).as_deref(), Some("b@other.example"));
        assert_eq!(change(&ChangeRecipient::User("budi".into())).as_deref(), Some("budi@solarmora.com"));
        let domain = ChangeRecipient::Domain("example.net".parse().unwrap());
        assert_eq!(change(&domain).as_deref(), Some("Ani@example.net"));
        assert_eq!(change(&ChangeRecipient::User("not an address".into())), None);
    }

    #[test]
    fn only_what_is_enveloped_counts_as_encrypted() {
        for (kind, expected) in [
            ("application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m", true),
            ("application/x-pkcs7-mime; smime-type=\"authEnveloped-data\"", true),
            ("application/pkcs7-mime; smime-type=signed-data", false),
            ("multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=b", true),
            ("text/plain; name=enveloped-data", false),
            ("text/plain\r\nContent-Type: multipart/encrypted", false),
        ] {
            let bytes = format!("Content-Type: {kind}\r\n\r\nx");
            assert_eq!(is_encrypted(&Message::read(bytes.as_bytes())), expected, "{kind}");
        }
    }
}
