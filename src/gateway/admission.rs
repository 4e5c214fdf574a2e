//! Who may relay: pure checks of the envelope against the gateway's own settings (spec R35, R37).
//! `explain` gives the same answers from the same functions.

use std::net::IpAddr;

use crate::bundle::document::Gateway;
use crate::mail::address::Mailbox;
use crate::policy::settle::Settlement;
use crate::smtp::reply::Reply;

/// Whether the client's address is listed. IPv4-mapped addresses count as the IPv4 address they are.
pub fn client_allowed(gateway: &Gateway, client: IpAddr) -> bool {
    let client = client.to_canonical();
    gateway.clients.iter().any(|range| range.contains(&client))
}

/// The answer to RCPT as far as the gateway's own settings decide it. Refusing here and not at connect
/// keeps the connection usable for diagnosis (spec R37).
pub fn rcpt(gateway: &Gateway, client_allowed: bool, sender: Option<&Mailbox>) -> Result<(), Reply> {
    let denied = |why: &str| Err(Reply::new(550, [5, 7, 1], format!("Relay access denied: {why}")));
    if !client_allowed {
        return denied("client address not allowed");
    }
    // Listed clients may send reports: the null sender belongs to nobody's domain.
    let Some(sender) = sender else { return Ok(()) };
    let own = sender.domain().is_some_and(|domain| gateway.domains.iter().any(|d| domain.is_within(d)));
    if own || gateway.allow_foreign_senders {
        return Ok(());
    }
    denied("sender domain is not one of this organisation")
}

/// The reply after the data for a settled message; `id` is its queue id.
pub fn data(settlement: &Settlement, id: &str) -> Reply {
    match settlement {
        Settlement::Defer(deferral) => Reply::new(451, deferral.code.0, deferral.text.clone()),
        Settlement::Reject { rejection, .. } => Reply::new(550, rejection.code.0, rejection.text.clone()),
        Settlement::Accept { .. } => Reply::new(250, [2, 0, 0], format!("Ok: queued as {id}")),
    }
}
