//! Conditions: their closed lists of types and reasons, and the one function that merges them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $word:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $word,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$word),*];

            pub const fn as_str(self) -> &'static str {
                match self { $($name::$word => stringify!($word),)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Types of conditions. The first four are on every object; the others only where they mean something.
    ConditionType {
        /// The object was understood.
        Accepted,
        /// Everything it names exists and may be used.
        ResolvedRefs,
        /// The bundle that holds this generation is published.
        Programmed,
        /// Every serving pod decides its next transaction by this generation.
        Ready,
        /// Routes: the hosts pass the TLS test on the terms of the route.
        TLSVerified,
        /// Gateways: some client may relay.
        AcceptsMail,
        /// Gateways: the SPF records of its domains let mail come from every address it leaves by.
        SPFAligned,
        /// Gateways with signing keys: receivers find the public half of each.
        DKIMPublished,
        /// Gateways, only when true: what DNS says of client networks is not taken over.
        ClientRangesHeld,
        /// Gateways, only when true: a broken rule makes mail wait.
        MailDeferred,
        /// Gateways, only when true: pods are to leave and their mail is not elsewhere yet.
        ScalingDown,
        /// Rules, only when true: another rule makes it have less effect than it says. Blocks nothing.
        Conflicted,
        /// Only when true: nothing but a change by its author helps.
        Stalled,
        /// Rules, only when true: it changes what upstream DKIM signatures cover.
        BreaksUpstreamDKIM,
        /// Lists and rules, only when true: an exemption that anybody can claim.
        UnauthenticatedBypass,
        /// Rules, only when true: it wants S/MIME and there are no certificates.
        SMIMEDisabled,
        /// Rules, only when true: mail leaves the organisation, and the gateway names no allowed targets.
        ExternalTargetUnchecked,
        /// Rules, only when true: another rule of the unit has the same description.
        DescriptionNotUnique,
        /// Rules, only when true: entries of its word list are more, or other, than single whole words.
        WordsNotPlain,
    }
}

impl ConditionType {
    /// Those that are shown only while something warns.
    pub const WARNINGS: &'static [ConditionType] = &[
        ConditionType::ClientRangesHeld,
        ConditionType::ScalingDown,
        ConditionType::Conflicted,
        ConditionType::BreaksUpstreamDKIM,
        ConditionType::UnauthenticatedBypass,
        ConditionType::SMIMEDisabled,
        ConditionType::ExternalTargetUnchecked,
        ConditionType::DescriptionNotUnique,
        ConditionType::WordsNotPlain,
    ];

    /// Those that are shown only while something is found of what they speak of.
    pub const FINDINGS: &'static [ConditionType] = &[ConditionType::SPFAligned, ConditionType::DKIMPublished];
}

words! {
    /// Reasons of conditions.
    Reason {
        // Positive
        Accepted,
        ResolvedRefs,
        Programmed,
        Ready,
        AcceptsMail,
        // Accepted=False
        Invalid,
        PatternInvalid,
        Malformed,
        ExternalTargetNotAllowed,
        // ResolvedRefs=False
        GatewayNotFound,
        GatewayNotAllowed,
        RouteNotFound,
        SecretNotFound,
        SecretNotAllowed,
        ConfigMapNotFound,
        KeyNotFound,
        CertificateInvalid,
        ListNotFound,
        QuarantineNotFound,
        GroupNotFound,
        DirectoryNotFound,
        UnitNotFound,
        RuleNotFound,
        RuleMandatory,
        LdapNotRead,
        KeyInvalid,
        NotAnswered,
        RangesRefused,
        // Programmed
        Pending,
        NotAccepted,
        BundleTooLarge,
        CompileFailed,
        PublishFailed,
        NoStorageClass,
        // Ready
        RollingOut,
        NoServingPods,
        ConfigRejected,
        LastGoodInForce,
        Disabled,
        // TLSVerified
        Verified,
        Unauthenticated,
        ResolveFailed,
        ConnectFailed,
        EhloFailed,
        StartTlsNotOffered,
        HandshakeFailed,
        CertUntrusted,
        CertNameMismatch,
        CertExpired,
        AuthFailed,
        ProbeDisabled,
        NotTestedYet,
        // AcceptsMail, MailDeferred, Stalled
        NoClients,
        RuleBroken,
        RouteMissing,
        NeedsAuthor,
        // ScalingDown
        HandingOver,
        NoPeer,
        // SPFAligned
        SPFAligned,
        SPFMissing,
        SPFInvalid,
        AddressMissing,
        UpstreamMissing,
        PublicAddressUnknown,
        NoDomains,
        // DKIMPublished
        DKIMPublished,
        KeyNotPublished,
        KeyMismatch,
        // Warnings
        NoSigningKey,
        SignedAgain,
        NoCertificates,
        SpoofingPossible,
        AllowedExternalTargetsUnset,
        SameDescription,
        ReadAsFollows,
        GroupCycle,
        NotUsed,
        // Conflicted
        Overridden,
        Shadowed,
        Unreachable,
        TlsRequiredButRoutePlain,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    True,
    False,
    Unknown,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            State::True => "True",
            State::False => "False",
            State::Unknown => "Unknown",
        }
    }
}

