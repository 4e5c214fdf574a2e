//! What helps, and what a failed test means for mail: the remedies of the source pages (spec R26, R27) with the
//! names that were found.

use std::time::Duration;

use jiff::Timestamp;

use crate::bundle::document::{Origin, TlsMode};
use crate::bundle::probe::{HostProbe, Reason, RouteProbe, Stage};
use crate::delivery::outcome::{Guard, Meaning, Stage as Wire, Trouble};
use crate::delivery::routes::Route;

/// Hosts that are named in one sentence.
const SHOWN: usize = 5;

/// The four remedies for a certificate that was refused.
pub fn certificate(wanted: &str, names: &[String]) -> Vec<String> {
    let usable: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.contains('*')).collect();
    let use_name = if names.is_empty() {
        "the certificate bears no name at all".to_owned()
    } else if usable.is_empty() {
        format!("the certificate has {}", some(names.iter().map(String::as_str)))
    } else {
        format!(
            "the certificate has {}: write one of them as the host of the route, or as tls.serverName",
            some(usable.into_iter())
        )
    };
    vec![
        format!(
            "If the mail server has more than one host name, use the one that is on its certificate; {use_name}."
        ),
        format!(
            "If you have access to the mail server, install a new certificate from a trusted certificate authority, \
             with the name {wanted} on it. An authority of your own is trusted when the route names it in tls.caRef."
        ),
        "If it is the mail relay of a third party, contact its provider about this error.".to_owned(),
        "Or switch off one or more of tls.require (Require mail to be transmitted via a secure (TLS) connection), \
         tls.requireCaSigned (Require CA signed certificate) and tls.validateHostname (Validate certificate \
         hostname). Better leave them on: only then can the connection be verified."
            .to_owned(),
    ]
}

/// What helps when a session did not come as far as a certificate, or further.
pub fn stage(stage: Stage, trouble: &Trouble, port: u16, mode: TlsMode) -> Vec<String> {
    let texts: Vec<String> = match (stage, trouble) {
        (Stage::Resolve, Trouble::NullMx(_)) => {
            vec!["The domain says itself that it takes no mail (RFC 7505): name another host.".into()]
        }
        (Stage::Resolve, Trouble::LoopsBack(_)) => {
            vec!["The route leads back to this gateway: name the next hop, not the gateway.".into()]
        }
        (Stage::Resolve, _) => vec![
            "Check the host's name for a typing mistake.".into(),
            "Ask the DNS servers that the pods use (OutboundGateway spec.dns.servers, else the cluster's) for it.".into(),
        ],
        (Stage::Connect, Trouble::Unreachable(why)) if why.contains("refused") => vec![
            format!("Nothing takes connections on port {port} there: check the host and the port of the route."),
            "A firewall may refuse connections from here; compare the results of other pods.".into(),
        ],
        (Stage::Connect, _) => {
            let mut texts = vec![format!(
                "Allow connections from the gateway's pods to port {port}: a firewall or a NetworkPolicy drops them, \
                 or the host is down."
            )];
            if port == 25 {
                texts.push(
                    "Many clouds block port 25 on the way out: have it opened, or use the relay's port 587 or 465."
                        .into(),
                );
            }
            texts
        }
        (Stage::Ehlo, Trouble::Refused(..)) => {
            vec!["The host does not want to talk to this address: ask its operator, with the reply above.".into()]
        }
        (Stage::Ehlo, _) if mode == TlsMode::StartTls => vec![
            "Check that a mail server answers on this port; one that waits for TLS from the first byte (port 465) \
             needs tls.mode: Implicit."
                .into(),
        ],
        (Stage::Ehlo, _) => vec!["Check that a mail server answers on this port.".into()],
        (Stage::StartTls, _) => vec![
            "Have TLS switched on at the mail server, or ask its provider for a host and port with TLS.".into(),
            "If the host speaks TLS from the first byte (port 465), set tls.mode: Implicit.".into(),
            "A firewall in between may hide STARTTLS: switch off its inspection of SMTP.".into(),
        ],
        (Stage::Handshake, Trouble::Refused(Wire::StartTls, _)) => {
            vec!["The host offers STARTTLS and then refuses it: its operator must repair its certificate or key.".into()]
        }
        (Stage::Handshake, Trouble::ClientCertificate(_)) => vec![
            "The host wants to see a certificate of this gateway: set tls.clientCertificateRef to one that its operator \
             has let in, or ask for that."
                .into(),
        ],
        (Stage::Handshake, _) if mode == TlsMode::Implicit => vec![
            "If the host upgrades plain connections (ports 25 and 587), set tls.mode: StartTls.".into(),
            "The host must speak TLS 1.2 or newer with modern ciphers; ask its operator.".into(),
        ],
        (Stage::Handshake, _) => {
            vec!["The host must speak TLS 1.2 or newer with modern ciphers; ask its operator.".into()]
        }
        (Stage::Auth, Trouble::AuthNotOffered) => vec![
            "Ask the relay's provider on which port it takes logins (most often 587 or 465).".into(),
        ],
        (Stage::Auth, Trouble::AuthMechanismMissing { offered, .. }) => {
            vec![format!("Set auth.mechanism to one that the host offers: {offered}.")]
        }
        (Stage::Auth, Trouble::Refused(_, reply)) if reply.is_transient() => {
            vec!["The host cannot check logins for the moment; this passes, or its operator must help.".into()]
        }
        (Stage::Auth, _) => vec![
            "Check user name and password in the Secret that auth.credentialsRef names.".into(),
            "Ask the relay's provider whether the account may send, and by which mechanism.".into(),
        ],
        (Stage::Recipient, _) => vec!["The way is fine; this recipient or sender is not taken by the host.".into()],
        (Stage::ChainTrusted | Stage::HostnameMatches, Trouble::Unprotected(Guard::Dane, _)) => vec![
            "The TLSA records of the host do not fit its certificate (DANE): its operator must publish records for \
             the certificate it shows, or install the one they name."
                .into(),
        ],
        (Stage::ChainTrusted | Stage::HostnameMatches, Trouble::Unprotected(Guard::Sts, _)) => vec![
            "The policy of the domain (MTA-STS) asks for another certificate: its operator must repair one of them."
                .into(),
        ],
        (Stage::ChainTrusted | Stage::HostnameMatches, _) => Vec::new(),
    };
    texts
}

