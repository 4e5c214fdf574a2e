//! Several pods, one answer, each part with the pod it came from. A pod that gave none is named: nobody takes a part
//! for the whole. Pure.

use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

/// How answers go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// A page of each, in the order of the ids; the next page begins where all have been looked at.
    Pages,
    /// One pod has it, the others have not.
    First,
    /// Numbers are added; each pod goes on from its own place.
    Sums,
    /// All must do it.
    All,
    /// Those that can, do it; one at least.
    Any,
    /// Side by side.
    Each,
}

/// What a pod said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub pod: String,
    /// `Err`: it could not be asked.
    pub said: Result<(StatusCode, Bytes), String>,
}

#[derive(Debug)]
pub struct Merged {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
    /// For the audit log: numbers and results, no mail.
    pub summary: Value,
}

const JSON: &str = "application/json";

impl Merged {
    fn json(status: StatusCode, value: &Value, summary: Value) -> Self {
        let body = serde_json::to_vec(value).expect("it has string keys only").into();
        Self { status, content_type: JSON, body, summary }
    }

    pub fn refusal(status: StatusCode, why: &str) -> Self {
        Self::json(status, &json!({ "error": why }), json!({ "error": why }))
    }
}

/// A parameter of a query, as it stands there.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
}

fn without(query: &str, names: &[&str]) -> String {
    let keep =
        |pair: &&str| !names.iter().any(|name| pair.split('=').next() == Some(name)) && !pair.is_empty();
    query.split('&').filter(keep).collect::<Vec<_>>().join("&")
}

/// The query for one pod. `None`: it has come to its end already.
pub fn query_for(merge: Merge, query: &str, pod: &str) -> Option<String> {
    let cursor = parameter(query, "after").filter(|_| merge == Merge::Sums);
    let Some(cursor) = cursor else { return Some(without(query, &["pod"])) };
    let place = cursor.split('~').find_map(|place| {
        // No name of a pod has such a stroke.
        let (name, id) = place.split_once('_')?;
        (name == pod).then_some(id)
    })?;
    let rest = without(query, &["pod", "after"]);
    let and = if rest.is_empty() { "" } else { "&" };
    Some(format!("{rest}{and}after={place}"))
}

pub fn merge(how: Merge, query: &str, answers: Vec<Answer>) -> Merged {
    match how {
        Merge::Pages => pages(query, answers),
        Merge::First => first(answers),
        Merge::Sums => sums(answers),
        Merge::All => all(answers, false),
        Merge::Any => all(answers, true),
        Merge::Each => each(answers),
    }
}

/// The pod, its status, and why.
type Failed = (String, StatusCode, String);

/// Apart: what was done, and what was not, each with its pod.
fn apart(answers: Vec<Answer>) -> (Vec<(String, Value)>, Vec<Failed>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for Answer { pod, said } in answers {
        match said {
            Ok((status, body)) if status.is_success() => match serde_json::from_slice(&body) {
                Ok(value) => good.push((pod, value)),
                Err(_) => bad.push((pod, StatusCode::BAD_GATEWAY, "its answer does not read".to_owned())),
            },
            Ok((status, body)) => bad.push((pod, status, words(status, &body))),
            Err(why) => bad.push((pod, StatusCode::BAD_GATEWAY, why)),
        }
    }
    (good, bad)
}

fn words(status: StatusCode, body: &Bytes) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    value.and_then(|value| value["error"].as_str().map(str::to_owned)).unwrap_or_else(|| status.to_string())
}

fn named(bad: &[(String, StatusCode, String)]) -> Value {
    bad.iter().map(|(pod, _, why)| json!({"pod": pod, "error": why})).collect()
}

fn text(bad: &[(String, StatusCode, String)]) -> String {
    bad.iter().map(|(pod, _, why)| format!("{pod}: {why}")).collect::<Vec<_>>().join("; ")
}

/// Nobody could: with the status of the first that said more than that it has not got it.
fn none(bad: &[(String, StatusCode, String)]) -> Merged {
    let first = bad.iter().find(|(_, status, _)| *status != StatusCode::NOT_FOUND).or(bad.first());
    let same = bad.iter().all(|(_, _, why)| *why == bad[0].2);
    let why = if same { bad[0].2.clone() } else { text(bad) };
    Merged::refusal(first.map_or(StatusCode::BAD_GATEWAY, |(_, status, _)| *status), &why)
}

