//! What became of one object: data for statuses, for `check` and for the pages, never an error.

use crate::api::checks::Check;
use crate::api::conditions::{ConditionType, Reason, State, Verdict};
use crate::bundle::document::{ObjectKind, Origin};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, such as `spec.hosts[1].host`; empty for the object as a whole.
    pub path: String,
    pub reason: Reason,
    /// What is wrong and what to do, in plain words, without the path.
    pub message: String,
    pub severity: Severity,
    /// The condition it ends in.
    pub condition: ConditionType,
}

impl Problem {
    /// The author wrote something that cannot be.
    pub fn invalid(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(path, Reason::Invalid, message, ConditionType::Accepted)
    }

    /// Something it names is not there or may not be used.
    pub fn reference(path: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        Self::new(path, reason, message, ConditionType::ResolvedRefs)
    }

    pub fn new(
        path: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
        condition: ConditionType,
    ) -> Self {
        Self { path: path.into(), reason, message: message.into(), severity: Severity::Error, condition }
    }

    /// The same as a warning: it stops nothing.
    pub fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Path and message, as a condition shows them.
    pub fn text(&self) -> String {
        match self.path.as_str() {
            "" => self.message.clone(),
            path => format!("{path}: {}", self.message),
        }
    }
}

/// What became of one object in a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub origin: Origin,
    /// All of them, in the order of their paths in the object.
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// The object could not be used as it is, and this earlier generation of it stays in force.
    pub in_force: Option<i64>,
    /// The object could not be used and had no earlier form: a broken record makes mail wait.
    pub broken: bool,
    /// The object does nothing, because it is not enabled.
    pub disabled: bool,
    /// Nothing names the object, so it does nothing.
    pub unused: bool,
    /// Lists and directories: how many addresses and domains they hold.
    pub entries: Option<u64>,
    /// What was found of the world around it: it stops nothing.
    pub findings: Vec<Verdict>,
}

impl Outcome {
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            problems: Vec::new(),
            warnings: Vec::new(),
            in_force: None,
            broken: false,
            disabled: false,
            unused: false,
            entries: None,
            findings: Vec::new(),
        }
    }

    /// Whether this generation itself is what the bundle holds (or says is disabled).
    pub fn is_current(&self) -> bool {
        let attached = |problem: &Problem| {
            !matches!(problem.reason, Reason::GatewayNotAllowed | Reason::GatewayNotFound)
        };
        self.in_force.is_none_or(|generation| generation == self.origin.generation)
            && !self.broken
            && self.problems.iter().all(attached)
    }

    /// What `Accepted` and `ResolvedRefs` should say, and each kind of warning there is.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = vec![
            self.verdict(ConditionType::Accepted, Reason::Accepted, "understood"),
            self.verdict(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "everything it names exists"),
        ];
        for kind in ConditionType::WARNINGS {
            let mine: Vec<&Problem> = self.warnings.iter().filter(|w| w.condition == *kind).collect();
            if let Some(first) = mine.first() {
                let text = mine.iter().map(|problem| problem.text()).collect::<Vec<_>>().join("; ");
                verdicts.push(Verdict::new(*kind, State::True, first.reason, text));
            }
        }
        verdicts.extend(self.findings.iter().cloned());
        verdicts
    }

    /// What a broken object means for mail.
    fn consequence(&self) -> &'static str {
        match self.origin.object.kind {
            ObjectKind::OutboundGateway => "no mail is taken",
            ObjectKind::OutboundRoute => "mail over this route waits",
            ObjectKind::RoutingRule | ObjectKind::ComplianceRule => "mail that this rule could concern waits",
            ObjectKind::AddressList | ObjectKind::Directory => "mail that depends on it waits",
            ObjectKind::Quarantine => "the built-in quarantine is used instead",
        }
    }

    fn verdict(&self, kind: ConditionType, fine: Reason, well: &str) -> Verdict {
        let mine: Vec<&Problem> = self.problems.iter().filter(|problem| problem.condition == kind).collect();
        let Some(first) = mine.first() else {
            let warnings = self.warnings.iter().filter(|warning| warning.condition == kind);
            let warnings: String = warnings.map(|warning| format!("; warning: {}", warning.text())).collect();
            return Verdict::new(kind, State::True, fine, format!("{well}{warnings}"));
        };
        let texts: Vec<String> = mine.iter().map(|problem| problem.text()).collect();
        let texts = texts.join("; ");
        let generation = self.origin.generation;
        let message = match (self.in_force, self.broken) {
            (Some(last), _) if last != generation => {
                format!("generation {generation} is invalid: {texts}; generation {last} stays in force")
            }
            (Some(_), _) => format!("{texts}; what was accepted before stays in force"),
            (None, true) => format!("{texts}; {} until this is repaired", self.consequence()),
            (None, false) => texts,
        };
        Verdict::new(kind, State::False, first.reason, message)
    }
}

/// Collects the problems of one object, so that its author hears of all of them at once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Findings {
    /// Notes a check of the table that does not hold.
    pub fn check(&mut self, holds: bool, path: &str, check: &Check) {
        if !holds {
            self.invalid(path, check.message);
        }
    }

    pub fn invalid(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::invalid(path, message));
    }

    pub fn push(&mut self, problem: Problem) {
        match problem.severity {
            Severity::Error => self.problems.push(problem),
            Severity::Warning => self.warnings.push(problem),
        }
    }

    /// Notes an error and goes on without the value.
    pub fn ok<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.push(problem)).ok()
    }

    /// Everything that keeps the object from being used, in one line.
    pub fn summary(&self) -> String {
        self.problems.iter().map(Problem::text).collect::<Vec<_>>().join("; ")
    }
}
