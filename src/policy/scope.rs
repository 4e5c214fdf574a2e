//! Who a rule is for: which way the message goes for this recipient, whose account and unit that makes it
//! about, lists, group filters (spec R41, R108-R120). What the message says is asked elsewhere, later.

mod address;

pub(super) use self::address::{AddressCode, Facts, Tests};
use super::compile::{Policy, RuleCode};
use super::directory::{Standing, refuses_unknown};
use super::lists::{self, Senders};
use super::merge::Reach;
use super::verdict::{SenderSource, SenderTrace, Transaction};
use crate::bundle::document::{AccountType, Direction, ObjectName, Rule, UnitPath};
use crate::mail::address::Mailbox;

/// One end of a message as rules see it.
#[derive(Debug, Clone)]
pub(super) struct Party<'a> {
    pub own: bool,
    pub standing: Standing<'a>,
    /// Which tests of addresses hold.
    pub facts: Facts,
    /// Ranks of the rules that its unit switched off.
    disabled: Vec<usize>,
}

/// The end that sends, and why it is this one.
pub(super) struct Sender<'a> {
    pub party: Party<'a>,
    source: SenderSource,
    address: Option<Mailbox>,
}

impl<'a> Sender<'a> {
    /// Whom the client has proved to be, else the envelope sender (spec R117); a null sender is judged by From
    /// (design section 9), by its first own address if it has one. A message that tells neither counts as the organisation's own, since one of its clients sent it.
    pub fn of(policy: &'a Policy, transaction: &Transaction<'_>, from: &[Mailbox]) -> Self {
        let envelope = transaction.envelope.sender.mailbox.as_ref();
        let (source, address) = match (transaction.identity, envelope) {
            (Some(mailbox), _) => (SenderSource::Authenticated, Some(mailbox)),
            (None, Some(mailbox)) => (SenderSource::Envelope, Some(mailbox)),
            (None, None) => match from.iter().find(|mailbox| policy.is_own(mailbox)).or(from.first()) {
                Some(mailbox) => (SenderSource::From, Some(mailbox)),
                None => (SenderSource::Nobody, None),
            },
        };
        let own = address.is_none_or(|mailbox| policy.is_own(mailbox));
        let standing = match address {
            Some(mailbox) if own => policy.people.own(policy.bundle(), mailbox, false),
            Some(_) => policy.people.outsider(),
            None => Standing { known: policy.bundle().directory.is_none(), ..policy.people.outsider() },
        };
        let facts = policy.sender_tests.facts(policy, envelope, standing.groups);
        let party = Party { own, standing, facts, disabled: policy.people.disabled_in(standing.unit) };
        Self { party, source, address: address.cloned() }
    }

    pub fn trace(&self) -> SenderTrace {
        let Standing { account, unit, .. } = self.party.standing;
        SenderTrace { source: self.source, address: self.address.clone(), account, unit: unit.clone() }
    }

    /// Whether the directory turns this sender away (spec R117).
    pub fn is_refused(&self, policy: &Policy) -> bool {
        self.party.own && !self.party.standing.known && refuses_unknown(policy.bundle())
    }
}

impl<'a> Party<'a> {
    pub fn recipient(policy: &'a Policy, mailbox: &Mailbox) -> Self {
        let own = policy.is_own(mailbox);
        let mut standing = match own {
            true => policy.people.own(policy.bundle(), mailbox, true),
            false => policy.people.outsider(),
        };
        let facts = policy.recipient_tests.facts(policy, Some(mailbox), standing.groups);
        // Recipients alike share a class, so only what rules can tell apart is kept of the unit.
        if !policy.names_units {
            standing.unit = policy.people.told_apart(standing.unit);
        }
        Self { own, standing, facts, disabled: Vec::new() }
    }

    /// What recipients of one class have in common.
    pub fn class(&self) -> (bool, AccountType, &'a UnitPath, Facts) {
        (self.own, self.standing.account, self.standing.unit, self.facts.clone())
    }

    /// Looks up what the unit switched off: once for each class.
    pub fn with_disabled(mut self, policy: &Policy) -> Self {
        self.disabled = policy.people.disabled_in(self.standing.unit);
        self
    }
}

/// Which ways a message goes. What passes from outside to outside leaves, so rules for outgoing mail apply.
pub(super) fn directions(own_sender: bool, own_recipient: bool) -> &'static [Direction] {
    match (own_sender, own_recipient) {
        (_, false) => &[Direction::Outbound],
        (false, true) => &[Direction::Inbound],
        (true, true) => &[Direction::InternalSending, Direction::InternalReceiving],
    }
}

/// The ends that a message is about.
pub(super) fn parties<'p, 'a>(
    sender: &'p Party<'a>,
    recipient: &'p Party<'a>,
) -> impl Iterator<Item = &'p Party<'a>> {
    let ways = directions(sender.own, recipient.own).iter();
    ways.map(move |direction| if is_sent(*direction) { sender } else { recipient })
}

/// Whether a message of this direction is about its sender.
fn is_sent(direction: Direction) -> bool {
    match direction {
        Direction::Outbound | Direction::InternalSending => true,
        Direction::Inbound | Direction::InternalReceiving => false,
    }
}

