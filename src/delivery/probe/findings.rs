//! From what a session said to what is told of it: each stage with its mark, the reason, the certificate.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::advice;
use super::log::{Heard, Log, clean};
use crate::bundle::document::{AuthMechanism, TlsMode};
use crate::bundle::probe::{CertificateFacts, HostProbe, Mark, Reason, Stage, Step, TlsFacts};
use crate::delivery::client::tls::recorder::Seen;
use crate::delivery::client::tls::{self, Cause, Tls};
use crate::delivery::outcome::{Problem, Stage as Wire, Trouble};
use crate::delivery::protect::{Demand, Protected};
use crate::delivery::routes::Route;
use crate::smtp::reply::Reply;

/// Names of a certificate that are told; some have thousands.
const MAX_NAMES: usize = 20;

/// The order in which stages happen.
const UPGRADED: &[Stage] = &[
    Stage::Resolve,
    Stage::Connect,
    Stage::Ehlo,
    Stage::StartTls,
    Stage::Handshake,
    Stage::ChainTrusted,
    Stage::HostnameMatches,
    Stage::Auth,
    Stage::Recipient,
];
const IMPLICIT: &[Stage] = &[
    Stage::Resolve,
    Stage::Connect,
    Stage::StartTls,
    Stage::Handshake,
    Stage::ChainTrusted,
    Stage::HostnameMatches,
    Stage::Ehlo,
    Stage::Auth,
    Stage::Recipient,
];

/// What is known of one host so far.
#[derive(Clone)]
pub struct Findings<'a> {
    route: &'a Route,
    /// The terms of the route and what the world demands besides.
    terms: Tls,
    demand: Demand,
    host: &'a str,
    port: u16,
    addresses: Vec<String>,
    address: Option<IpAddr>,
    steps: BTreeMap<Stage, Step>,
    troubles: BTreeMap<Stage, Trouble>,
    expired: bool,
    tls: Option<TlsFacts>,
    certificate: Option<CertificateFacts>,
    extensions: Vec<String>,
}

impl<'a> Findings<'a> {
    pub fn new(route: &'a Route, host: &'a str, port: u16) -> Self {
        Self {
            route,
            terms: route.tls.clone(),
            demand: Demand::Nothing,
            host,
            port,
            addresses: Vec::new(),
            address: None,
            steps: BTreeMap::new(),
            troubles: BTreeMap::new(),
            expired: false,
            tls: None,
            certificate: None,
            extensions: Vec::new(),
        }
    }

    /// The name that the certificate must bear.
    fn wanted(&self) -> &str {
        self.terms.server_name.as_deref().or(self.sni()).unwrap_or(self.host)
    }

    /// What the host must show beside what the route asks for.
    pub fn demanded_of(&mut self, terms: Tls, demand: Demand) {
        (self.terms, self.demand) = (terms, demand);
    }

    pub fn tls(&self) -> &Tls {
        &self.terms
    }

    pub fn sni(&self) -> Option<&str> {
        self.demand.sni()
    }

    fn requires_tls(&self) -> bool {
        self.terms.require || self.demand.requires_tls()
    }

    /// DNSSEC proves which certificate the host has.
    fn by_dane(&self) -> bool {
        self.demand.protected(&self.route.tls, true) == Protected::Dane
    }

    fn demanded(&self, stage: Stage) -> bool {
        match stage {
            Stage::StartTls | Stage::Handshake => self.requires_tls(),
            Stage::ChainTrusted => self.terms.asks_for().0 || self.by_dane(),
            Stage::HostnameMatches => self.terms.asks_for().1,
            Stage::Auth => self.route.auth.is_some(),
            Stage::Recipient => self.steps.contains_key(&Stage::Recipient),
            Stage::Resolve | Stage::Connect | Stage::Ehlo => true,
        }
    }

