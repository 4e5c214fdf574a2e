//! How a change reaches the pods: all at once, or some pods first; and the way back to a former revision.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::schema::atomic;
use super::units::GoDuration;

/// A staged rollout: a change goes to some pods first, and to the others when these have proved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StagedRollout {
    /// One after the other. After the last one all pods have the change. A step that would not leave any pod with
    /// the former revision is skipped, so a gateway with one pod changes at once.
    #[schemars(length(min = 1, max = 10), transform = atomic)]
    pub steps: Vec<RolloutStep>,
    /// What takes a change back from the pods that have it.
    #[serde(default)]
    pub halt_on: HaltOn,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutStep {
    /// How many pods have the change in this step, all together: a number, or a percentage of the pods such as 25%,
    /// rounded up. Those with the lowest numbers come first.
    pub pods: PodShare,
    /// How long the step lasts from the moment its pods obey the change. Default: 5m.
    #[serde(default = "pause")]
    pub pause: GoDuration,
}

fn pause() -> GoDuration {
    GoDuration::new("5m")
}

impl RolloutStep {
    pub fn pause(&self) -> Duration {
        self.pause.get().unwrap_or(Duration::from_secs(300))
    }
}

/// A number of pods, or a percentage of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct PodShare(Written);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u32),
    Text(String),
}

impl From<Written> for PodShare {
    fn from(written: Written) -> Self {
        Self(written)
    }
}

impl From<PodShare> for Written {
    fn from(share: PodShare) -> Self {
        share.0
    }
}

impl PodShare {
    pub fn number(pods: u32) -> Self {
        Self(Written::Number(pods))
    }

    pub fn percent(percent: u8) -> Self {
        Self(Written::Text(format!("{percent}%")))
    }

    /// Of so many pods; never none. `None`: neither a number nor a percentage.
    pub fn of(&self, total: u32) -> Option<u32> {
        let pods = match &self.0 {
            Written::Number(number @ 1..) => *number,
            Written::Number(0) => return None,
            Written::Text(text) => {
                let percent: u32 = text.strip_suffix('%')?.parse().ok().filter(|p| (1..=100).contains(p))?;
                u32::try_from((u64::from(total) * u64::from(percent)).div_ceil(100)).ok()?
            }
        };
        Some(pods.max(1))
    }
}

impl JsonSchema for PodShare {
    fn schema_name() -> Cow<'static, str> {
        "PodShare".into()
    }

    /// No CEL: a percentage has no maximum length that a rule could be costed by.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 4,
            "maximum": 1000,
            "minimum": 1,
            "pattern": "^([1-9][0-9]?|100)%$",
            "x-kubernetes-int-or-string": true,
        })
    }
}

/// A change is taken back when the pods that have it do worse than the others by more than this, in percentage
/// points, since the rollout began. A pod that refuses the change always takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HaltOn {
    /// Messages that the policy rejects. 100 switches this off.
    #[schemars(range(min = 1, max = 100))]
    pub rejected_percent: u8,
    /// Messages that the policy defers. 100 switches this off.
    #[schemars(range(min = 1, max = 100))]
    pub deferred_percent: u8,
    /// Deliveries that fail because of TLS. 100 switches this off.
    #[schemars(range(min = 1, max = 100))]
    pub tls_failures_percent: u8,
    /// So many messages (or deliveries) on the pods that have the change say something. Where the others had fewer
    /// since the rollout began, all that they had under the former revision counts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_messages: u32,
}

impl Default for HaltOn {
    fn default() -> Self {
        Self { rejected_percent: 20, deferred_percent: 20, tls_failures_percent: 20, min_messages: 20 }
    }
}

/// How many former revisions are kept when nothing else is said.
pub const REVISION_HISTORY: u32 = 10;

pub(super) fn history() -> u32 {
    REVISION_HISTORY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_pods_is_rounded_up_and_never_nobody() {
        for (text, total, pods) in [
            ("25%", 4, Some(1)),
            ("25%", 5, Some(2)),
            ("1%", 3, Some(1)),
            ("100%", 7, Some(7)),
            ("25%", 0, Some(1)),
            ("0%", 4, None),
            ("101%", 4, None),
            ("x", 4, None),
        ] {
            assert_eq!(PodShare(Written::Text(text.to_owned())).of(total), pods, "{text} of {total}");
        }
        assert_eq!(PodShare::number(3).of(2), Some(3));
        assert_eq!(PodShare::number(0).of(2), None);
        let read: RolloutStep = serde_json::from_str(r#"{"pods": "50%"}"#).unwrap();
        assert_eq!((read.pods.of(4), read.pause()), (Some(2), Duration::from_secs(300)));
        let read: RolloutStep = serde_json::from_str(r#"{"pods": 1, "pause": "10s"}"#).unwrap();
        assert_eq!((read.pods.of(4), read.pause()), (Some(1), Duration::from_secs(10)));
    }
}
