use std::sync::Mutex;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PartialObjectMeta;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::keep::{Keeper, divide};
use super::*;
use crate::api::OutboundGatewaySpec;
use crate::bundle::document::FORMAT;
use crate::bundle::manifest::SegmentRef;
use crate::bundle::segment::{cut, piece_key};
use crate::bundle::{Course, Sequence};
use crate::policy::testing;

/// ConfigMaps of an API server that can be told to fail from the nth write on.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    maps: BTreeMap<String, Value>,
    writes: usize,
    dies_at: Option<usize>,
}

type Answer = (StatusCode, Json<Value>);

fn failure(code: StatusCode, reason: &str) -> Answer {
    let code_number = code.as_u16();
    let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code_number, "message": reason});
    (code, Json(status))
}

impl Fake {
    fn client(&self) -> Client {
        let router = Router::new()
            .route("/api/v1/namespaces/mail/configmaps", get(Self::list).post(Self::create))
            .route(
                "/api/v1/namespaces/mail/configmaps/{name}",
                get(Self::read).patch(Self::patch).delete(Self::delete),
            )
            .with_state(self.clone());
        Client::new(router, "mail")
    }

    /// Whether this write is still carried out.
    fn lives(&self) -> bool {
        let mut held = self.0.lock().unwrap();
        held.writes += 1;
        held.dies_at.is_none_or(|at| held.writes <= at)
    }