    fn put(&mut self, stage: Stage, result: Mark, took: Duration, text: impl Into<String>) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let demanded = stage == Stage::Recipient || self.demanded(stage);
        let step = Step { stage, result, demanded, millis, text: text.into(), advice: Vec::new() };
        self.steps.insert(stage, step);
    }

    fn pass(&mut self, stage: Stage, took: Duration, text: impl Into<String>) {
        self.put(stage, Mark::Passed, took, text);
    }

    fn fail(&mut self, stage: Stage, trouble: Trouble, took: Duration) {
        let text = match &trouble {
            Trouble::Unreachable(why) => why.clone(),
            Trouble::Certificate(text) => text.strip_prefix(CANONICAL).unwrap_or(text).to_owned(),
            Trouble::Unprotected(_, why) => why.clone(),
            Trouble::StartTlsMissing => "not offered".to_owned(),
            Trouble::Refused(_, reply) => reply.to_string(),
            trouble => Problem::at(self.host, trouble.clone()).to_string(),
        };
        self.put(stage, Mark::Failed, took, clean(&plain(&text)));
        self.troubles.insert(stage, trouble);
    }

    pub fn resolved(&mut self, addresses: &[IpAddr], took: Duration) {
        self.addresses = addresses.iter().map(IpAddr::to_string).collect();
        let text = match self.host.parse::<IpAddr>() {
            Ok(_) => "an address already".to_owned(),
            Err(_) => self.addresses.join(", "),
        };
        self.pass(Stage::Resolve, took, text);
    }

    /// The address that the next session is with.
    pub fn at(&mut self, ip: IpAddr) {
        self.address = Some(ip);
    }

    /// A look-up failed that comes before any host.
    pub fn unresolved(self, problem: &Problem, took: Duration) -> HostProbe {
        self.failed(Stage::Resolve, problem.trouble.clone(), took)
    }

    /// It ended here.
    pub fn failed(mut self, stage: Stage, trouble: Trouble, took: Duration) -> HostProbe {
        self.fail(stage, trouble, took);
        self.done()
    }

    /// Takes in how far the session came and what certificate was shown.
    pub fn heard(&mut self, log: &Log, seen: Option<Seen>) {
        let Heard { connected, greeting, hello, starttls, encrypted, .. } = log.heard();
        let implicit = self.route.tls.mode == TlsMode::Implicit;
        if let (Some(took), Some(ip)) = (connected, self.address) {
            self.pass(Stage::Connect, took, std::net::SocketAddr::new(ip, self.port).to_string());
        }
        if implicit {
            self.put(Stage::StartTls, Mark::Skipped, Duration::ZERO, "TLS from the first byte");
        }
        if let (Some((greeting, first)), Some((keywords, second))) = (greeting, hello) {
            let greeting = clean(greeting.lines().next().unwrap_or_default());
            let offers = match keywords.is_empty() {
                true => "offers nothing".to_owned(),
                false => format!("offers {}", keywords.join(", ")),
            };
            self.pass(Stage::Ehlo, first + second, format!("{greeting}; {offers}"));
            self.extensions = keywords;
        }
        if starttls && !implicit {
            self.pass(Stage::StartTls, Duration::ZERO, "offered");
        }
        if let Some((facts, took)) = encrypted {
            let (version, cipher) = facts.split_once(" with cipher ").unwrap_or((&facts, ""));
            self.pass(Stage::Handshake, took, format!("{version}, {cipher}"));
            self.tls = Some(TlsFacts { version: version.to_owned(), cipher: cipher.to_owned() });
        }
        if let Some(seen) = seen {
            self.showed(seen);
        }
    }

    fn showed(&mut self, Seen { certificates, chain, name }: Seen) {
        self.certificate = certificates.first().and_then(facts);
        self.expired = matches!(chain, Err(Cause::Expired(_)));
        match chain {
            Ok(()) => {
                let text = self
                    .certificate
                    .as_ref()
                    .map(|facts| format!("signed by {}, valid until {}", facts.issuer, day(facts.not_after)));
                self.pass(Stage::ChainTrusted, Duration::ZERO, text.unwrap_or_default());
            }
            Err(cause) => {
                self.fail(Stage::ChainTrusted, Trouble::Certificate(cause.to_string()), Duration::ZERO);
            }
        }
        match name {
            Ok(()) => {
                let text = format!("{} is on the certificate", self.wanted());
                self.pass(Stage::HostnameMatches, Duration::ZERO, text);
            }
            Err(cause) => {
                self.fail(Stage::HostnameMatches, Trouble::Certificate(cause.to_string()), Duration::ZERO);
            }
        }
        self.proved(&certificates);
    }

    /// What DANE and MTA-STS say of the certificate.
    fn proved(&mut self, certificates: &[CertificateDer<'_>]) {
        let stage = match &self.demand {
            Demand::Nothing | Demand::Sender => return,
            Demand::Dane(_) => Stage::ChainTrusted,
            Demand::Sts(_) => Stage::HostnameMatches,
        };
        match self.demand.check(certificates) {
            Err(why) => self.fail(stage, self.demand.unfit(&why), Duration::ZERO),
            // Issuers mean nothing then, unless the route asks for them all the same.
            Ok(()) if self.by_dane() && !self.terms.asks_for().0 => {
                self.troubles.remove(&stage);
                self.expired = false;
                self.pass(stage, Duration::ZERO, "the TLSA records name it (DANE)");
            }
            Ok(()) => {}
        }
    }

    /// The session was never ready for mail.
    pub fn stopped(mut self, trouble: Trouble, took: Duration) -> HostProbe {
        let stage = match &trouble {
            Trouble::Unreachable(_) | Trouble::NoSource(_) | Trouble::Proxy(_) => Stage::Connect,
            Trouble::StartTlsMissing => Stage::StartTls,
            Trouble::Handshake(_) | Trouble::Certificate(_) | Trouble::ClientCertificate(_) => {
                Stage::Handshake
            }
            Trouble::TimedOut(at)
            | Trouble::Closed(at)
            | Trouble::Garbled(at, _)
            | Trouble::Refused(at, _) => {
                match at {
                    // It was offered; what came of it was no TLS.
                    Wire::StartTls => Stage::Handshake,
                    _ => Stage::Ehlo,
                }
            }
            _ => Stage::Ehlo,
        };
        self.fail(stage, trouble, took);
        self.done()
    }

    /// Whether the host is what the route wants: only then may it be told more.
    pub fn allow_more(&self) -> bool {
        self.tls.is_some() && !self.steps.values().any(|step| step.demanded && step.result == Mark::Failed)
    }

    /// Whether issuer and name were both found to be right, asked for or not: a password may be said here.
    pub fn is_verified(&self) -> bool {
        [Stage::Handshake, Stage::ChainTrusted, Stage::HostnameMatches]
            .iter()
            .all(|stage| self.steps.get(stage).is_some_and(|step| step.result == Mark::Passed))
    }

    pub fn login(&mut self, mechanism: AuthMechanism, login: Result<(), Trouble>, took: Duration) {
        match login {
            Ok(()) => self.pass(Stage::Auth, took, format!("logged in by {}", mechanism.keyword())),
            Err(trouble) => self.fail(Stage::Auth, trouble, took),
        }
    }

    pub fn recipient(&mut self, answer: Result<&Reply, Trouble>, took: Duration) {
        match answer {
            Ok(reply) => self.pass(Stage::Recipient, took, clean(&reply.to_string())),
            Err(trouble) => self.fail(Stage::Recipient, trouble, took),
        }
    }

    /// The stage that decides: the first that is demanded and failed. A host without usable TLS fails the test
    /// of TLS even if the route could do without.
    fn decisive(&self) -> Option<Stage> {
        let counts = |stage: &Stage| {
            let tls = matches!(stage, Stage::StartTls | Stage::Handshake);
            self.steps.get(stage).is_some_and(|step| step.result == Mark::Failed && (step.demanded || tls))
        };
        self.order().iter().copied().find(counts)
    }

    fn order(&self) -> &'static [Stage] {
        match self.route.tls.mode {
            TlsMode::StartTls => UPGRADED,
            TlsMode::Implicit => IMPLICIT,
        }
    }

    fn reason(&self, decisive: Option<Stage>) -> Reason {
        match decisive {
            None | Some(Stage::Recipient) if self.terms.asks_for() == (true, true) || self.by_dane() => {
                Reason::Verified
            }
            None | Some(Stage::Recipient) => Reason::Unauthenticated,
            Some(Stage::Resolve) => Reason::ResolveFailed,
            Some(Stage::Connect) => Reason::ConnectFailed,
            Some(Stage::Ehlo) => Reason::EhloFailed,
            Some(Stage::StartTls) => Reason::StartTlsNotOffered,
            Some(stage @ Stage::Handshake) => match self.troubles.get(&stage) {
                Some(Trouble::Certificate(_)) => Reason::CertUntrusted,
                _ => Reason::HandshakeFailed,
            },
            Some(Stage::ChainTrusted) if self.expired => Reason::CertExpired,
            Some(Stage::ChainTrusted) => Reason::CertUntrusted,
            Some(Stage::HostnameMatches) => Reason::CertNameMismatch,
            Some(Stage::Auth) => Reason::AuthFailed,
        }
    }

    /// Everything that was found, in order.
    pub fn done(mut self) -> HostProbe {
        let decisive = self.decisive();
        let reason = self.reason(decisive);
        let text = self.sentence(decisive, reason);
        let failing: Vec<Stage> = self.troubles.keys().copied().collect();
        for stage in failing {
            let advice = self.advice(stage);
            if let Some(step) = self.steps.get_mut(&stage) {
                step.advice = advice;
            }
        }
        let mut steps = Vec::new();
        for &stage in self.order() {
            steps.push(match self.steps.remove(&stage) {
                Some(step) => step,
                None => self.skipped(stage),
            });
        }
        let trouble = decisive.and_then(|stage| self.troubles.get(&stage));
        let code = trouble.and_then(|trouble| match trouble {
            Trouble::Refused(_, reply) => Some(reply.code),
            _ => None,
        });
        let meant = trouble.map(|trouble| self.demand.trouble(trouble.clone()));
        let effect = advice::effect(self.route, self.requires_tls(), decisive, reason, meant.as_ref());
        HostProbe {
            host: self.host.to_owned(),
            port: self.port,
            addresses: self.addresses,
            address: self.address.map(|ip| ip.to_string()),
            reason,
            text,
            advice: decisive
                .and_then(|stage| Some(steps.iter().find(|step| step.stage == stage)?.advice.clone()))
                .unwrap_or_default(),
            effect,
            steps,
            tls: self.tls,
            certificate: self.certificate,
            extensions: self.extensions,
            code,
        }
    }

    fn skipped(&self, stage: Stage) -> Step {
        let ended = !self.troubles.is_empty();
        let text = match stage {
            Stage::Auth if self.route.auth.is_none() => "the route has no credentials",
            Stage::Recipient if !ended => "no recipient was given",
            _ => "not reached",
        };
        let demanded = self.demanded(stage);
        Step { stage, result: Mark::Skipped, demanded, millis: 0, text: text.to_owned(), advice: Vec::new() }
    }

    fn advice(&self, stage: Stage) -> Vec<String> {
        let trouble = &self.troubles[&stage];
        match trouble {
            Trouble::Certificate(_) => {
                let names = self.certificate.as_ref().map(|facts| &facts.names[..]).unwrap_or_default();
                advice::certificate(self.wanted(), names)
            }
            trouble => advice::stage(stage, trouble, self.port, self.terms.mode),
        }
    }

    /// What is so, in one sentence.
    fn sentence(&self, decisive: Option<Stage>, reason: Reason) -> String {
        let Some(stage) = decisive else {
            let tls = self.tls.as_ref().map(|tls| tls.version.as_str()).unwrap_or_default();
            let until = self.certificate.as_ref().map(|facts| day(facts.not_after)).unwrap_or_default();
            if reason == Reason::Verified {
                return format!("{tls}, certificate valid until {until}");
            }
            let doubts: Vec<&str> = [Stage::ChainTrusted, Stage::HostnameMatches]
                .iter()
                .filter_map(|stage| self.steps.get(stage))
                .filter(|step| step.result == Mark::Failed)
                .map(|step| step.text.as_str())
                .collect();
            let would = match doubts.is_empty() {
                true => "it would pass both".to_owned(),
                false => format!("it would not pass: {}", doubts.join("; ")),
            };
            return format!(
                "{tls}, but nobody is sure who answers: the route does not ask for {} of the certificate; {would}",
                advice::unasked(self.route)
            );
        };
        let trouble = &self.troubles[&stage];
        let text = match trouble {
            // Both may be wrong, and who repairs one should hear of the other.
            Trouble::Certificate(text) => match (stage, self.steps.get(&Stage::HostnameMatches)) {
                (Stage::ChainTrusted, Some(name)) if name.result == Mark::Failed && name.demanded => {
                    format!("{text}; {}", name.text)
                }
                _ => text.clone(),
            },
            trouble => Problem::at(self.host, trouble.clone()).to_string(),
        };
        clean(&plain(&text))
    }
}

