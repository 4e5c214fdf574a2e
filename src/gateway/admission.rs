//! Who may relay, and as whom: pure checks of client and envelope against the gateway's own settings (spec R35,
//! R36, R37, R117). `explain` gives the same answers from the same functions.

use std::net::IpAddr;

use crate::bundle::document::{ClientUser, Gateway};
use crate::mail::address::{Domain, Mailbox};
use crate::policy::settle::Settlement;
use crate::smtp::reply::Reply;

/// Whether the client's address is listed. IPv4-mapped addresses count as the IPv4 address they are.
pub fn client_allowed(gateway: &Gateway, client: IpAddr) -> bool {
    let client = client.to_canonical();
    gateway.clients.iter().any(|range| range.contains(&client))
}

/// Why a client may hand over mail. A login comes first: it says most about who it is, and binds most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client<'g> {
    /// It has logged in as one of the gateway's users.
    User(&'g ClientUser),
    /// It showed a certificate with a name that counts; the e-mail address in it, if there is one.
    Certificate {
        address: Option<&'g str>,
    },
    /// Its address is in one of the gateway's networks.
    Network,
    Unknown,
}

/// Looked at again at each MAIL, so a user or a name that is taken away counts for nothing at once. `listed`:
/// what [`client_allowed`] says of its address. What a certificate says is told by its `names`; whether it is
/// genuine was found out when TLS began.
pub fn client<'g>(
    gateway: &'g Gateway,
    listed: bool,
    login: Option<&str>,
    names: Option<&'g [String]>,
) -> Client<'g> {
    if let Some(user) = login.and_then(|login| gateway.users.iter().find(|user| user.name == login)) {
        return Client::User(user);
    }
    if let (Some(authority), Some(names)) = (&gateway.mutual_tls, names) {
        let wanted =
            |name: &String| authority.subjects.iter().any(|subject| subject.eq_ignore_ascii_case(name));
        if authority.subjects.is_empty() || names.iter().any(wanted) {
            let address = names.iter().find(|name| name.parse::<Mailbox>().is_ok());
            return Client::Certificate { address: address.map(String::as_str) };
        }
    }
    if listed { Client::Network } else { Client::Unknown }
}

/// What `users[].senders` may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Permitted {
    Address(Mailbox),
    Domain(Domain),
    Null,
}

fn permitted(entry: &str) -> Option<Permitted> {
    match entry.strip_prefix('@') {
        _ if entry == "<>" => Some(Permitted::Null),
        Some(domain) => Domain::parse(domain).ok().map(Permitted::Domain),
        None => entry.parse().ok().map(Permitted::Address),
    }
}

impl Client<'_> {
    /// The person behind it, by whom rules judge the sender (spec R117): a user's name if it is an address, or
    /// the only address it may send as; the address in a certificate.
    pub fn identity(&self) -> Option<Mailbox> {
        match self {
            Client::User(user) => user.name.parse().ok().or_else(|| match user.senders.as_slice() {
                [only] => match permitted(only)? {
                    Permitted::Address(address) => Some(address),
                    Permitted::Domain(_) | Permitted::Null => None,
                },
                _ => None,
            }),
            Client::Certificate { address } => address.and_then(|address| address.parse().ok()),
            Client::Network | Client::Unknown => None,
        }
    }

    /// Domains that the login vouches for, beside what SPF and DKIM do: that of the identity, and that of the
    /// envelope sender where the user is bound to senders.
    pub fn vouches_for(&self, sender: Option<&Mailbox>) -> Vec<Domain> {
        let bound = matches!(self, Client::User(user) if !user.senders.is_empty());
        let sender = sender.filter(|_| bound).and_then(Mailbox::domain);
        let identity = self.identity();
        let mut domains: Vec<Domain> = Vec::new();
        for domain in identity.as_ref().and_then(Mailbox::domain).into_iter().chain(sender) {
            if !domains.contains(domain) {
                domains.push(domain.clone());
            }
        }
        domains
    }

    fn may_send_as(&self, sender: Option<&Mailbox>) -> bool {
        let Client::User(user) = self else { return true };
        user.senders.is_empty()
            || user.senders.iter().filter_map(|entry| permitted(entry)).any(|entry| match (entry, sender) {
                (Permitted::Null, None) => true,
                (Permitted::Address(address), Some(sender)) => address.folded() == sender.folded(),
                (Permitted::Domain(domain), Some(sender)) => {
                    sender.domain().is_some_and(|of| of.ascii() == domain.ascii())
                }
                (Permitted::Address(_) | Permitted::Domain(_), None) | (Permitted::Null, Some(_)) => false,
            })
    }
}

/// Why a recipient is refused whatever the rules say; the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    Client,
    /// The login is bound to other senders.
    Login,
    /// The sender is not of this organisation.
    Sender,
}

impl Denied {
    pub const fn word(self) -> &'static str {
        match self {
            Denied::Client => "client",
            Denied::Login => "login",
            Denied::Sender => "sender",
        }
    }

    pub fn reply(self) -> Reply {
        let why = match self {
            Denied::Client => "client address not allowed",
            Denied::Login => "this login may not use this sender address",
            Denied::Sender => "sender domain is not one of this organisation",
        };
        Reply::new(550, [5, 7, 1], format!("Relay access denied: {why}"))
    }
}

/// The answer to RCPT as far as the gateway's own settings decide it. Refusing here and not at connect
/// keeps the connection usable for diagnosis (spec R37).
pub fn rcpt(gateway: &Gateway, client: Client<'_>, sender: Option<&Mailbox>) -> Result<(), Denied> {
    if client == Client::Unknown {
        return Err(Denied::Client);
    }
    if !client.may_send_as(sender) {
        return Err(Denied::Login);
    }
    // Allowed clients may send reports: the null sender belongs to nobody's domain.
    let Some(sender) = sender else { return Ok(()) };
    let own = sender.domain().is_some_and(|domain| gateway.domains.iter().any(|d| domain.is_within(d)));
    if own || gateway.allow_foreign_senders { Ok(()) } else { Err(Denied::Sender) }
}

/// The reply after the data for a settled message; `id` is its queue id.
pub fn data(settlement: &Settlement, id: &str) -> Reply {
    match settlement {
        Settlement::Defer(deferral) => Reply::new(451, deferral.code.0, deferral.text.clone()),
        Settlement::Reject { rejection, .. } => Reply::new(550, rejection.code.0, rejection.text.clone()),
        Settlement::Accept { .. } => Reply::new(250, [2, 0, 0], format!("Ok: queued as {id}")),
    }
}

#[cfg(test)]
mod tests;
