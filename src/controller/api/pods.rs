//! Asks the pods of a gateway over their control port, all at once, in the caller's name.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use futures::StreamExt;

use super::Office;
use super::acts::Act;
use super::merge::{self, Answer, Merge};
use super::who::Denied;
use crate::controller::acks::line::Line;
use crate::translate::ObjectKey;

const AT_ONCE: usize = 32;
/// A pod says after a minute that something goes on.
const LIMIT: Duration = Duration::from_secs(70);
/// A page, a detail; a message may be as large as a gateway takes.
const ANSWER: usize = 8 << 20;
const MESSAGE: usize = 1 << 30;

pub async fn ask(
    office: &Office,
    gateway: &ObjectKey,
    act: &Act,
    query: &str,
    who: &str,
) -> Result<Vec<Answer>, Denied> {
    let wanted = merge::parameter(query, "pod");
    let mut pods = office.world.pods(gateway);
    pods.retain(|pod| wanted.as_ref().is_none_or(|wanted| pod.name == *wanted));
    if pods.is_empty() {
        let what = wanted
            .map_or_else(|| format!("no pod of {gateway} runs"), |pod| format!("{gateway} has no pod {pod}"));
        return Err(Denied::new(StatusCode::SERVICE_UNAVAILABLE, what));
    }
    let most = if act.path.ends_with("/content") || act.path.ends_with("/raw") { MESSAGE } else { ANSWER };
    let questions = pods.into_iter().filter_map(|pod| {
        // A part of a long act goes on with the pods that have not come to their end.
        let query = merge::query_for(act.merge, query, &pod.name)?;
        let path = if query.is_empty() { act.path.clone() } else { format!("{}?{query}", act.path) };
        Some(async move {
            let Some(address) = pod.address else {
                return Answer { pod: pod.name, said: Err("it has no address yet".to_owned()) };
            };
            let (dial, dials) = (office.dial.clone(), office.dials.clone());
            let line = Line { gateway: gateway.clone(), address, dial, dials };
            let talk = async |mut caller: crate::controller::acks::line::Caller| {
                caller.pass(act.method.clone(), &path, who, most, LIMIT).await
            };
            let said: Result<(StatusCode, Bytes), String> =
                line.open(talk).await.map_err(|error| error.to_string());
            Answer { pod: pod.name, said }
        })
    });
    let mut answers: Vec<Answer> = futures::stream::iter(questions).buffer_unordered(AT_ONCE).collect().await;
    answers.sort_by(|a, b| a.pod.cmp(&b.pod));
    if answers.is_empty() && act.merge == Merge::Sums {
        // All pods that the cursor named are gone.
        return Err(Denied::new(
            StatusCode::CONFLICT,
            "the pods have changed meanwhile: ask again from the start",
        ));
    }
    Ok(answers)
}
