//! DKIM signing, the last change on the way out (spec R106): messages that a rule changed, since their
//! upstream signatures no longer hold, and mail of the gateway's own (spec R33). The keys of senders for S/MIME are
//! read here too; signing with them is an edit.

use std::sync::Arc;

use jiff::Timestamp;

use crate::bundle::document;
use crate::bundle::material::Materials;
use crate::mail::address::Domain;
use crate::mail::dkim::canonical::Form;
use crate::mail::dkim::{Key, Signer, body_hash};
use crate::mail::edit;
use crate::mail::message::Message;

/// The keys of a gateway that can be used now.
#[derive(Debug, Default)]
pub struct Signers(Vec<Signer>);

impl Signers {
    /// A key that is not here or does not read signs nothing, which is logged; the mail leaves without.
    pub fn read(keys: &[document::DkimKey], materials: &Materials) -> Self {
        let signer = |key: &document::DkimKey| {
            let material = &key.key;
            let found = match materials.get(&key.key) {
                Some(pem) => Key::read(pem).map_err(|error| error.to_string()),
                None => Err("it is not here".to_owned()),
            };
            match found {
                Ok(read) => {
                    Some(Signer { domain: key.domain.clone(), selector: key.selector.clone(), key: read })
                }
                Err(why) => {
                    let secret = format_args!("{}/{}", material.namespace, material.name);
                    tracing::warn!(%secret, key = material.key, why, "a DKIM key cannot be used");
                    None
                }
            }
        };
        Self(keys.iter().filter_map(signer).collect())
    }

    /// The fields to put in front of a message: one for each key of the best fitting domain, none when no
    /// key is for the domain of From. `rest` begins with the empty line, as [`crate::mail::edit::split`]
    /// leaves it.
    pub fn sign(&self, head: &[u8], rest: &[u8], now: Timestamp) -> Vec<u8> {
        let signers = self.fitting(head);
        if signers.is_empty() {
            return Vec::new();
        }
        let hash = body_hash(Form::Relaxed, body_of(rest));
        signers.iter().filter_map(|signer| signer.sign(head, &hash, now)).collect::<String>().into_bytes()
    }

    /// Whether [`sign`](Self::sign) would do anything; it reads the whole body only then.
    pub fn any_for(&self, head: &[u8]) -> bool {
        !self.fitting(head).is_empty()
    }

    fn fitting(&self, head: &[u8]) -> Vec<&Signer> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let Some(author) = author(head) else { return Vec::new() };
        let depth = |signer: &Signer| signer.domain.ascii().len();
        let mut signers: Vec<&Signer> =
            self.0.iter().filter(|signer| author.is_within(&signer.domain)).collect();
        let best = signers.iter().map(|signer| depth(signer)).max();
        signers.retain(|signer| Some(depth(signer)) == best);
        signers
    }
}

/// The domain of the one who wrote it; nobody's when there are several From fields.
fn author(head: &[u8]) -> Option<Domain> {
    let message = Message::read(head);
    if message.all("From").count() != 1 {
        return None;
    }
    message.addresses("From").first()?.domain().cloned()
}

fn body_of(rest: &[u8]) -> &[u8] {
    rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest)
}

/// The senders whose keys for S/MIME are here. Mail of the others waits, if a rule wants it signed.
pub fn smime(signers: &[document::SmimeSigner], materials: &Materials) -> edit::Signers {
    let mut found = edit::Signers::default();
    for document::SmimeSigner { addresses, certificate, .. } in signers {
        let pair = materials.get(&certificate.chain).zip(materials.get(&certificate.key));
        let read = match pair {
            Some((chain, key)) => edit::Signer::read(chain, key).map_err(|error| error.to_string()),
            None => Err("it is not here".to_owned()),
        };
        match read {
            Ok(signer) => {
                let signer = Arc::new(signer);
                // The first that names an address signs for it, as policy assumes.
                for address in addresses
                    .iter()
                    .filter(|address| found.get(address).is_none())
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    found.insert(address, Arc::clone(&signer));
                }
            }
            Err(why) => {
                let secret = format_args!("{}/{}", certificate.key.namespace, certificate.key.name);
                tracing::warn!(%secret, why, "a certificate for S/MIME signatures cannot be used");
            }
        }
    }
    found
}
