//! The merge step by step: which rule decided what, in the words of the fields its author wrote. It only tells;
//! `policy::merge` decides.

use serde::{Deserialize, Serialize};

use super::account::route;
use crate::bundle::Bundle;
use crate::bundle::document::{Action, ChangeRecipient, ChangeRoute, Mode, Modify, ObjectId};
use crate::mail::envelope::Via;
use crate::policy::verdict::{Disposition, Outcome, RuleTrace, Verdict};

/// One thing that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// A field of `modify`, or `reject`, `quarantine`, `defer`, `discard`, `routing`, `void`, `shadow`.
    pub step: String,
    /// What came of it, in words.
    pub result: String,
    /// The rules it comes from, best rank first.
    pub by: Vec<String>,
    /// Rules that wanted something else here and ranked lower.
    pub instead_of: Vec<String>,
}

impl Step {
    fn new(step: &str, result: impl Into<String>, by: Vec<String>) -> Self {
        Self { step: step.to_owned(), result: result.into(), by, instead_of: Vec::new() }
    }
}

struct Matched<'a> {
    trace: &'a RuleTrace,
    action: &'a Action,
}

/// Tells how the rules that matched came to one fate (spec R122-R139).
pub fn steps(bundle: &Bundle, verdict: &Verdict) -> Vec<Step> {
    let in_play = verdict.trace.iter().filter(|trace| trace.outcome.matched()).filter_map(|trace| {
        let rule = bundle.rules.iter().find(|rule| rule.origin.object == trace.rule)?;
        Some(Matched { trace, action: &rule.action })
    });
    let (shadow, enforced): (Vec<_>, Vec<_>) = in_play.partition(|rule| rule.trace.mode == Mode::Shadow);
    let mut steps = match &verdict.disposition {
        Disposition::Reject(rejection) => {
            refused(&enforced, "reject", format!("550 {}", rejection.code), &rejection.rule)
        }
        Disposition::Defer(deferral) => {
            let deferring = verdict.trace.iter().find_map(|trace| match &trace.outcome {
                Outcome::Deferred(why) if Some(&trace.rule) == deferral.object.as_ref() => Some(why.as_str()),
                _ => None,
            });
            let by = deferral.object.iter().map(ObjectId::to_string).collect();
            let mut steps = vec![Step::new("defer", deferring.unwrap_or("451, nothing is stored"), by)];
            steps.extend(void(&enforced, |_| true));
            steps
        }
        Disposition::Quarantine(hold) => {
            let name = hold.quarantine.as_ref().map_or("default", |name| &name.name);
            let by = hold.reasons.iter().map(|reason| reason.rule.to_string()).collect();
            let told = if hold.notify_sender { ", the sender is told" } else { "" };
            let mut steps = vec![Step::new("quarantine", format!("held in {name}{told}"), by)];
            let waiting = names(enforced.iter().filter(|rule| matches!(rule.action, Action::Modify(_))));
            if !waiting.is_empty() {
                steps.push(Step::new("void", "worked out anew on release", waiting));
            }
            steps
        }
        Disposition::Discard => {
            let mut steps = vec![Step::new("discard", "accepted and dropped: blatant spam", Vec::new())];
            steps.extend(void(&enforced, |_| true));
            steps
        }
        Disposition::Deliver(copies) => {
            let via = copies.iter().find(|copy| copy.copy_of.is_none()).map(|copy| &copy.via);
            delivered(bundle, &enforced, via)
        }
    };
    for rule in shadow {
        let would = match rule.action {
            Action::Reject(_) => "would reject",
            Action::Quarantine(_) => "would quarantine",
            Action::Modify(_) => "would modify",
        };
        steps.push(Step::new("shadow", would, vec![rule.trace.rule.to_string()]));
    }
    steps
}

fn names<'a>(rules: impl Iterator<Item = &'a Matched<'a>>) -> Vec<String> {
    rules.map(|rule| rule.trace.rule.to_string()).collect()
}

