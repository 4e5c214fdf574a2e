//! Metadata conditions over one message: its transaction, its size, its files.

use super::{Answer, Asked, Open, Texts};
use crate::mail::message::File;
use crate::policy::lists;
use crate::policy::metadata::Fact;
use crate::policy::verdict::Evidence;

impl Texts<'_> {
    pub(super) fn fact(&self, number: u16, fact: &Fact, asked: Asked<'_>) -> Answer {
        let transaction = self.transaction;
        let size = self.message.bytes.len() as u64;
        let evidence = |part: &str, value: String| {
            let entry = format!("{} {value}", fact.name());
            let evidence =
                Evidence { part: part.to_owned(), entry, expression: Some(number), ..Evidence::default() };
            Answer::Yes(vec![evidence])
        };
        let yes =
            |holds: bool, part: &str, value: String| if holds { evidence(part, value) } else { Answer::No };
        match fact {
            Fact::SourceIp { networks, negated } => {
                let client = transaction.client.to_canonical();
                let inside = networks.iter().any(|network| network.contains(&client));
                yes(inside != *negated, "envelope", client.to_string())
            }
            Fact::Authenticated(wanted) => {
                let from = self.message.addresses("from");
                // Every author must be vouched for: readers are shown any of them.
                let known = !from.is_empty()
                    && from.iter().all(|mailbox| lists::aligned(mailbox, transaction.authenticated));
                yes(known == *wanted, "headers", known.to_string())
            }
            Fact::InboundTls(wanted) => yes(transaction.tls == *wanted, "envelope", wanted.to_string()),
            Fact::SizeOver(limit) => yes(size > *limit, "message", format!("{size} over {limit}")),
            Fact::SizeUnder(limit) => yes(size < *limit, "message", format!("{size} under {limit}")),
            Fact::SmimeSigned(wanted) => {
                let signed = self.places.parts().pieces.smime_signed;
                self.known(signed, *wanted, asked, || evidence("message", signed.to_string()))
            }
            Fact::SmimeEncrypted(wanted) => {
                let encrypted = self.places.parts().pieces.smime_encrypted;
                self.known(encrypted, *wanted, asked, || evidence("message", encrypted.to_string()))
            }
            Fact::AttachmentEncrypted(wanted) => {
                let file = self.files().find(|file| file.encrypted);
                let part = file.map_or("message".to_owned(), label);
                self.known(file.is_some(), *wanted, asked, || evidence(&part, file.is_some().to_string()))
            }
            Fact::AttachmentType(test) => {
                self.file(asked, |file| test.fits(file.kind), |file| file.kind, evidence)
            }
            Fact::AttachmentName(test) => {
                // Inside archives by the whole path and by the name alone.
                let fits = |file: &File| {
                    let name = name(file);
                    test.fits(name) || name.rsplit_once('/').is_some_and(|(_, last)| test.fits(last))
                };
                self.file(asked, fits, name, evidence)
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.places.parts().pieces.files.iter()
    }

    fn file(
        &self,
        asked: Asked<'_>,
        fits: impl Fn(&File) -> bool,
        what: impl Fn(&File) -> &str,
        evidence: impl Fn(&str, String) -> Answer,
    ) -> Answer {
        match self.files().find(|file| fits(file)) {
            Some(file) => evidence(&label(file), what(file).to_owned()),
            None => match self.open_parts(asked) {
                open if open.any() => Answer::Unknown(open),
                _ => Answer::No,
            },
        }
    }

    /// Something that is so once it is seen, and not so only when all was seen.
    fn known(&self, seen: bool, wanted: bool, asked: Asked<'_>, yes: impl Fn() -> Answer) -> Answer {
        let open = Open { unreadable: false, ..self.open_parts(asked) };
        match (seen, wanted) {
            (true, true) => yes(),
            (true, false) => Answer::No,
            (false, _) if open.any() => Answer::Unknown(open),
            (false, false) => yes(),
            (false, true) => Answer::No,
        }
    }
}

fn name(file: &File) -> &str {
    file.name.as_deref().unwrap_or_default()
}

fn label(file: &File) -> String {
    format!("attachment:{}", file.name.as_ref().unwrap_or(&file.path))
}
