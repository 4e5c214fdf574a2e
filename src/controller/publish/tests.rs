use std::sync::Mutex;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use prometheus_client::registry::Registry;

use super::*;
use crate::api::{ComplianceRule, OutboundGatewaySpec};
use crate::bundle::Sequence;
use crate::bundle::document::FORMAT;
use crate::bundle::segment::cut;
use crate::controller::build::publication::{Wanted, plan};
use crate::translate::{Resources, translate};

/// ConfigMaps and Secrets of an API server: merge patches, and the rule that a write names the version it
/// was decided on. After every write the set must be complete.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Sequence of the manifest after each write.
    history: Vec<u64>,
}

type Answer = (StatusCode, Json<Value>);
const DECODE: &str = "binary data of a ConfigMap is base64";

impl Fake {
    fn client(&self) -> Client {
        let router = Router::new()
            .route("/api/v1/namespaces/mail/{kind}", post(Self::create))
            .route("/api/v1/namespaces/mail/{kind}/{name}", get(Self::read).patch(Self::patch))
            .with_state(self.clone());
        Client::new(router, "mail")
    }

    fn failure(code: StatusCode, reason: &str) -> Answer {
        let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason});
        (code, Json(status))
    }

    async fn read(State(fake): State<Self>, Path((_, name)): Path<(String, String)>) -> Answer {
        match fake.0.lock().unwrap().objects.get(&name) {
            Some(found) => (StatusCode::OK, Json(found.clone())),
            None => Self::failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    async fn create(State(fake): State<Self>, Path(_): Path<String>, Json(mut new): Json<Value>) -> Answer {
        let name = new["metadata"]["name"].as_str().unwrap().to_owned();
        if fake.0.lock().unwrap().objects.contains_key(&name) {
            return Self::failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        new["metadata"]["uid"] = json!(format!("uid-{name}"));
        fake.store(name, new)
    }

    async fn patch(
        State(fake): State<Self>,
        Path((_, name)): Path<(String, String)>,
        Json(patch): Json<Value>,
    ) -> Answer {
        let Some(mut object) = fake.0.lock().unwrap().objects.get(&name).cloned() else {
            return Self::failure(StatusCode::NOT_FOUND, "NotFound");
        };
        if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Self::failure(StatusCode::CONFLICT, "Conflict");
        }
        merge(&mut object, patch);
        fake.store(name, object)
    }

    fn store(&self, name: String, mut object: Value) -> Answer {
        let mut held = self.0.lock().unwrap();
        held.version += 1;
        object["metadata"]["resourceVersion"] = json!(held.version.to_string());
        held.objects.insert(name, object.clone());
        drop(held);
        self.check();
        (StatusCode::OK, Json(object))
    }

    /// Whoever reads now, at whatever moment, finds a complete set (or none at the very beginning).
    fn check(&self) {
        let files = self.files();
        let read = |name: &str| Ok(files.get(name).cloned());
        if files.contains_key(MANIFEST) {
            let manifest = segment::read_manifest(&read).unwrap();
            segment::assemble(&manifest, &read).unwrap();
            self.0.lock().unwrap().history.push(manifest.sequence.0);
        }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let held = self.0.lock().unwrap();
        let maps =
            held.objects.values().map(|map| serde_json::from_value::<ConfigMap>(map.clone()).expect(DECODE));
        maps.flat_map(|map| {
            let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
            let bytes = map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
            text.chain(bytes).collect::<Vec<_>>()
        })
        .collect()
    }

    /// A controller that begins now, its watches complete.
    async fn controller(&self) -> Press {
        let client = self.client();
        let world = World::new(client.clone(), Vec::new());
        for (name, object) in &self.0.lock().unwrap().objects {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let version = Version { uid: text("uid"), resource_version: text("resourceVersion") };
            world.show_config_map(ObjectKey::new("mail", name), version);
        }
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let mut press = Press::new(client, world, metrics, ObjectKey::new("mail", "default"));
        press.load("uid-1").await.unwrap();
        press
    }
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut into[&key], value);
        }
    }
}

fn gateway() -> OutboundGateway {
    let mut gateway = OutboundGateway::new("default", OutboundGatewaySpec::default());
    gateway.metadata.namespace = Some("mail".to_owned());
    gateway.metadata.uid = Some("uid-1".to_owned());
    gateway
}

fn bundle(word: &str) -> Bundle {
    let spec = json!({"messages": ["Outbound"], "match": {"words": [word]}, "action": {"reject": {}}});
    let mut rule = ComplianceRule::new("r", serde_json::from_value(spec).unwrap());
    rule.metadata.namespace = Some("mail".to_owned());
    let resources = Resources {
        gateways: vec![gateway().into()],
        compliance_rules: vec![rule.into()],
        ..Resources::default()
    };
    translate(&ObjectKey::new("mail", "default"), &resources, None).bundle.unwrap()
}

async fn publish(press: &mut Press, word: &str) -> Result<(), PublishError> {
    let bundle = bundle(word);
    let wanted = Wanted { format: FORMAT, segments: cut(&bundle), ..Wanted::default() };
    let plan = plan(&press.published, wanted, Timestamp::UNIX_EPOCH).unwrap().unwrap();
    press.publish(&gateway(), plan, Some(bundle)).await.map(|_push| ())
}

#[tokio::test]
async fn at_every_moment_the_api_server_holds_a_complete_set_and_the_sequence_rises() {
    let fake = Fake::default();
    let mut press = fake.controller().await;
    let big: String = (0..200_000).map(|n| format!("w{n:x}")).collect::<Vec<_>>().join(" ");
    for (round, word) in ["one", "two", &big, "three", "two"].into_iter().enumerate() {
        press.published.settled = round % 2 == 0;
        publish(&mut press, word).await.unwrap();
        if round == 3 {
            // The controller is replaced; the next one reads back where things stand.
            press = fake.controller().await;
            assert_eq!(press.last_good.as_ref().unwrap().bundle, bundle("three"));
        }
    }
    let history = fake.0.lock().unwrap().history.clone();
    assert!(history.is_sorted(), "{history:?}");
    assert_eq!(history.last(), Some(&5));
}

#[tokio::test]
async fn of_two_controllers_that_believe_to_lead_the_deposed_one_loses() {
    let fake = Fake::default();
    let mut old = fake.controller().await;
    publish(&mut old, "one").await.unwrap();
    let mut new = fake.controller().await;
    publish(&mut new, "two").await.unwrap();
    let error = publish(&mut old, "three").await.unwrap_err();
    assert!(matches!(&error, PublishError::Write(error) if error.is_conflict()), "{error}");
    let read = fake.controller().await;
    assert_eq!(read.last_good.as_ref().unwrap().bundle, bundle("two"));
    assert_eq!(read.published.manifest.as_ref().unwrap().sequence, Sequence(2));
}

#[tokio::test]
async fn a_namesake_of_somebody_else_is_left_alone() {
    let fake = Fake::default();
    let foreign = json!({"metadata": {
        "name": "default-bundle-0", "namespace": "mail", "uid": "x",
        "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "other"}],
    }});
    let _ = fake.store("default-bundle-0".to_owned(), foreign);
    let client = fake.client();
    let world = World::new(client.clone(), Vec::new());
    world.show_config_map(ObjectKey::new("mail", "default-bundle-0"), Version::default());
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let mut press = Press::new(client, world, metrics, ObjectKey::new("mail", "default"));
    assert!(matches!(press.load("uid-1").await, Err(PublishError::Foreign { .. })));
}