fn pages(query: &str, answers: Vec<Answer>) -> Merged {
    let (good, bad) = apart(answers);
    if good.is_empty() {
        return none(&bad);
    }
    let limit =
        parameter(query, "limit").and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(100).clamp(1, 100);
    // Up to here every pod has been looked at.
    let bound = good.iter().filter_map(|(_, page)| page["next"].as_str()).min().map(str::to_owned);
    let (mut rows, mut paused) = (Vec::new(), Vec::new());
    for (pod, page) in &good {
        let of = |name: &str| page[name].as_array().into_iter().flatten().map(|row| with_pod(row, pod));
        rows.extend(of("messages"));
        paused.extend(of("paused"));
    }
    let id = |row: &Value| row["id"].as_str().unwrap_or_default().to_owned();
    rows.sort_by_key(id);
    let all = rows.len();
    rows.retain(|row| bound.as_ref().is_none_or(|bound| id(row) <= *bound));
    let more = rows.len() > limit || rows.len() < all;
    rows.truncate(limit);
    let next = match (rows.last(), &bound) {
        (Some(last), _) if rows.len() == limit && (more || bound.is_some()) => Some(id(last)),
        (_, Some(bound)) => Some(bound.clone()),
        (Some(last), None) if more => Some(id(last)),
        _ => None,
    };
    let summary = json!({"messages": rows.len()});
    let mut page = json!({"messages": rows, "next": next});
    if good.iter().any(|(_, page)| page.get("paused").is_some()) {
        page["paused"] = paused.into();
    }
    if !bad.is_empty() {
        page["missing"] = named(&bad);
    }
    Merged::json(StatusCode::OK, &page, summary)
}

fn with_pod(row: &Value, pod: &str) -> Value {
    let mut row = row.clone();
    row["pod"] = pod.into();
    row
}

fn first(answers: Vec<Answer>) -> Merged {
    let found = answers.iter().find_map(|answer| match &answer.said {
        Ok((status, body)) if status.is_success() => Some((answer.pod.clone(), *status, body.clone())),
        _ => None,
    });
    let Some((pod, status, body)) = found else {
        let (_, bad) = apart(answers);
        return none(&bad);
    };
    match serde_json::from_slice::<Value>(&body) {
        Ok(value) if value.is_object() => {
            let value = with_pod(&value, &pod);
            let summary = outcome(&value);
            Merged::json(status, &value, summary)
        }
        // A message as it is.
        _ => Merged { status, content_type: "message/rfc822", body, summary: json!({ "pod": pod }) },
    }
}

/// Numbers and results of an act; addresses, subjects and headers stay out of the log.
fn outcome(value: &Value) -> Value {
    const TOLD: [&str; 12] = [
        "pod",
        "id",
        "result",
        "messages",
        "recipients",
        "busy",
        "paused",
        "deliveries",
        "deliveredAs",
        "heldAgain",
        "rejected",
        "expires",
    ];
    let map = value.as_object().into_iter().flatten();
    let told = map.filter(|(name, value)| TOLD.contains(&name.as_str()) && !value.is_null());
    told.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
}

fn sums(answers: Vec<Answer>) -> Merged {
    let (good, bad) = apart(answers);
    if good.is_empty() {
        return none(&bad);
    }
    let sum = |name: &str| good.iter().filter_map(|(_, acted)| acted[name].as_u64()).sum::<u64>();
    let places: Vec<String> =
        good.iter().filter_map(|(pod, acted)| Some(format!("{pod}_{}", acted["next"].as_str()?))).collect();
    let mut total = json!({
        "messages": sum("messages"), "recipients": sum("recipients"), "busy": sum("busy"), "paused": sum("paused"),
        "next": (!places.is_empty()).then(|| places.join("~")),
    });
    let mut summary = outcome(&total);
    if !bad.is_empty() {
        total["missing"] = named(&bad);
        summary["missing"] = named(&bad);
    }
    Merged::json(StatusCode::OK, &total, summary)
}

/// `some`: one is enough, others may have nothing to do.
fn all(answers: Vec<Answer>, some: bool) -> Merged {
    let (good, bad) = apart(answers);
    let harmless = |(_, status, _): &(String, StatusCode, String)| some && *status == StatusCode::BAD_REQUEST;
    match good.first() {
        None => none(&bad),
        Some((_, value)) if bad.iter().all(harmless) => {
            let pods: Vec<&str> = good.iter().map(|(pod, _)| pod.as_str()).collect();
            Merged::json(StatusCode::OK, value, json!({ "pods": pods }))
        }
        Some(_) => {
            let done = good.iter().map(|(pod, _)| pod.as_str()).collect::<Vec<_>>().join(", ");
            let why = format!("done on {done} only; {}: ask again", text(&bad));
            Merged::refusal(StatusCode::BAD_GATEWAY, &why)
        }
    }
}

fn each(answers: Vec<Answer>) -> Merged {
    let (good, bad) = apart(answers);
    if good.is_empty() {
        return none(&bad);
    }
    let summary = json!({
        "pods": good.iter().map(|(pod, _)| pod.as_str()).collect::<Vec<_>>(),
        "reasons": good.iter().filter_map(|(_, answer)| answer["reason"].as_str()).collect::<Vec<_>>(),
    });
    let mut list: Vec<Value> =
        good.into_iter().map(|(pod, answer)| json!({"pod": pod, "answer": answer})).collect();
    list.extend(bad.iter().map(|(pod, _, why)| json!({"pod": pod, "error": why})));
    Merged::json(StatusCode::OK, &json!({ "pods": list }), summary)
}