fn refused(enforced: &[Matched<'_>], step: &str, result: String, by: &ObjectId) -> Vec<Step> {
    let mut first = Step::new(step, result, vec![by.to_string()]);
    let others =
        enforced.iter().filter(|rule| matches!(rule.action, Action::Reject(_)) && rule.trace.rule != *by);
    first.instead_of = names(others);
    let mut steps = vec![first];
    steps.extend(void(enforced, |rule| !matches!(rule.action, Action::Reject(_)) && rule.trace.rule != *by));
    steps
}

/// Rules that matched and have no effect, because something stronger applies.
fn void(enforced: &[Matched<'_>], which: impl Fn(&Matched<'_>) -> bool) -> Option<Step> {
    let without = names(enforced.iter().filter(|rule| which(rule)));
    (!without.is_empty()).then(|| Step::new("void", "matched, without effect", without))
}

/// The fields of `modify` in the order in which they are told, each with what it says there.
type Saying = fn(&Modify) -> Option<String>;

const FIELDS: [(&str, Saying); 13] = [
    ("envelopeRecipient", |modify| modify.envelope_recipient.as_ref().map(changed)),
    ("route", |modify| modify.route.as_ref().map(route_name)),
    ("addRecipients", |modify| {
        let to = modify.add_recipients.iter().map(|added| added.address.to_string());
        Some(to.collect::<Vec<_>>().join(", ")).filter(|to| !to.is_empty())
    }),
    ("removeAttachments", |modify| {
        let removal = modify.remove_attachments.as_ref()?;
        Some(if removal.all { "all" } else { "some" }.to_owned())
    }),
    ("footer", |modify| modify.footer.as_ref().map(|_| "added".to_owned())),
    ("stripAmp", |modify| modify.strip_amp.then(|| "AMP parts taken out".to_owned())),
    ("subjectPrefix", |modify| modify.subject_prefix.as_ref().map(|prefix| format!("[{prefix}]"))),
    ("headers", |modify| {
        let headers = modify.headers.iter().map(|header| format!("{}: {}", header.name, header.value));
        Some(headers.collect::<Vec<_>>().join(", ")).filter(|headers| !headers.is_empty())
    }),
    ("originalToHeader", |modify| modify.original_to_header.then(|| "X-Gm-Original-To".to_owned())),
    ("spamHeaders", |modify| modify.spam_headers.then(|| "X-Gm-Spam, X-Gm-Phishy".to_owned())),
    ("bypassSpamFilter", |modify| modify.bypass_spam_filter.then(|| "not filtered".to_owned())),
    ("suppressBounces", |modify| modify.suppress_bounces.then(|| "no bounces to the sender".to_owned())),
    ("encryption", |modify| {
        let tls = modify.require_tls.then_some("TLS required");
        let smime = modify.smime.map(|smime| match (smime.sign, smime.encrypt, smime.bounce_if_unable) {
            (false, _, true) => "S/MIME, or rejected",
            (false, _, false) => "S/MIME where a certificate is known",
            (true, false, true) => "signed (S/MIME), or rejected",
            (true, false, false) => "signed (S/MIME) where a certificate is known",
            (true, true, true) => "signed and encrypted (S/MIME), or rejected",
            (true, true, false) => "signed and encrypted (S/MIME) where certificates are known",
        });
        let asked: Vec<_> = tls.into_iter().chain(smime).collect();
        (!asked.is_empty()).then(|| asked.join(", "))
    }),
];

fn delivered(bundle: &Bundle, enforced: &[Matched<'_>], via: Option<&Via>) -> Vec<Step> {
    let modifies: Vec<(&RuleTrace, &Modify)> = enforced
        .iter()
        .filter_map(|rule| match rule.action {
            Action::Modify(modify) => Some((rule.trace, &**modify)),
            Action::Reject(_) | Action::Quarantine(_) => None,
        })
        .collect();
    let mut steps = Vec::new();
    for (field, saying) in FIELDS {
        let mut said: Vec<String> = Vec::new();
        let mut step = Step::new(field, "", Vec::new());
        for (trace, modify) in &modifies {
            let Some(text) = saying(modify) else { continue };
            let rule = trace.rule.to_string();
            // What a better-ranked rule decided about the route holds for what belongs to it.
            let belongs = if field == "suppressBounces" { "route" } else { field };
            if trace.overridden.contains(&belongs) || trace.overridden.contains(&field) {
                step.instead_of.push(rule);
                continue;
            }
            if !said.contains(&text) {
                said.push(text);
            }
            step.by.push(rule);
        }
        if !step.by.is_empty() || !step.instead_of.is_empty() {
            step.result = said.join(", ");
            steps.push(step);
        }
    }
    if let Some(Via::Normal) = via {
        let way = route(bundle, &Via::Normal);
        let way = way.map_or_else(
            || "the MX hosts of the recipient's domain".to_owned(),
            |name| match name.as_str() {
                "default" => "the default route".to_owned(),
                name => format!("the default route {name}"),
            },
        );
        steps.push(Step::new("routing", way, Vec::new()));
    }
    steps
}

fn route_name(route: &ChangeRoute) -> String {
    match route {
        ChangeRoute::To(name) => name.name.clone(),
        ChangeRoute::Missing(name) => format!("{} (missing)", name.name),
    }
}

fn changed(change: &ChangeRecipient) -> String {
    match change {
        ChangeRecipient::Address(address) => address.to_string(),
        ChangeRecipient::User(user) => format!("{user}@ the same domain"),
        ChangeRecipient::Domain(domain) => format!("the same user @{domain}"),
    }
}
