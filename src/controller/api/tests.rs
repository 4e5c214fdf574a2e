use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::acts;
use super::merge::{Answer, Merge, Merged, merge, query_for};

fn said(pod: &str, status: u16, body: &Value) -> Answer {
    let body = Bytes::from(serde_json::to_vec(body).unwrap());
    Answer { pod: pod.to_owned(), said: Ok((StatusCode::from_u16(status).unwrap(), body)) }
}

fn silent(pod: &str) -> Answer {
    Answer { pod: pod.to_owned(), said: Err("no answer in time".to_owned()) }
}

fn value(merged: &Merged) -> Value {
    serde_json::from_slice(&merged.body).unwrap()
}

fn page(ids: &[&str], next: Option<&str>) -> Value {
    let rows: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
    json!({"messages": rows, "next": next, "paused": []})
}

fn ids(page: &Value) -> Vec<&str> {
    page["messages"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[test]
fn only_what_is_on_the_list_reaches_a_pod_and_each_takes_its_right() {
    let right = |method: Method, rest: &str| acts::of(&method, rest).map(|act| act.right.to_string());
    assert_eq!(right(Method::GET, "queue").as_deref(), Some("get outboundgateways/queue"));
    assert_eq!(right(Method::POST, "queue/drop").as_deref(), Some("update outboundgateways/queue"));
    assert_eq!(right(Method::GET, "queue/0GT3Jw/content").as_deref(), Some("get outboundgateways/messages"));
    assert_eq!(right(Method::GET, "quarantine/0GT3Jw").as_deref(), Some("get outboundgateways/quarantine"));
    assert_eq!(right(Method::GET, "quarantine/0GT3Jw/raw").as_deref(), Some("get outboundgateways/messages"));
    assert_eq!(
        right(Method::POST, "quarantine/0GT3Jw/deny").as_deref(),
        Some("update outboundgateways/quarantine")
    );
    assert_eq!(right(Method::POST, "probe").as_deref(), Some("update outboundgateways/probe"));
    for (method, rest) in [
        (Method::GET, "bundle"),
        (Method::POST, "bundle"),
        (Method::GET, "ack"),
        (Method::GET, "queue/../ack"),
        (Method::GET, "queue/a%2Fb"),
        (Method::DELETE, "queue/0GT3Jw"),
        (Method::POST, "queue"),
        (Method::GET, "queue/"),
        (Method::POST, "probe/x"),
    ] {
        assert_eq!(right(method.clone(), rest), None, "{method} {rest}");
    }
}

#[test]
fn pages_of_pods_are_one_listing_without_gap_or_repetition() {
    // The messages of three pods, each of which shows two at a time.
    let pods = [vec!["01", "04", "05", "09"], vec!["02", "03"], vec!["06", "07", "08"]];
    let mut after = String::new();
    let mut all: Vec<String> = Vec::new();
    for _ in 0..20 {
        let answers = pods.iter().enumerate().map(|(pod, held)| {
            let left: Vec<&str> = held.iter().copied().filter(|id| **id > *after).collect();
            let shown = &left[..left.len().min(2)];
            let next = (left.len() >= 2).then(|| shown[1]);
            said(&format!("default-{pod}"), 200, &page(shown, next))
        });
        let merged = merge(Merge::Pages, &format!("limit=2&after={after}"), answers.collect());
        let found = value(&merged);
        all.extend(ids(&found).into_iter().map(str::to_owned));
        match found["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(all, ["01", "02", "03", "04", "05", "06", "07", "08", "09"]);
}

#[test]
fn a_pod_that_does_not_answer_is_named_and_what_it_has_is_not_nothing() {
    let merged =
        merge(Merge::Pages, "", vec![said("default-0", 200, &page(&["01"], None)), silent("default-1")]);
    let found = value(&merged);
    assert_eq!((merged.status, &found["messages"][0]["pod"]), (StatusCode::OK, &json!("default-0")));
    assert_eq!(found["missing"], json!([{"pod": "default-1", "error": "no answer in time"}]));
    let none = merge(Merge::Pages, "", vec![silent("default-0")]);
    assert_eq!(none.status, StatusCode::BAD_GATEWAY);
}

#[test]
fn the_pod_that_has_a_message_answers_and_is_named() {
    let none = json!({"error": "no message 0GT3Jw is held here"});
    let merged = merge(
        Merge::First,
        "",
        vec![
            said("default-0", 404, &none),
            said("default-1", 200, &json!({"id": "0GT3Jw", "result": "denied", "subject": "s"})),
        ],
    );
    assert_eq!(value(&merged)["pod"], "default-1");
    assert_eq!(
        merged.summary,
        json!({"pod": "default-1", "id": "0GT3Jw", "result": "denied"}),
        "no mail in the log"
    );
    let nowhere = merge(Merge::First, "", vec![said("default-0", 404, &none), said("default-1", 404, &none)]);
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    assert_eq!(value(&nowhere)["error"], "no message 0GT3Jw is held here");
    // It may be on the pod that cannot be asked.
    let unknown = merge(Merge::First, "", vec![said("default-0", 404, &none), silent("default-1")]);
    assert_eq!(unknown.status, StatusCode::BAD_GATEWAY);
    assert!(value(&unknown)["error"].as_str().unwrap().contains("default-1: no answer in time"));
}

#[test]
fn a_long_act_goes_on_in_each_pod_where_that_one_was() {
    let acted = |messages: u64, next: Option<&str>| json!({"messages": messages, "recipients": messages, "busy": 0, "paused": 0, "next": next});
    let merged = merge(
        Merge::Sums,
        "older=0",
        vec![said("default-0", 200, &acted(500, Some("0A"))), said("default-1", 200, &acted(3, None))],
    );
    let found = value(&merged);
    assert_eq!((&found["messages"], &found["next"]), (&json!(503), &json!("default-0_0A")));
    let query = format!("older=0&report=true&after={}", found["next"].as_str().unwrap());
    assert_eq!(query_for(Merge::Sums, &query, "default-0").as_deref(), Some("older=0&report=true&after=0A"));
    assert_eq!(query_for(Merge::Sums, &query, "default-1"), None, "it has come to its end");
    assert_eq!(query_for(Merge::Pages, "after=0A&pod=default-0", "default-0").as_deref(), Some("after=0A"));
}

#[test]
fn a_pause_that_one_pod_did_not_take_is_not_done() {
    let closed = json!({"route": "mail/relay"});
    let all = merge(Merge::All, "", vec![said("default-0", 200, &closed), said("default-1", 200, &closed)]);
    assert_eq!((all.status, value(&all)), (StatusCode::OK, closed.clone()));
    let part = merge(Merge::All, "", vec![said("default-0", 200, &closed), silent("default-1")]);
    assert_eq!(part.status, StatusCode::BAD_GATEWAY);
    assert!(
        value(&part)["error"].as_str().unwrap().starts_with("done on default-0 only; default-1: no answer")
    );
    // A pod that came later has nothing to open again.
    let never = json!({"error": "the route mail/relay is not paused"});
    let some = merge(Merge::Any, "", vec![said("default-0", 200, &closed), said("default-1", 400, &never)]);
    assert_eq!(some.status, StatusCode::OK);
}

#[test]
fn a_certificate_says_who_somebody_is_as_it_does_at_the_api_server() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "ani");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "mail-team");
    let certificate = params.self_signed(&key).unwrap();
    let caller = super::front::of_certificate(certificate.der()).unwrap();
    assert_eq!(
        (caller.name.as_str(), &caller.groups[..]),
        ("ani", &["mail-team".to_owned(), "system:authenticated".to_owned()][..])
    );
}
