//! What an author should know of a rule that is fine as it is: spec R32 (signatures it voids), R40
//! (descriptions), R52 (how the entries of a word list are read), R102 (mail that leaves the organisation),
//! R104 (S/MIME without certificates), R113 (senders anybody can claim).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::named::{Known, ways};
use crate::api::OutboundGatewaySpec;
use crate::api::conditions::{ConditionType, Reason};
use crate::bundle::document::{
    Action, ChangeRecipient, ChangeRoute, Content, Direction, Header, ListMatch, ListMode, Modify, ObjectId,
    ObjectName, Route, RouteTarget, Rule, Smime, UnitPath,
};
use crate::mail::address::{Domain, Host, Mailbox};
use crate::mail::envelope::RouteName;
use crate::policy::pattern::{HowRead, how_read};
use crate::translate::order::Pass;
use crate::translate::problem::{Findings, Outcome, Problem};
use crate::translate::resources::{LastGood, ObjectKey};

fn remark(path: &str, kind: ConditionType, reason: Reason, message: impl Into<String>) -> Problem {
    Problem::new(path, reason, message, kind).warning()
}

/// Remarks on the form of a rule that is in force.
pub fn of_rule(pass: &Pass<'_>, known: &Known<'_>, rule: &Rule, findings: &mut Findings) {
    if let Action::Modify(modify) = &rule.action {
        signatures(pass, modify, findings);
        if let Some(smime) = modify.smime {
            disabled(pass, smime, findings);
        }
    }
    claimed(known, rule, findings);
    if let Some(content) = &rule.content {
        entries(content, findings);
    }
}

/// S/MIME that cannot be, because the gateway has nothing to do it with (spec R104).
fn disabled(pass: &Pass<'_>, smime: Smime, findings: &mut Findings) {
    let Facts { encrypts, signs, .. } = pass.facts;
    let (what, where_) = match (smime.encrypt && !encrypts, smime.sign && !signs) {
        (false, false) => return,
        (true, false) => ("no certificates of recipients, so nothing can be encrypted", "certificatesFrom"),
        (false, true) => ("no certificates of senders, so nothing can be signed", "signingFrom"),
        (true, true) => {
            ("no certificates, so nothing can be encrypted or signed", "certificatesFrom and signingFrom")
        }
    };
    let then = match smime.bounce_if_unable {
        true => "mail is refused (bounceIfUnable)",
        false => "mail goes as it is",
    };
    let message = format!("the gateway has {what} (its `smime` names none in {where_}): {then}");
    let path = "spec.action.modify.encryption.smime";
    findings.push(remark(path, ConditionType::SMIMEDisabled, Reason::NoCertificates, message));
}

/// How entries of the word list are read that are no single whole words (spec R52).
fn entries(content: &Content, findings: &mut Findings) {
    const SHOWN: usize = 5;
    let asked: HashSet<&str> = content.word_options.substrings.iter().map(String::as_str).collect();
    let mut read: BTreeMap<&str, (usize, Vec<String>)> = BTreeMap::new();
    for word in content.words.iter().filter(|word| !asked.contains(word.as_str())) {
        let how = how_read(word);
        // What has nothing visible is an error, told where lists are compiled.
        if !matches!(how, HowRead::Word | HowRead::Nothing) {
            let (count, shown) = read.entry(how.as_str()).or_default();
            *count += 1;
            if shown.len() < SHOWN {
                shown.push(format!("{word:?}"));
            }
        }
    }
    if read.is_empty() {
        return;
    }
    let groups = read.into_iter().map(|(how, (count, shown))| {
        let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
        format!("{how}: {}{more}", shown.join(", "))
    });
    let message = format!("entries are read as {}", groups.collect::<Vec<_>>().join("; as "));
    findings.push(remark("spec.match", ConditionType::WordsNotPlain, Reason::ReadAsFollows, message));
}

/// Which changes void a signature made before the gateway.
fn signatures(pass: &Pass<'_>, modify: &Modify, findings: &mut Findings) {
    let changes: Vec<&str> = [
        (modify.subject_prefix.is_some(), "subjectPrefix"),
        (modify.remove_attachments.is_some(), "removeAttachments"),
        (modify.footer.is_some(), "footer"),
        (modify.strip_amp, "stripAmp"),
        (modify.smime.is_some(), "encryption.smime"),
        (modify.headers.iter().any(is_signed), "headers"),
        (
            modify.add_recipients.iter().any(|a| {
                a.subject_prefix.is_some()
                    || a.remove_attachments.is_some()
                    || a.headers.iter().any(is_signed)
            }),
            "addRecipients",
        ),
    ]
    .into_iter()
    .filter_map(|(given, name)| given.then_some(name))
    .collect();
    let Some(first) = changes.first() else { return };
    let path = format!("spec.action.modify.{first}");
    let covered = |domain: &&Domain| pass.facts.dkim.iter().any(|key| domain.is_within(key));
    let unsigned: Vec<&str> = pass.facts.own.iter().filter(|d| !covered(d)).map(Domain::as_str).collect();
    let what = format!("{} voids DKIM signatures that were made before the gateway", changes.join(", "));
    let (reason, message) = if pass.facts.dkim.is_empty() || !unsigned.is_empty() {
        let whose = match unsigned.as_slice() {
            [] => "the sending domains".to_owned(),
            domains => domains.join(", "),
        };
        let advice = "add it to the gateway's dkim, or see to it that SPF authorises the gateway";
        (Reason::NoSigningKey, format!("{what}, and no signing key is configured for {whose}: {advice}"))
    } else {
        (Reason::SignedAgain, format!("{what}; the gateway signs what it changed with its own keys"))
    };
    findings.push(remark(&path, ConditionType::BreaksUpstreamDKIM, reason, message));
}

