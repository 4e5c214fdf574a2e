//! The picture that people see: plain text, as good in a pipe as on a screen. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::view::{PodState, PodView, Said, View};
use crate::api::conditions::{ConditionType, State};

const BAR: u32 = 20;
/// Pods and objects that are written out.
const PODS: usize = 30;
const OBJECTS: usize = 20;
const MESSAGE: usize = 300;

pub fn draw(view: &View) -> String {
    let View { namespace, gateway, current, rollout, stage, pods, objects, not_ready, .. } = view;
    let mut text = String::new();
    let revision = match rollout.revision.as_str() {
        "" => "nothing published yet".to_owned(),
        revision => format!("revision {revision}"),
    };
    let _ = writeln!(text, "OutboundGateway {namespace}/{gateway}   {revision}");
    if !current {
        text.push_str("The operator has not seen the newest change of the gateway yet.\n");
    }
    let _ = writeln!(
        text,
        "{}  {} of {} pods{}",
        bar(rollout.pods_updated, rollout.pods_total),
        rollout.pods_updated,
        rollout.pods_total,
        times(rollout.started_at, rollout.completed_at, rollout.propagation_millis)
    );
    if let Some(stage) = stage {
        let until = stage.until.map(|at| format!(", next step at {}", time(at))).unwrap_or_default();
        let _ = writeln!(
            text,
            "{}  step {} of {}: {} of {} pods try revision {}{until}",
            bar(stage.step, stage.steps + 1),
            stage.step,
            stage.steps,
            stage.pods_updated,
            stage.pods.len(),
            stage.revision,
        );
    }
    text.push('\n');
    // Those that something is to be said of come first when there are too many.
    let mut shown: Vec<&PodView> = pods.iter().collect();
    if shown.len() > PODS {
        shown.sort_by_key(|pod| pod.state == PodState::UpToDate);
    }
    let width = shown.iter().take(PODS).map(|pod| pod.name.len()).max().unwrap_or(0);
    for pod in shown.iter().take(PODS) {
        let staged = if pod.staged { "  (has the staged revision first)" } else { "" };
        let _ = writeln!(text, "  {:<width$}  {}{staged}", pod.name, word(pod.state));
    }
    if shown.len() > PODS {
        let _ = writeln!(text, "  and {} more", shown.len() - PODS);
    }
    if pods.is_empty() {
        text.push_str("  no pods\n");
    }
    text.push('\n');
    for said in view.conditions.iter().filter(|said| speaks(said)) {
        let _ =
            writeln!(text, "{}={} {}: {}", said.kind, said.status, said.reason, first_line(&said.message));
    }
    match not_ready.len() {
        0 => {
            let _ = writeln!(text, "{objects} objects, all obeyed as they are written");
        }
        waiting => {
            let _ = writeln!(text, "{waiting} of {objects} objects are not obeyed as they are written:");
            for told in not_ready.iter().take(OBJECTS) {
                let _ = writeln!(text, "  {}  {}: {}", told.object, told.reason, first_line(&told.message));
            }
            if waiting > OBJECTS {
                let _ = writeln!(text, "  and {} more", waiting - OBJECTS);
            }
        }
    }
    text
}

/// Ready always; the others when they are not as they should be.
fn speaks(said: &Said) -> bool {
    const ONLY_WHEN_TRUE: &[ConditionType] = &[
        ConditionType::Pinned,
        ConditionType::RolloutHalted,
        ConditionType::MailDeferred,
        ConditionType::ClientRangesHeld,
    ];
    if said.kind == ConditionType::Ready.as_str() {
        return true;
    }
    let warns = ONLY_WHEN_TRUE.iter().any(|kind| kind.as_str() == said.kind);
    match warns {
        true => said.status == State::True.as_str(),
        false => said.status == State::False.as_str(),
    }
}

fn word(state: PodState) -> &'static str {
    match state {
        PodState::UpToDate => "up to date",
        PodState::Behind => "behind",
        PodState::Refuses => "refuses the revision",
        PodState::NotServing => "not serving",
        PodState::Terminating => "terminating",
    }
}