/// Whether a rule is for a message to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope<'a> {
    /// A clause does not hold.
    Outside(&'static str),
    /// A list exempts from the rule.
    Bypassed(ObjectName),
    Inside {
        reach: Reach,
        /// The unit of the account the rule came to apply through.
        unit: &'a UnitPath,
        /// It depends on something that cannot be read: what matches must wait.
        uncertain: Option<String>,
    },
}

/// How far a direction got before a clause did not hold; the furthest is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Short {
    Account,
    Unit,
    Disabled,
    ListNotMatched,
    Sender,
    Recipient,
    Bypassed(ObjectName),
}

pub(super) fn scope<'a>(
    policy: &'a Policy,
    rank: usize,
    senders: &mut Senders<'_>,
    sender: &Party<'a>,
    recipient: &Party<'a>,
) -> Scope<'a> {
    let code = &policy.rules[rank];
    let ways = directions(sender.own, recipient.own);
    let mut short: Option<Short> = None;
    let mut inside: Option<(Reach, &UnitPath, bool)> = None;
    for direction in code.directions.iter().copied().filter(|direction| ways.contains(direction)) {
        let party = if is_sent(direction) { sender } else { recipient };
        match along(policy, rank, direction, party, senders, sender, recipient) {
            Err(clause) => short = short.max(Some(clause)),
            Ok(uncertain) => {
                let (reach, _, unsure) =
                    inside.get_or_insert((Reach::default(), party.standing.unit, uncertain));
                reach.sending |= is_sent(direction);
                reach.inbound |= direction == Direction::Inbound;
                reach.person |= party.standing.account == AccountType::Users;
                // One way that is certain makes the whole so.
                *unsure &= uncertain;
            }
        }
    }
    match (inside, short) {
        (Some((reach, unit, unsure)), _) => {
            let directory =
                || directory_broken(policy).map(|why| format!("the Directory cannot be read: {why}"));
            let uncertain = code.uncertain.clone().or_else(|| if unsure { directory() } else { None });
            Scope::Inside { reach, unit, uncertain }
        }
        (None, None) => Scope::Outside("messages"),
        (None, Some(short)) => match short {
            Short::Account => Scope::Outside("accountTypes"),
            Short::Unit => Scope::Outside("organizationalUnit"),
            Short::Disabled => Scope::Outside("disabledRules"),
            Short::ListNotMatched => Scope::Outside("addressLists"),
            Short::Sender => Scope::Outside("envelope.senders"),
            Short::Recipient => Scope::Outside("envelope.recipients"),
            Short::Bypassed(list) => Scope::Bypassed(list),
        },
    }
}

/// One direction: does the rule apply, and does that hang on a directory that cannot be read?
fn along(
    policy: &Policy,
    rank: usize,
    direction: Direction,
    party: &Party<'_>,
    senders: &mut Senders<'_>,
    sender: &Party<'_>,
    recipient: &Party<'_>,
) -> Result<bool, Short> {
    let code = &policy.rules[rank];
    let rule = policy.rule(code);
    let uncertain =
        party.own && directory_broken(policy).is_some() && depends_on_directory(code, rule, direction);
    if !uncertain {
        if !rule.accounts.contains(&party.standing.account) {
            return Err(Short::Account);
        }
        if !party.standing.unit.is_within(&rule.unit) {
            return Err(Short::Unit);
        }
        if party.disabled.binary_search(&rank).is_ok() {
            return Err(Short::Disabled);
        }
    }
    if let Some(lists) = &code.lists {
        let by_sender = !is_sent(direction) && !lists.recipient_only;
        let found = match (by_sender, lists.bypass) {
            (true, true) => senders.all_listed(&lists.lists),
            (true, false) => senders.any_listed(&lists.lists).then_some(0),
            (false, _) => lists.lists.iter().copied().find(|list| recipient.facts.listed(*list)),
        };
        match (found, lists.bypass) {
            (Some(list), true) => return Err(Short::Bypassed(lists::name(policy, list))),
            // A list that is not there could hold anybody; the rule defers then.
            (None, false) if code.uncertain.is_none() => return Err(Short::ListNotMatched),
            _ => {}
        }
    }
    // Groups filter senders of sent mail and recipients of received mail, nobody else (R119).
    let unknown = uncertain || code.uncertain.is_some();
    if code.senders.is_some_and(|test| test.misses(&sender.facts, is_sent(direction), unknown)) {
        return Err(Short::Sender);
    }
    if code.recipients.is_some_and(|test| test.misses(&recipient.facts, !is_sent(direction), unknown)) {
        return Err(Short::Recipient);
    }
    Ok(uncertain)
}

fn directory_broken(policy: &Policy) -> Option<&str> {
    policy.bundle().directory.as_ref()?.broken.as_deref()
}

/// Whether what the directory says of an account decides over this rule: all but mandatory rules of the root
/// for every type of account, since units could have switched the others off.
fn depends_on_directory(code: &RuleCode, rule: &Rule, direction: Direction) -> bool {
    let possible: &[AccountType] = match is_sent(direction) {
        true => &[AccountType::Users, AccountType::Groups],
        false => &[AccountType::Users, AccountType::Groups, AccountType::Unrecognized],
    };
    let by_groups = [code.senders, code.recipients].into_iter().flatten().any(|test| test.by_groups);
    let for_all = possible.iter().all(|account| rule.accounts.contains(account));
    !(rule.mandatory && rule.unit.depth() == 0 && for_all && !by_groups)
}
