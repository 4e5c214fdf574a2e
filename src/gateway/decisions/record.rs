//! One line of the decision log. It begins with the reference, so that a search need not read the rest; what
//! recipients share is written once.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::account::{
    Circumstances, Considered, CopyLeftOut, DeliveryFate, Explained, Fate, Judged, Listing, MessageFate,
    Replies, SenderFate, account, circumstances,
};

/// What every line begins with; the reference and a quotation mark follow.
pub const START: &[u8] = b"{\"ref\":\"";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    r#ref: String,
    #[serde(flatten)]
    decided: Circumstances,
    revision: String,
    data: Option<String>,
    considered: Vec<Arc<Considered>>,
    recipients: Vec<Line>,
    archive: Option<DeliveryFate>,
    sender: SenderFate,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    recipient: String,
    disposition: Fate,
    reply: String,
    quarantine: Option<String>,
    /// In `considered` of the record.
    considered: usize,
    deliveries: Vec<DeliveryFate>,
    discarded: bool,
    copies_left_out: Vec<CopyLeftOut>,
}

/// The line of a decision, with its line end.
pub fn line(judged: &Judged<'_>) -> Vec<u8> {
    let Explained { version: _, revision, r#ref, transaction, messages, archive, sender, decided: _ } =
        account(judged, Listing::Concerned);
    let mut considered: Vec<Arc<Considered>> = Vec::new();
    let mut recipients = Vec::with_capacity(messages.len());
    for message in messages {
        let MessageFate {
            recipient,
            disposition,
            reply,
            quarantine,
            considered: own,
            deliveries,
            discarded,
            copies_left_out,
        } = message;
        let at = considered.iter().position(|known| Arc::ptr_eq(known, &own)).unwrap_or_else(|| {
            considered.push(own);
            considered.len() - 1
        });
        recipients.push(Line {
            recipient,
            disposition,
            reply,
            quarantine,
            considered: at,
            deliveries,
            discarded,
            copies_left_out,
        });
    }
    let decided = circumstances(judged);
    let record =
        Record { r#ref, decided, revision, data: transaction.data, considered, recipients, archive, sender };
    let mut line = serde_json::to_vec(&record).expect("a record has string keys only");
    line.push(b'\n');
    line
}

/// Reads a line back. `None`: it is torn, or no record.
pub fn read(line: &[u8]) -> Option<Explained> {
    let Record { r#ref, decided, revision, data, considered, recipients, archive, sender } =
        serde_json::from_slice(line).ok()?;
    let messages = recipients.into_iter().map(|line| {
        let Line {
            recipient,
            disposition,
            reply,
            quarantine,
            considered: at,
            deliveries,
            discarded,
            copies_left_out,
        } = line;
        let considered = Arc::clone(considered.get(at)?);
        Some(MessageFate {
            recipient,
            disposition,
            reply,
            quarantine,
            considered,
            deliveries,
            discarded,
            copies_left_out,
        })
    });
    let messages: Vec<_> = messages.collect::<Option<_>>()?;
    Some(Explained {
        version: 1,
        revision,
        r#ref,
        transaction: Replies { rcpt: vec!["250 2.1.5 Recipient ok".to_owned(); messages.len()], data },
        messages,
        archive,
        sender,
        decided: Some(decided),
    })
}