/// How the text of a refused certificate begins (spec R25).
pub const CANONICAL: &str = "Could not validate certificate: ";

/// Numbers of the operating system help nobody.
fn plain(text: &str) -> String {
    match text.split_once(" (os error ") {
        Some((before, after)) => {
            let rest = after.split_once(')').map_or("", |(_, rest)| rest);
            format!("{before}{rest}")
        }
        None => text.to_owned(),
    }
}

/// Adds what became of a host's other addresses.
pub fn with_others(mut best: HostProbe, others: &[HostProbe]) -> HostProbe {
    if others.is_empty() {
        return best;
    }
    let told = |probe: &HostProbe| {
        let address = probe.address.as_deref().unwrap_or_default();
        let failed = probe.steps.iter().find(|step| step.demanded && step.result == Mark::Failed);
        let text = failed.map_or(probe.text.as_str(), |step| step.text.as_str());
        format!(
            "{address} failed: {}",
            text.strip_prefix(&format!("{address}:{}: ", probe.port)).unwrap_or(text)
        )
    };
    let others: Vec<String> = others.iter().map(told).collect();
    if let Some(step) = best.steps.iter_mut().find(|step| step.stage == Stage::Connect) {
        step.text = format!("{}; {}", step.text, others.join("; "));
    }
    best
}

/// To the second, as certificates have it.
fn day(at: Timestamp) -> String {
    at.to_string()
}

fn facts(certificate: &CertificateDer<'_>) -> Option<CertificateFacts> {
    let (_, readable) = X509Certificate::from_der(certificate).ok()?;
    let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let mut names: Vec<String> = tls::names(&readable).iter().map(|name| clean(name)).collect();
    names.truncate(MAX_NAMES);
    Some(CertificateFacts {
        subject: clean(&readable.subject().to_string()),
        names,
        issuer: clean(&readable.issuer().to_string()),
        not_before: at(readable.validity().not_before.timestamp()),
        not_after: at(readable.validity().not_after.timestamp()),
    })
}
