//! The rules that matched → one fate (spec R122-R139), a pure function whose result depends on the
//! rank of its inputs and not on their order. `docs/precedence.md` is its table, written by a test.

pub(super) mod route;

use super::verdict::Spam;
use crate::bundle::document::{
    AddedRecipient, ChangeRecipient, DefaultRoute, Header, Modify, Quarantining, Reject, Smime,
};
use crate::mail::edit::{Footer, Removal};
use crate::mail::envelope::{RouteName, Via};

/// A rule that matched one recipient.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// Place in the order of rules (spec R123); 0 is best. No two rules share one.
    pub rank: usize,
    pub effect: Effect<'a>,
    pub reach: Reach,
    /// The rule matched the primary and this is a copy: what it modifies carries over (spec R97), except
    /// who the recipient is and who else gets one.
    pub carried: bool,
}

/// How a rule came to apply. A message between own users may be reached by its sender and by its recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// As mail that somebody of the organisation sends.
    pub sending: bool,
    /// As mail from outside.
    pub inbound: bool,
    /// Through a user: spam settings are not for groups and unrecognized addresses (spec R116).
    pub person: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    Reject(&'a Reject),
    Quarantine(&'a Quarantining),
    Modify(&'a Modify),
    /// The rule is broken, or its scan limit says so.
    Defer(&'a str),
}

/// What is true of the message and the gateway, whatever matched.
pub struct Setting<'a> {
    /// The message came over TLS.
    pub tls: bool,
    pub spam: Spam,
    pub default_route: Option<&'a DefaultRoute>,
    /// Why a route cannot be used.
    pub broken: &'a dyn Fn(&RouteName) -> Option<String>,
    /// Blatant spam vanishes instead of being refused (spec R83).
    pub drop_blatant: bool,
    /// Mail of normal routing carries the spam headers (spec R79); false for groups and unrecognized addresses.
    pub spam_headers: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<'a> {
    pub fate: Fate<'a>,
    /// Rank of a rule, and the `modify` fields of it that have no effect. In the order of rank.
    pub overridden: Vec<(usize, Vec<&'static str>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate<'a> {
    Reject {
        /// The rule whose refusal it is; `None` for blatant spam.
        rank: Option<usize>,
        why: Refusal<'a>,
    },
    Defer {
        /// The rule to blame; `None` for the gateway's default route.
        rank: Option<usize>,
        why: String,
    },
    /// Blatant spam that is dropped.
    Discard,
    Quarantine {
        /// The rule whose quarantine it is, and all that ask for one, best first (spec R128).
        by: &'a Quarantining,
        reasons: Vec<usize>,
        notify_sender: bool,
    },
    Deliver(Box<Changes<'a>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal<'a> {
    Notice(&'a Reject),
    /// The rule demands TLS and the message came in clear text (spec R93).
    ClearText,
    Spam,
}

/// All that is done to a message on its way to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<'a> {
    pub via: Via,
    pub recipient: Option<(usize, &'a ChangeRecipient)>,
    /// Some rule wants the first recipient told, should it be changed (spec R77).
    pub original_to: bool,
    /// With the rank of the rule that adds each, in the order of rank, without repetitions.
    pub headers: Vec<(usize, &'a Header)>,
    pub spam_headers: bool,
    /// What the classifier said, less what a rule waived (spec R139).
    pub spam: Spam,
    /// Best rank first, which is outermost; without repetitions.
    pub prefixes: Vec<&'a str>,
    /// The union of all (spec R137).
    pub removal: Option<Removal>,
    pub footers: Vec<&'a Footer>,
    pub strip_amp: bool,
    pub require_tls: bool,
    /// S/MIME encryption, and signature.
    pub encrypt: Option<Wish>,
    pub sign: Option<Wish>,
    pub suppress_bounces: bool,
    /// With the rank of the rule that adds each.
    pub copies: Vec<(usize, &'a AddedRecipient)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The rule that would refuse, else the first that wishes so.
    pub rank: usize,
    pub bounce_if_unable: bool,
}

/// Adds the wish of one more rule: it never weakens what is wished already.
fn wish(known: &mut Option<Wish>, one: Wish) {
    match known {
        Some(known) if known.bounce_if_unable || !one.bounce_if_unable => {}
        known => *known = Some(one),
    }
}

pub fn merge<'a>(matches: &[Match<'a>], setting: &Setting<'_>) -> Merged<'a> {
    let mut ordered = matches.to_vec();
    ordered.sort_by_key(|one| one.rank);

    // A bypass is for mail from outside to people (spec R89); elsewhere it is void (R139).
    let waived = ordered.iter().any(|one| match one.effect {
        Effect::Modify(modify) => waives_spam(one, modify),
        Effect::Reject(_) | Effect::Quarantine(_) | Effect::Defer(_) => false,
    });
    let spam = if waived { Spam::default() } else { setting.spam };

    // Reject beats everything, whatever its rank (R124, R126, R127). A rule that demands TLS rejects
    // what came without, at its own rank.
    let refusal = ordered.iter().find_map(|one| match one.effect {
        Effect::Reject(reject) => Some((one.rank, Refusal::Notice(reject))),
        Effect::Modify(modify) if modify.require_tls && !setting.tls => Some((one.rank, Refusal::ClearText)),
        Effect::Modify(_) | Effect::Quarantine(_) | Effect::Defer(_) => None,
    });
    if let Some((rank, why)) = refusal {
        return void(&ordered, Fate::Reject { rank: Some(rank), why });
    }
    if spam.blatant && !setting.drop_blatant {
        return void(&ordered, Fate::Reject { rank: None, why: Refusal::Spam });
    }
    let deferral = ordered.iter().find_map(|one| match one.effect {
        Effect::Defer(why) => Some((one.rank, why.to_owned())),
        Effect::Reject(_) | Effect::Quarantine(_) | Effect::Modify(_) => None,
    });
    if let Some((rank, why)) = deferral {
        return void(&ordered, Fate::Defer { rank: Some(rank), why });
    }
    // After the deferrals: nothing is dropped for good while a rule cannot be read.
    if spam.blatant {
        return void(&ordered, Fate::Discard);
    }
    if let Some(fate) = quarantine(&ordered) {
        return void(&ordered, fate);
    }
    let modifies = ordered.iter().filter_map(|one| match one.effect {
        Effect::Modify(modify) => Some((*one, modify)),
        Effect::Reject(_) | Effect::Quarantine(_) | Effect::Defer(_) => None,
    });
    let modifies: Vec<(Match<'a>, &'a Modify)> = modifies.collect();
    deliver(&ordered, &modifies, spam, setting)
}

fn waives_spam(one: &Match<'_>, modify: &Modify) -> bool {
    modify.bypass_spam_filter && one.reach.inbound && one.reach.person
}

/// Held once, in the best-ranked rule's quarantine, with all reasons (R128). Only the sender of an outgoing
/// message is told (R73).
fn quarantine<'a>(ordered: &[Match<'a>]) -> Option<Fate<'a>> {
    let held = ordered.iter().filter_map(|one| match one.effect {
        Effect::Quarantine(how) => Some((one, how)),
        Effect::Reject(_) | Effect::Modify(_) | Effect::Defer(_) => None,
    });
    let held: Vec<_> = held.collect();
    let (_, by) = *held.first()?;
    let notify_sender = held.iter().any(|(one, how)| how.notify_sender && one.reach.sending);
    Some(Fate::Quarantine { by, reasons: held.iter().map(|(one, _)| one.rank).collect(), notify_sender })
}

/// All modifications together.
fn deliver<'a>(
    ordered: &[Match<'a>],
    modifies: &[(Match<'a>, &'a Modify)],
    spam: Spam,
    setting: &Setting<'_>,
) -> Merged<'a> {
    let mut idle = Idle::default();
    let via = match route::decide(modifies, spam, setting, &mut idle) {
        Ok(via) => via,
        Err((rank, why)) => return void(ordered, Fate::Defer { rank, why }),
    };
    let default_headers = setting.spam_headers && via == Via::Normal;
    let mut changes = Changes {
        via,
        recipient: None,
        original_to: false,
        headers: Vec::new(),
        spam_headers: default_headers,
        spam,
        prefixes: Vec::new(),
        removal: None,
        footers: Vec::new(),
        strip_amp: false,
        require_tls: false,
        encrypt: None,
        sign: None,
        suppress_bounces: false,
        copies: Vec::new(),
    };
    for (one, modify) in modifies {
        // Spelled out: a field of `modify` that is forgotten here would be a promise not kept.
        let Modify {
            original_to_header,
            spam_headers,
            headers,
            subject_prefix,
            route: _,
            reroute_spam: _,
            suppress_bounces,
            envelope_recipient,
            bypass_spam_filter,
            remove_attachments,
            add_recipients,
            require_tls,
            smime,
            footer,
            strip_amp,
        } = modify;
        if !one.carried {
            match (envelope_recipient, &changes.recipient) {
                (Some(_), Some(_)) => idle.add(one.rank, "envelopeRecipient"),
                (Some(change), None) => changes.recipient = Some((one.rank, change)),
                (None, _) => {}
            }
            changes.original_to |= original_to_header;
            changes.copies.extend(add_recipients.iter().map(|added| (one.rank, added)));
        }
        match (spam_headers, one.reach.person) {
            (true, true) => changes.spam_headers = true,
            (true, false) => idle.add(one.rank, "spamHeaders"),
            (false, _) => {}
        }
        if *bypass_spam_filter && !waives_spam(one, modify) {
            idle.add(one.rank, "bypassSpamFilter");
        }
        for header in headers {
            let same =
                |known: &Header| known.name.eq_ignore_ascii_case(&header.name) && known.value == header.value;
            // `{rule}` differs by rule, so such values are told apart after they are filled in.
            if header.value.contains('{') || !changes.headers.iter().any(|(_, known)| same(known)) {
                changes.headers.push((one.rank, header));
            }
        }
        if let Some(prefix) = subject_prefix.as_deref()
            && !changes.prefixes.contains(&prefix)
        {
            changes.prefixes.push(prefix);
        }
        if let Some(removal) = remove_attachments {
            unite(changes.removal.get_or_insert_default(), removal);
        }
        if let Some(footer) = footer
            && !changes.footers.contains(&footer)
        {
            changes.footers.push(footer);
        }
        if let Some(smime) = smime {
            let Smime { encrypt, sign, bounce_if_unable } = *smime;
            let own = Wish { rank: one.rank, bounce_if_unable };
            if encrypt {
                wish(&mut changes.encrypt, own);
            }
            if sign {
                wish(&mut changes.sign, own);
            }
        }
        changes.suppress_bounces |= suppress_bounces;
        changes.require_tls |= require_tls;
        changes.strip_amp |= strip_amp;
    }
    Merged { fate: Fate::Deliver(Box::new(changes)), overridden: idle.in_order() }
}

/// Adds what `more` removes, each notice once (spec R137).
pub fn unite(removal: &mut Removal, more: &Removal) {
    let Removal { all, types, names, larger_than, notice } = more;
    removal.all |= all;
    for (known, new) in [(&mut removal.types, types), (&mut removal.names, names)] {
        for one in new {
            if !known.contains(one) {
                known.push(one.clone());
            }
        }
    }
    removal.larger_than = match (removal.larger_than, larger_than) {
        (Some(a), Some(b)) => Some(a.min(*b)),
        (a, b) => a.or(*b),
    };
    if let Some(notice) = notice {
        match &mut removal.notice {
            Some(known) if known.split('\n').any(|line| line == notice) || known == notice => {}
            Some(known) => {
                known.push('\n');
                known.push_str(notice);
            }
            none => *none = Some(notice.clone()),
        }
    }
}

/// Fields without effect, by rule.
#[derive(Default)]
struct Idle(Vec<(usize, Vec<&'static str>)>);

impl Idle {
    fn add(&mut self, rank: usize, field: &'static str) {
        match self.0.iter_mut().find(|(known, _)| *known == rank) {
            Some((_, fields)) => fields.push(field),
            None => self.0.push((rank, vec![field])),
        }
    }

    fn in_order(mut self) -> Vec<(usize, Vec<&'static str>)> {
        self.0.sort_by_key(|(rank, _)| *rank);
        self.0
    }
}

/// A fate that leaves no modification in force.
fn void<'a>(ordered: &[Match<'a>], fate: Fate<'a>) -> Merged<'a> {
    // What decided the fate was not overridden in that.
    let decisive = match &fate {
        Fate::Reject { rank: Some(rank), why: Refusal::ClearText } => Some((*rank, "encryption")),
        Fate::Defer { rank: Some(rank), .. } => Some((*rank, "route")),
        Fate::Reject { .. }
        | Fate::Defer { .. }
        | Fate::Discard
        | Fate::Quarantine { .. }
        | Fate::Deliver(_) => None,
    };
    let overridden = ordered.iter().filter_map(|one| match one.effect {
        Effect::Modify(modify) => {
            let idle = fields(modify).into_iter().filter(|field| decisive != Some((one.rank, *field)));
            Some((one.rank, idle.collect::<Vec<_>>()))
        }
        Effect::Reject(_) | Effect::Quarantine(_) | Effect::Defer(_) => None,
    });
    Merged { overridden: overridden.filter(|(_, fields)| !fields.is_empty()).collect(), fate }
}

/// The fields that are set, by the names their authors know.
fn fields(modify: &Modify) -> Vec<&'static str> {
    let Modify {
        original_to_header,
        spam_headers,
        headers,
        subject_prefix,
        route,
        reroute_spam: _,
        suppress_bounces: _,
        envelope_recipient,
        bypass_spam_filter,
        remove_attachments,
        add_recipients,
        require_tls,
        smime,
        footer,
        strip_amp,
    } = modify;
    let set = [
        ("route", route.is_some()),
        ("envelopeRecipient", envelope_recipient.is_some()),
        ("originalToHeader", *original_to_header),
        ("headers", !headers.is_empty()),
        ("spamHeaders", *spam_headers),
        ("subjectPrefix", subject_prefix.is_some()),
        ("bypassSpamFilter", *bypass_spam_filter),
        ("removeAttachments", remove_attachments.is_some()),
        ("addRecipients", !add_recipients.is_empty()),
        ("encryption", *require_tls || smime.is_some()),
        ("footer", footer.is_some()),
        ("stripAmp", *strip_amp),
    ];
    set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests;
