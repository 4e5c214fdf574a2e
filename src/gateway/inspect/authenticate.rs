//! Who vouches for a message: SPF for the envelope sender, DKIM for its signatures. The answer is a list of
//! domains; whether one of them belongs to the From field is for policy to say (alignment).

use std::net::SocketAddr;

use mail_auth::common::crypto::Algorithm;
use mail_auth::dkim::Canonicalization;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{AuthenticatedMessage, DkimResult, Error, MessageAuthenticator, SpfResult};
use tokio::time::timeout;

use super::{Arrived, Metrics, PATIENCE};
use crate::delivery::dns::Dns;
use crate::mail::address::{Domain, Host};
use crate::mail::dkim::{self, canonical::Form};
use crate::mail::edit;
use crate::mail::message::Message;
use crate::spool::Content;

/// Signatures of one message that are looked at: each costs its reader a question to DNS and a verification.
const MAX_SIGNATURES: usize = 10;
/// Header sections above this are nobody's mail; verifying each signature reads all of it.
const MAX_HEAD: usize = 256 << 10;
/// Bodies up to this are hashed where they were read.
const INLINE: usize = 64 << 10;

/// The domains that vouch, each once; those of SPF first.
pub(super) async fn authenticate(
    dns: &Dns,
    metrics: &Metrics,
    servers: &[SocketAddr],
    mail: Arrived<'_>,
) -> Vec<Domain> {
    // Which of several senders would be vouched for is anybody's guess (RFC 7489 section 6.6.1).
    let head = edit::split(&mail.content.bytes()[mail.received..]).0;
    if Message::read(head).all("From").count() != 1 {
        metrics.authentication("dkim", "none");
        return Vec::new();
    }
    let authenticator = match dns.resolver(servers) {
        Ok(resolver) => MessageAuthenticator((*resolver).clone()),
        Err(error) => {
            tracing::warn!(%error, "senders cannot be authenticated");
            metrics.authentication("spf", "unanswered");
            return Vec::new();
        }
    };
    let by_spf = async {
        let checked = timeout(PATIENCE, spf(&authenticator, mail)).await;
        let (domain, result) = checked.unwrap_or((None, "unanswered"));
        metrics.authentication("spf", result);
        domain
    };
    let by_dkim = async {
        let checked = timeout(PATIENCE, by_signatures(&authenticator, mail)).await;
        let results = checked.unwrap_or_else(|_| vec![(None, "unanswered")]);
        results.iter().for_each(|(_, result)| metrics.authentication("dkim", result));
        results.into_iter().filter_map(|(domain, _)| domain).collect::<Vec<_>>()
    };
    let (by_spf, by_dkim) = tokio::join!(by_spf, by_dkim);
    let mut domains = Vec::new();
    for domain in by_spf.into_iter().chain(by_dkim) {
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains
}

/// The domain of the envelope sender, if its SPF record lists the client; that of HELO for the null sender
/// (RFC 7208 section 2.4).
async fn spf(authenticator: &MessageAuthenticator, mail: Arrived<'_>) -> (Option<Domain>, &'static str) {
    let helo = Domain::parse(mail.helo).ok();
    let sender = match mail.envelope.sender.mailbox.as_ref() {
        Some(mailbox) => match mailbox.host() {
            Host::Domain(domain) => Some((mailbox.local(), domain.clone())),
            Host::Literal(_) => None,
        },
        None => helo.clone().map(|helo| ("postmaster", helo)),
    };
    let Some((local, domain)) = sender else { return (None, "none") };
    let address = format!("{local}@{}", domain.ascii());
    let helo = helo.as_ref().map_or("", Domain::ascii);
    let parameters = SpfParameters::verify_mail_from(mail.client.to_canonical(), helo, helo, &address);
    match authenticator.verify_spf(parameters).await.result() {
        SpfResult::Pass => (Some(domain), "pass"),
        SpfResult::Fail | SpfResult::SoftFail | SpfResult::PermError => (None, "fail"),
        SpfResult::TempError => (None, "unanswered"),
        SpfResult::Neutral | SpfResult::None => (None, "none"),
    }
}

/// One result per signature; `none` alone when there is none.
async fn by_signatures(
    authenticator: &MessageAuthenticator,
    mail: Arrived<'_>,
) -> Vec<(Option<Domain>, &'static str)> {
    let (head, rest) = edit::split(&mail.content.bytes()[mail.received..]);
    if head.len() > MAX_HEAD {
        return vec![(None, "fail")];
    }
    let body = mail.content.len() as usize - rest.len() + empty_line(rest);
    // Only the header section is read by the library: bodies are hashed in our own canonical form, which
    // keeps to RFC 6376 where the library's does not (blank lines at the end), and off the reactor.
    let head = [head, b"\r\n"].concat();
    let Some(mut message) = AuthenticatedMessage::parse(&head) else { return vec![(None, "none")] };
    message.dkim_headers.retain(|header| is_sound(&header.header));
    message.dkim_headers.truncate(MAX_SIGNATURES);
    message.errors.clear();
    for header in &mut message.dkim_headers {
        // Nobody is asked for reports (RFC 6651) or for third parties (RFC 6541): `d=` alone vouches.
        header.header.r = false;
        header.header.atps = None;
    }
    if message.dkim_headers.is_empty() {
        return vec![(None, "none")];
    }
    let wanted: Vec<Form> = message.body_hashes.iter().map(|(form, ..)| form_of(*form)).collect();
    let Some(hashes) = hash(mail.content.clone(), body, wanted).await else {
        return vec![(None, "unanswered")];
    };
    for (slot, hash) in message.body_hashes.iter_mut().zip(hashes) {
        slot.3 = hash;
    }
    let outputs = authenticator.verify_dkim(&message).await;
    let result = |output: &mail_auth::DkimOutput<'_>| match output.result() {
        DkimResult::Pass => {
            let domain = output.signature().and_then(|signature| Domain::parse(&signature.d).ok());
            if domain.is_some() { (domain, "pass") } else { (None, "fail") }
        }
        DkimResult::TempError(_) | DkimResult::PermError(Error::Dns(mail_auth::DnsError::Resolver(_))) => {
            (None, "unanswered")
        }
        DkimResult::Neutral(_) | DkimResult::Fail(_) | DkimResult::PermError(_) | DkimResult::None => {
            (None, "fail")
        }
    };
    outputs.iter().map(result).collect()
}

/// Signatures that prove something: with SHA-256 (RFC 8301), over the From field (RFC 6376 section 5.4) and the
/// whole body.
fn is_sound(signature: &mail_auth::dkim::Signature) -> bool {
    signature.a != Algorithm::RsaSha1
        && signature.h.iter().any(|name| name.eq_ignore_ascii_case("from"))
        && signature.l == 0
}

fn form_of(form: Canonicalization) -> Form {
    match form {
        Canonicalization::Simple => Form::Simple,
        Canonicalization::Relaxed => Form::Relaxed,
    }
}

/// SHA-256 of the body from `start` in each of the forms. `None` only when the process is ending.
async fn hash(content: Content, start: usize, forms: Vec<Form>) -> Option<Vec<Vec<u8>>> {
    let small = content.bytes().len() - start <= INLINE;
    let work = move || {
        let body = &content.bytes()[start..];
        forms.into_iter().map(|form| dkim::body_hash(form, body)).collect()
    };
    if small { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}

/// Octets of the line that ends the header section.
fn empty_line(rest: &[u8]) -> usize {
    match rest {
        [b'\r', b'\n', ..] => 2,
        [b'\n', ..] => 1,
        _ => 0,
    }
}