/// What one condition should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: ConditionType,
    pub state: State,
    pub reason: Reason,
    pub message: String,
}

impl Verdict {
    pub fn new(kind: ConditionType, state: State, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, state, reason, message: message.into() }
    }
}

/// Longest message the schema takes; longer ones are cut at a character.
const MAX_MESSAGE: usize = 8192;

/// Puts `verdicts` into `conditions`, replacing those of the same type; others stay. The transition time
/// is kept while the status stays the same, `observedGeneration` is always the given one. Sorted by type,
/// so that equal content is an equal status.
pub fn merge(conditions: &mut Vec<Condition>, verdicts: Vec<Verdict>, generation: i64, now: Timestamp) {
    for verdict in verdicts {
        let Verdict { kind, state, reason, mut message } = verdict;
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let last = conditions.iter().position(|condition| condition.type_ == kind.as_str());
        let since = last
            .map(|at| &conditions[at])
            .filter(|condition| condition.status == state.as_str())
            .map_or(Time(now), |condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: kind.as_str().to_owned(),
            status: state.as_str().to_owned(),
            observed_generation: Some(generation),
            reason: reason.as_str().to_owned(),
            message,
            last_transition_time: since,
        };
        match last {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    let rank = |condition: &Condition| {
        ConditionType::ALL
            .iter()
            .position(|kind| kind.as_str() == condition.type_)
            .unwrap_or(ConditionType::ALL.len())
    };
    conditions.sort_by(|a, b| (rank(a), &a.type_).cmp(&(rank(b), &b.type_)));
}

/// Takes away conditions that are shown only while they are true.
pub fn remove(conditions: &mut Vec<Condition>, kind: ConditionType) {
    conditions.retain(|condition| condition.type_ != kind.as_str());
}

/// The same for one that no verdict speaks of.
pub fn remove_unless(conditions: &mut Vec<Condition>, kind: ConditionType, verdicts: &[Verdict]) {
    if !verdicts.iter().any(|verdict| verdict.kind == kind) {
        remove(conditions, kind);
    }
}

/// Finds a condition.
pub fn get(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn ready(state: State, reason: Reason) -> Vec<Verdict> {
        vec![Verdict::new(ConditionType::Ready, state, reason, "m")]
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status_and_the_generation_always() {
        let mut conditions = Vec::new();
        merge(&mut conditions, ready(State::False, Reason::RollingOut), 1, at(10));
        merge(&mut conditions, ready(State::False, Reason::NoServingPods), 2, at(20));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (conditions[0].observed_generation, conditions[0].reason.as_str()),
            (Some(2), "NoServingPods")
        );
        merge(&mut conditions, ready(State::True, Reason::Ready), 2, at(30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn conditions_stand_in_one_order_and_foreign_ones_stay() {
        let foreign = Condition {
            type_: "Zebra".to_owned(),
            status: "True".to_owned(),
            observed_generation: None,
            reason: "R".to_owned(),
            message: String::new(),
            last_transition_time: Time(at(1)),
        };
        let mut conditions = vec![foreign];
        merge(&mut conditions, ready(State::True, Reason::Ready), 1, at(1));
        let accepted = Verdict::new(ConditionType::Accepted, State::True, Reason::Accepted, "");
        merge(&mut conditions, vec![accepted], 1, at(1));
        let types: Vec<_> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(types, ["Accepted", "Ready", "Zebra"]);
        remove(&mut conditions, ConditionType::Ready);
        assert_eq!(conditions.len(), 2);
    }
}