/// What becomes of mail over the route while this is so.
pub fn effect(
    route: &Route,
    require: bool,
    decisive: Option<Stage>,
    reason: Reason,
    trouble: Option<&Trouble>,
) -> String {
    match (decisive, trouble) {
        (None, _) if reason == Reason::Verified => {
            "Mail over this route leaves over verified TLS.".to_owned()
        }
        (None, _) if require => {
            "Mail over this route is encrypted, and given to whoever answers at this address.".to_owned()
        }
        (None, _) => {
            "Mail over this route is encrypted where the host offers it, and given to whoever answers at \
                      this address."
                .to_owned()
        }
        (Some(Stage::Recipient), _) => "Only mail to this recipient is concerned.".to_owned(),
        (Some(Stage::StartTls | Stage::Handshake), _) if !require => {
            "Mail over this route leaves in clear text, since tls.require is off.".to_owned()
        }
        (Some(_), trouble) => match trouble.map(|trouble| trouble.meaning(route.on_tls_failure)) {
            Some(Meaning::Fail([a, b, c]) | Meaning::OtherHostOrFail([a, b, c])) => {
                format!(
                    "Mail over this route is returned to its senders ({a}.{b}.{c}), even though the route is saved."
                )
            }
            Some(Meaning::Later | Meaning::OtherHostOrLater) | None => format!(
                "Mail over this route waits and is tried again; what is still there after {} is returned to its \
                 senders, even though the route is saved.",
                hours(route.retry.give_up_after)
            ),
        },
    }
}

/// Which of the two questions about a certificate the route does not ask.
pub fn unasked(route: &Route) -> &'static str {
    match route.tls.asks_for() {
        (false, false) => "issuer and name",
        (false, true) => "the issuer",
        (true, false) => "the name",
        (true, true) => "nothing",
    }
}

fn hours(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{time:?}"),
    }
}

fn some<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<&str> = items.collect();
    let mut text = items[..items.len().min(SHOWN)].join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

/// The hosts of a route put together. `None`: there is no host to test.
pub fn sum_up(origin: &Origin, hosts: Vec<HostProbe>, now: Timestamp) -> Option<RouteProbe> {
    let first = hosts.first()?;
    let worst = hosts.iter().find(|host| !host.passed());
    let weakest =
        hosts.iter().map(|host| host.reason).max_by_key(|reason| *reason == Reason::Unauthenticated);
    let reason = worst.map_or(weakest.unwrap_or(first.reason), |host| host.reason);
    let message = match worst {
        Some(worst) => failure(worst, &hosts),
        None => success(&hosts),
    };
    Some(RouteProbe { origin: origin.clone(), since: now, tested_at: now, reason, message, hosts })
}

pub fn at(host: &HostProbe) -> String {
    match host.host.contains(':') {
        true => format!("[{}]:{}", host.host, host.port),
        false => format!("{}:{}", host.host, host.port),
    }
}

fn success(hosts: &[HostProbe]) -> String {
    let told: Vec<String> = hosts.iter().map(|host| format!("{}: {}", at(host), host.text)).collect();
    let mut text = some(told.iter().map(String::as_str));
    // With a doubt about one of them, its meaning belongs here too.
    if let Some(doubtful) = hosts.iter().find(|host| host.reason == Reason::Unauthenticated) {
        text.push_str(&format!(". {}", doubtful.effect));
    }
    text
}

fn failure(worst: &HostProbe, hosts: &[HostProbe]) -> String {
    let mut text = format!("{}: {}", at(worst), worst.text);
    let also = |host: &&HostProbe| !host.passed() && !std::ptr::eq(*host, worst);
    let also: Vec<String> =
        hosts.iter().filter(also).map(|host| format!("{} ({})", at(host), host.reason)).collect();
    if !also.is_empty() {
        text.push_str(&format!("; also failed: {}", some(also.iter().map(String::as_str))));
    }
    let passed: Vec<String> = hosts.iter().filter(|host| host.passed()).map(at).collect();
    match passed.is_empty() {
        true => text.push_str(&format!("\nEffect: {}", worst.effect)),
        false => text.push_str(&format!(
            "\nEffect: Mail over this route leaves by {}, as long as it can be reached.",
            some(passed.iter().map(String::as_str))
        )),
    }
    if !worst.advice.is_empty() {
        text.push_str("\nWhat helps:");
        for (number, advice) in worst.advice.iter().enumerate() {
            text.push_str(&format!("\n {}. {advice}", number + 1));
        }
    }
    text
}