/// Whether signers commonly put this field into `h=`, so that one more of it voids their signature. Fields that are
/// always signed cannot be added at all.
fn is_signed(header: &Header) -> bool {
    const NAMES: [&str; 13] = [
        "Sender",
        "Reply-To",
        "In-Reply-To",
        "References",
        "List-Id",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "List-Post",
        "List-Owner",
        "List-Archive",
        "List-Help",
        "List-Subscribe",
        "Feedback-ID",
    ];
    let resent = header.name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("resent-"));
    resent || NAMES.iter().any(|name| name.eq_ignore_ascii_case(&header.name))
}

/// An exemption that anybody can have who writes the right From.
fn claimed(known: &Known<'_>, rule: &Rule, findings: &mut Findings) {
    let Some(lists) = &rule.lists else { return };
    let receives = |m: &Direction| matches!(m, Direction::Inbound | Direction::InternalReceiving);
    let by_sender = lists.by == ListMatch::Correspondent && rule.messages.iter().any(receives);
    if lists.mode != ListMode::Bypass || !by_sender {
        return;
    }
    let open = |name: &&ObjectName| {
        known
            .lists
            .get(*name)
            .is_some_and(|list| list.entries.shards.iter().any(|s| !s.unauthenticated.is_empty()))
    };
    let open: Vec<String> = lists.names.iter().filter(open).map(ToString::to_string).collect();
    if !open.is_empty() {
        let message = format!(
            "AddressList {} has entries with requireAuthentication: false: whoever claims such an address \
             is exempt from this rule",
            open.join(", ")
        );
        let kind = ConditionType::UnauthenticatedBypass;
        findings.push(remark("spec.addressLists", kind, Reason::SpoofingPossible, message));
    }
}

/// Where a rule sends mail outside the organisation (spec R102): refused, or a warning where the gateway
/// names no targets.
pub fn external_targets(pass: &Pass<'_>, known: &Known<'_>, modify: &Modify, findings: &mut Findings) {
    const PATH: &str = "spec.action.modify";
    let mut outside: Vec<(String, String)> = Vec::new();
    let mut check = |path: String, targets: Vec<String>| {
        outside
            .extend(targets.into_iter().filter(|at| pass.facts.is_outside(at)).map(|at| (path.clone(), at)));
    };
    let of = |change: &ChangeRecipient| match change {
        ChangeRecipient::Address(address) => vec![host_of(address)],
        ChangeRecipient::Domain(domain) => vec![domain.ascii().to_owned()],
        ChangeRecipient::User(_) => Vec::new(),
    };
    if let Some(change) = &modify.envelope_recipient {
        check(format!("{PATH}.envelopeRecipient"), of(change));
    }
    for (at, added) in modify.add_recipients.iter().enumerate() {
        let path = format!("{PATH}.addRecipients[{at}]");
        let changed = added.envelope_recipient.as_ref().filter(|c| !matches!(c, ChangeRecipient::User(_)));
        match changed {
            Some(change) => check(format!("{path}.envelopeRecipient"), of(change)),
            None => check(format!("{path}.address"), vec![host_of(&added.address)]),
        }
    }
    for (path, route) in ways(modify) {
        let (ChangeRoute::To(name) | ChangeRoute::Missing(name)) = route;
        check(path, known.routes.get::<RouteName>(name).map(|route| hosts(route)).unwrap_or_default());
    }
    let Some((path, _)) = outside.first() else { return };
    let path = path.clone();
    if pass.facts.allowed.is_some() {
        for (path, target) in outside {
            let message = format!(
                "{target} is outside the organisation and not among allowedExternalTargets of OutboundGateway {}",
                pass.gateway
            );
            let reason = Reason::ExternalTargetNotAllowed;
            findings.push(Problem::new(path, reason, message, ConditionType::Accepted));
        }
        return;
    }
    let mut targets: Vec<String> = outside.into_iter().map(|(_, target)| target).collect();
    targets.sort();
    targets.dedup();
    let shown = targets.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if targets.len() > 5 { format!(" and {} more", targets.len() - 5) } else { String::new() };
    let message = format!(
        "mail leaves to {shown}{more}, and the gateway does not say where rules may send to: set its \
         allowedExternalTargets"
    );
    let kind = ConditionType::ExternalTargetUnchecked;
    findings.push(remark(&path, kind, Reason::AllowedExternalTargetsUnset, message));
}