    async fn list(State(fake): State<Self>, Query(_): Query<BTreeMap<String, String>>) -> Json<Value> {
        let held = fake.0.lock().unwrap();
        let labelled =
            held.maps.values().filter(|map| map["metadata"]["labels"]["postern.dev/revision"].is_string());
        let items: Vec<Value> = labelled
            .map(|map| {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": map["metadata"]})
            })
            .collect();
        Json(
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items}),
        )
    }

    async fn read(State(fake): State<Self>, Path(name): Path<String>) -> Answer {
        match fake.0.lock().unwrap().maps.get(&name) {
            Some(map) => (StatusCode::OK, Json(map.clone())),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    async fn create(State(fake): State<Self>, Json(mut map): Json<Value>) -> Answer {
        if !fake.lives() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let name = map["metadata"]["name"].as_str().unwrap().to_owned();
        let mut held = fake.0.lock().unwrap();
        if held.maps.contains_key(&name) {
            return failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        map["metadata"]["creationTimestamp"] = json!(Timestamp::now().to_string());
        held.maps.insert(name, map.clone());
        (StatusCode::CREATED, Json(map))
    }

    async fn patch(State(fake): State<Self>, Path(name): Path<String>, Json(patch): Json<Value>) -> Answer {
        if !fake.lives() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let mut held = fake.0.lock().unwrap();
        let Some(map) = held.maps.get_mut(&name) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
        for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            map["metadata"]["annotations"][key] = value.clone();
        }
        (StatusCode::OK, Json(map.clone()))
    }

    async fn delete(State(fake): State<Self>, Path(name): Path<String>) -> Answer {
        if !fake.lives() {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        match fake.0.lock().unwrap().maps.remove(&name) {
            Some(map) => (StatusCode::OK, Json(map)),
            None => failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    /// As the press would have published it: pieces in bundle-0.
    fn publish(&self, sequence: u64, bundle: &Bundle) -> Manifest {
        let segments = cut(bundle);
        let mut pieces = BTreeMap::new();
        let mut refs = Vec::new();
        for segment in &segments {
            let own = segment.pieces();
            let places = vec![0; own.len()];
            pieces.extend(
                own.into_iter()
                    .enumerate()
                    .map(|(number, bytes)| (piece_key(&segment.hash, number), ByteString(bytes))),
            );
            refs.push(SegmentRef { name: segment.name.clone(), hash: segment.hash.clone(), places });
        }
        let mut map = crate::controller::build::bundle_map(&gateway(10), 0);
        map.binary_data = Some(pieces);
        let map = serde_json::to_value(map).unwrap();
        self.0.lock().unwrap().maps.insert("default-bundle-0".to_owned(), map);
        Manifest {
            format: FORMAT,
            sequence: Sequence(sequence),
            revision: Revision::of(FORMAT, &segments, &[]),
            published_at: at(sequence),
            segments: refs,
            materials: Vec::new(),
            leaving: Vec::new(),
            course: Course::Whole,
        }
    }

    fn keeper(&self, manifest: &Manifest, limit: usize) -> Keeper {
        Keeper {
            client: self.client(),
            metrics: Arc::new(Metrics::register(&mut Registry::default())),
            gateway: Arc::new(gateway(limit)),
            key: ObjectKey::new("mail", "default"),
            kept: None,
            manifest: manifest.clone(),
            summary: Summary { rules: 1, ..Summary::default() },
            pinned: None,
            limit,
        }
    }

    async fn keep(&self, manifest: &Manifest, limit: usize) -> Result<Vec<Kept>, ApplyError> {
        Ok(self.keeper(manifest, limit).run().await?.kept)
    }

    async fn restore(&self, revision: &Revision) -> Result<Former, RestoreError> {
        restore(&self.client(), &ObjectKey::new("mail", "default"), "uid-1", revision).await
    }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn gateway(limit: usize) -> OutboundGateway {
    let spec = OutboundGatewaySpec {
        revision_history_limit: u32::try_from(limit).unwrap(),
        ..OutboundGatewaySpec::default()
    };
    let mut gateway = OutboundGateway::new("default", spec);
    gateway.metadata.namespace = Some("mail".to_owned());
    gateway.metadata.uid = Some("uid-1".to_owned());
    gateway
}

fn bundle(hostname: &str) -> Bundle {
    let mut bundle: Bundle = testing::bundle(Vec::new());
    bundle.gateway.hostname = Some(hostname.to_owned());
    bundle
}

/// So much that it takes several ConfigMaps.
fn large(word: &str) -> Bundle {
    let mut text = vec![0u8; 2 << 20];
    blake3::Hasher::new().update(word.as_bytes()).finalize_xof().fill(&mut text);
    bundle(&text.iter().map(|byte| char::from(b' ' + byte % 90)).collect::<String>())
}

#[tokio::test]
async fn r156_a_revision_comes_back_as_it_was_although_what_is_published_changed() {
    let fake = Fake::default();
    let first = fake.publish(1, &bundle("one"));
    fake.keep(&first, 10).await.unwrap();
    let second = fake.publish(2, &bundle("two"));
    let kept = fake.keep(&second, 10).await.unwrap();
    let order: Vec<&Revision> = kept.iter().map(|kept| &kept.revision).collect();
    assert_eq!(order, [&second.revision, &first.revision], "the newest first");
    let former = fake.restore(&first.revision).await.unwrap();
    assert_eq!((former.bundle, former.format), (bundle("one"), FORMAT));
    assert_eq!(Revision::of(FORMAT, &former.segments, &former.materials), first.revision);
    let maps = fake.0.lock().unwrap().maps.clone();
    let map: ConfigMap =
        serde_json::from_value(maps[&format!("default-revision-{}", first.revision)].clone()).unwrap();
    assert_eq!(map.immutable, Some(true));
    assert_eq!(map.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-1");
    // Published once more: the newest again, nothing is written twice.
    let writes = fake.0.lock().unwrap().writes;
    let third = fake.publish(3, &bundle("one"));
    let kept = fake.keep(&third, 10).await.unwrap();
    assert_eq!((kept.len(), &kept[0].revision), (2, &first.revision));
    assert_eq!(fake.0.lock().unwrap().writes, writes + 1);
}

#[tokio::test]
async fn an_unknown_revision_and_one_of_another_gateway_are_told_by_name() {
    let fake = Fake::default();
    let first = fake.publish(1, &bundle("one"));
    fake.keep(&first, 10).await.unwrap();
    let unknown = Revision::named("00000000000000aa").unwrap();
    let error = fake.restore(&unknown).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Unknown(_)) && error.to_string().contains("00000000000000aa"));
    let key = ObjectKey::new("mail", "default");
    let stranger = restore(&fake.client(), &key, "uid-2", &first.revision).await;
    assert!(matches!(stranger, Err(RestoreError::Unknown(_))));
    // Somebody made one up: content that is not what its name says.
    let name = format!("default-revision-{}", first.revision);
    let mut forged = fake.0.lock().unwrap().maps[&name].clone();
    forged["metadata"]["name"] = json!("default-revision-00000000000000aa");
    fake.0.lock().unwrap().maps.insert("default-revision-00000000000000aa".to_owned(), forged);
    assert!(matches!(fake.restore(&unknown).await, Err(RestoreError::Unusable { .. })));
}

#[tokio::test]
async fn ended_between_any_two_writes_a_revision_is_whole_or_not_there_and_is_kept_the_next_time() {
    for dies_at in 0..20 {
        let fake = Fake::default();
        let old = fake.publish(1, &large("old"));
        fake.keep(&old, 2).await.unwrap();
        let between = fake.publish(2, &bundle("between"));
        fake.keep(&between, 2).await.unwrap();
        let new = fake.publish(3, &large("new"));
        {
            let mut held = fake.0.lock().unwrap();
            (held.writes, held.dies_at) = (0, Some(dies_at));
        }
        let died = fake.keep(&new, 2).await.is_err();
        for revision in [&old.revision, &between.revision, &new.revision] {
            match fake.restore(revision).await {
                Ok(_) | Err(RestoreError::Unknown(_)) => {}
                Err(error) => panic!("ended after {dies_at} writes: {error}"),
            }
        }
        fake.0.lock().unwrap().dies_at = None;
        let kept = fake.keep(&new, 2).await.unwrap();
        let whole: Vec<&Revision> =
            kept.iter().filter(|kept| kept.summary.is_some()).map(|kept| &kept.revision).collect();
        assert_eq!(whole, [&new.revision, &between.revision], "ended after {dies_at} writes");
        assert_eq!(fake.restore(&new.revision).await.unwrap().bundle, large("new"));
        if !died {
            assert!(dies_at >= 4, "{dies_at} writes were enough");
            return;
        }
    }
    panic!("it never came to an end");
}

#[tokio::test]
async fn no_more_are_kept_than_the_limit_and_the_one_in_force_and_the_pinned_one_stay() {
    let fake = Fake::default();
    let mut all = Vec::new();
    for number in 1..=6 {
        let manifest = fake.publish(number, &bundle(&format!("host-{number}")));
        let kept = fake.keep(&manifest, 3).await.unwrap();
        assert!(kept.len() <= 3);
        all.push(manifest);
    }
    assert!(matches!(fake.restore(&all[2].revision).await, Err(RestoreError::Unknown(_))));
    assert!(fake.restore(&all[3].revision).await.is_ok());
    let mut keeper = fake.keeper(&all[5], 1);
    keeper.pinned = Some(all[3].revision.clone());
    let kept = keeper.run().await.unwrap().kept;
    let left: Vec<&Revision> = kept.iter().map(|kept| &kept.revision).collect();
    assert_eq!(left, [&all[5].revision, &all[3].revision]);
}

fn listed(revision: char, second: u64, bytes: Option<usize>) -> Kept {
    Kept {
        revision: Revision::named(&revision.to_string().repeat(16)).unwrap(),
        published_at: at(second),
        summary: bytes.map(|bytes| Summary { bytes, ..Summary::default() }),
        maps: Vec::new(),
    }
}

#[test]
fn the_bytes_of_all_are_bounded_and_what_never_got_a_record_goes_when_it_is_old() {
    let kept = [
        listed('a', 5000, Some(BYTES / 2)),
        listed('b', 4000, Some(BYTES / 4)),
        listed('c', 3000, None),
        listed('d', 2000, Some(BYTES / 2)),
        listed('e', 1000, Some(1)),
    ];
    let gone = |now| -> Vec<String> {
        let in_force = &kept[0].revision;
        let gone = excess(&kept, &[in_force], 10, at(now));
        gone.iter().map(|kept| kept.revision.as_str()[..1].to_owned()).collect()
    };
    assert_eq!(gone(3100), ["d", "e"], "older than what did not fit goes too");
    assert_eq!(gone(5000), ["c", "d", "e"]);
}

#[test]
fn pieces_are_dealt_so_that_each_config_map_fits() {
    let pieces: BTreeMap<String, Vec<u8>> =
        (0..9).map(|number| (format!("p{number}"), vec![0; 400 << 10])).collect();
    let parts = divide(pieces.clone(), 10 << 10);
    assert!(parts.iter().all(|part| part.values().map(Vec::len).sum::<usize>() <= PART));
    assert_eq!(parts.iter().map(BTreeMap::len).sum::<usize>(), pieces.len());
    assert_eq!(divide(BTreeMap::new(), 0).len(), 1);
}

#[test]
fn a_listing_is_read_from_labels_and_annotations_of_the_gateway_s_own_maps() {
    let map = |name: &str, owner: &str, summary: Option<&str>| -> PartialObjectMeta<ConfigMap> {
        let mut annotations = json!({});
        if let Some(summary) = summary {
            annotations =
                json!({"postern.dev/summary": summary, "postern.dev/published-at": "2026-11-22T10:00:00Z"});
        }
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {
                "name": name, "annotations": annotations,
                "labels": {"postern.dev/revision": "00000000000000aa"},
                "creationTimestamp": "2026-11-22T09:00:00Z",
                "ownerReferences": [{"apiVersion": "x", "kind": "x", "name": "x", "uid": owner}],
            },
        }))
        .unwrap()
    };
    let maps = [
        map("r-1", "uid-1", None),
        map("r", "uid-1", Some(r#"{"rules": 7, "bytes": 9}"#)),
        map("other", "uid-2", Some("{}")),
    ];
    let kept = read_listing(&maps, Some("uid-1"));
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].maps, ["r", "r-1"], "the record first");
    assert_eq!(kept[0].summary.as_ref().map(|summary| summary.rules), Some(7));
    assert_eq!(kept[0].published_at, "2026-11-22T10:00:00Z".parse().unwrap());
}

#[test]
fn a_summary_counts_rules_against_the_revision_before() {
    let summary = Summary::of(&bundle("x"), Some(&bundle("y")));
    assert_eq!(summary.changes, Some(Changes::default()));
    assert_eq!(Summary::of(&bundle("x"), None).changes, None);
}