fn bar(done: u32, total: u32) -> String {
    let filled = (done.min(total) * BAR).checked_div(total).unwrap_or(0);
    let (filled, empty) = ("#".repeat(filled as usize), "-".repeat((BAR - filled) as usize));
    format!("[{filled}{empty}]")
}

fn times(started: Option<Timestamp>, completed: Option<Timestamp>, millis: Option<u64>) -> String {
    match (started, completed, millis) {
        (_, Some(at), Some(millis)) => format!(", complete since {}, {millis} ms after the change", time(at)),
        (Some(at), None, _) => format!(", begun at {}", time(at)),
        _ => String::new(),
    }
}

fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn first_line(message: &str) -> &str {
    let line = message.lines().next().unwrap_or_default();
    &line[..line.floor_char_boundary(MESSAGE)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::view::{Told, View};
    use super::draw;
    use crate::api::OutboundGateway;

    fn gateway(status: serde_json::Value) -> OutboundGateway {
        let object = json!({
            "apiVersion": "postern.dev/v1alpha1", "kind": "OutboundGateway",
            "metadata": {"name": "default", "namespace": "mail", "generation": 3},
            "spec": {}, "status": status,
        });
        serde_json::from_value(object).expect("a gateway")
    }

    fn pod(name: &str, ready: &str) -> k8s_openapi::api::core::v1::Pod {
        let pod = json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    fn rule(ready: &str) -> Told {
        let object = json!({
            "apiVersion": "postern.dev/v1alpha1", "kind": "ComplianceRule",
            "metadata": {"name": "word", "generation": 2}, "spec": {},
            "status": {"conditions": [{
                "type": "Ready", "status": ready, "reason": "RollingOut", "message": "2 of 3 pods",
                "observedGeneration": 2, "lastTransitionTime": "2026-11-22T10:00:00Z",
            }]},
        });
        Told::new("ComplianceRule", &serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn the_picture_names_each_pod_and_what_waits() {
        let gateway = gateway(json!({
            "observedGeneration": 3,
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "understood", "lastTransitionTime": "2026-11-22T10:00:00Z"},
                {"type": "Ready", "status": "False", "reason": "RollingOut", "message": "2 of 3 pods; waiting for default-1", "lastTransitionTime": "2026-11-22T10:00:00Z"},
            ],
            "rollout": {"revision": "00000000000000aa", "podsTotal": 3, "podsUpdated": 2,
                "stalePods": ["default-1", "default-10"], "startedAt": "2026-11-22T10:00:00.041Z"},
        }));
        let pods = [pod("default-10", "False"), pod("default-1", "True"), pod("default-0", "True")];
        let view = View::new(&gateway, &pods, vec![rule("False"), rule("True")]);
        assert_eq!(
            draw(&view),
            "OutboundGateway mail/default   revision 00000000000000aa\n\
             [#############-------]  2 of 3 pods, begun at 2026-11-22T10:00:00Z\n\
             \n\
             \x20 default-0   up to date\n\
             \x20 default-1   behind\n\
             \x20 default-10  not serving\n\
             \n\
             Ready=False RollingOut: 2 of 3 pods; waiting for default-1\n\
             1 of 2 objects are not obeyed as they are written:\n\
             \x20 ComplianceRule/word  RollingOut: 2 of 3 pods\n"
        );
        assert!(!view.is_done());
    }

    #[test]
    fn a_status_of_an_older_generation_is_not_done() {
        let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "1 of 1 pods", "lastTransitionTime": "2026-11-22T10:00:00Z"});
        let status = |generation: i64| {
            json!({
                "observedGeneration": generation, "conditions": [ready],
                "rollout": {"revision": "00000000000000aa", "podsTotal": 1, "podsUpdated": 1},
            })
        };
        let pods = [pod("default-0", "True")];
        assert!(!View::new(&gateway(status(2)), &pods, Vec::new()).is_done());
        let view = View::new(&gateway(status(3)), &pods, vec![rule("True")]);
        assert!(view.is_done() && draw(&view).ends_with("1 objects, all obeyed as they are written\n"));
    }
}