fn host_of(address: &Mailbox) -> String {
    match address.host() {
        Host::Domain(domain) => domain.ascii().to_owned(),
        Host::Literal(ip) => ip.to_string(),
    }
}

/// The hosts a route leads to; none where the recipient's own domain decides.
pub(super) fn hosts(route: &Route) -> Vec<String> {
    match &route.target {
        RouteTarget::Hosts { primary, secondary } => {
            primary.iter().chain(secondary).map(|host| host.at.host.clone()).collect()
        }
        RouteTarget::MxOf(domains) => domains.iter().map(|at| at.host.clone()).collect(),
        RouteTarget::RecipientMx => Vec::new(),
    }
}

/// What is known of the gateway before its own record is made: rules and directories are held against it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The Directory it names.
    pub directory: Option<ObjectKey>,
    /// The organisation's own domains.
    pub own: Vec<Domain>,
    /// Domains and addresses outside that rules may send to; `None`: the gateway does not say.
    pub allowed: Option<(Vec<Domain>, Vec<IpAddr>)>,
    /// Domains it can sign for.
    pub dkim: Vec<Domain>,
    /// It has certificates of recipients.
    pub encrypts: bool,
    /// It has certificates of senders with their keys.
    pub signs: bool,
}

impl Facts {
    /// As the gateway's author wrote them; what cannot be read is the gateway's own problem.
    pub fn written(namespace: &str, spec: &OutboundGatewaySpec) -> Self {
        let domains = |texts: &mut dyn Iterator<Item = &String>| -> Vec<Domain> {
            texts.filter_map(|text| Domain::parse(text).ok()).collect()
        };
        let targets = &spec.allowed_external_targets;
        let addresses: Vec<IpAddr> = targets.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            directory: spec.directory_ref.as_ref().map(|named| ObjectKey::new(namespace, &named.name)),
            own: domains(&mut spec.domains.iter()),
            allowed: (!targets.is_empty()).then(|| (domains(&mut targets.iter()), addresses)),
            dkim: domains(&mut spec.dkim.iter().map(|key| &key.domain)),
            encrypts: spec.smime.as_ref().is_some_and(|smime| !smime.certificates_from.is_empty()),
            signs: spec.smime.as_ref().is_some_and(|smime| !smime.signing_from.is_empty()),
        }
    }

    /// Of a gateway that cannot be read: what was published. Which targets it allows is not known, so
    /// nothing new goes outside.
    pub fn kept(last: Option<&LastGood>) -> Self {
        let Some(LastGood { bundle, .. }) = last else { return Self::default() };
        let directory = bundle.directory.as_ref().map(|directory| &directory.origin.object);
        Self {
            directory: directory.map(|object| ObjectKey::new(&object.namespace, &object.name)),
            own: bundle.gateway.domains.clone(),
            allowed: Some((Vec::new(), Vec::new())),
            dkim: bundle.gateway.dkim.iter().map(|key| key.domain.clone()).collect(),
            encrypts: !bundle.gateway.smime.is_empty(),
            signs: !bundle.gateway.smime_signers.is_empty(),
        }
    }

    fn is_outside(&self, target: &str) -> bool {
        let (domains, addresses) = self.allowed.as_ref().map_or((&[][..], &[][..]), |(d, a)| (d, a));
        match target.parse::<IpAddr>() {
            Ok(address) => !is_private(address) && !addresses.contains(&address),
            Err(_) => Domain::parse(target)
                .is_ok_and(|target| !self.own.iter().chain(domains).any(|domain| target.is_within(domain))),
        }
    }
}

/// Addresses that lead nowhere but inside.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Descriptions that two rules of one unit share (spec R40).
pub fn same_descriptions(rules: &[Arc<Rule>], outcomes: &mut [Outcome]) {
    let mut holders: HashMap<(&UnitPath, &str), Vec<&ObjectId>> = HashMap::new();
    for rule in rules.iter().filter(|rule| !rule.description.trim().is_empty()) {
        holders.entry((&rule.unit, rule.description.trim())).or_default().push(&rule.origin.object);
    }
    let shared: HashMap<&ObjectId, &Vec<&ObjectId>> = holders
        .values()
        .filter(|objects| objects.len() > 1)
        .flat_map(|objects| objects.iter().map(move |object| (*object, objects)))
        .collect();
    if shared.is_empty() {
        return;
    }
    for outcome in outcomes {
        let Some(objects) = shared.get(&outcome.origin.object) else { continue };
        let others = objects.iter().filter(|object| ***object != outcome.origin.object);
        let mut others: Vec<String> = others.map(ToString::to_string).collect();
        others.sort();
        others.truncate(5);
        let message = format!("{} in the same unit has the same description", others.join(", "));
        let kind = ConditionType::DescriptionNotUnique;
        outcome.warnings.push(remark("spec.description", kind, Reason::SameDescription, message));
    }
}
