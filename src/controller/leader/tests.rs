use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;

fn seen(holder: &str, since: Instant) -> Observed {
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        ..Default::default()
    };
    Observed { spec, since }
}

#[test]
fn a_lease_is_taken_only_when_nobody_can_still_hold_it() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(step(None, "a", start), Step::Create);
    assert_eq!(step(Some(&seen("", start)), "a", start), Step::Take);
    assert_eq!(step(Some(&seen("a", start)), "a", start), Step::Take);
    assert_eq!(step(Some(&seen("b", start)), "a", after(14)), Step::Wait);
    assert_eq!(step(Some(&seen("b", start)), "a", after(15)), Step::Take);
}

#[test]
fn a_leader_stops_before_its_lease_can_be_taken() {
    let Terms { lease, renew, give_up } = Terms::default();
    // A renewal that hangs, and the time work gets to end, still fit into the lease.
    assert!(give_up + (lease - give_up) / 2 < lease);
    assert!(renew * 3 < give_up);
}

/// The Lease of an API server: one object, and the rule that a write names the version it replaces.
#[derive(Clone, Default)]
struct Fake {
    lease: Arc<Mutex<Option<Value>>>,
    version: Arc<Mutex<u64>>,
    /// Of one candidate: the network is cut.
    cut: Arc<AtomicBool>,
}

type Answer = (StatusCode, Json<Value>);

impl Fake {
    /// The way of one candidate to the same Lease.
    fn path(&self) -> (Client, Arc<AtomicBool>) {
        let own = Self { cut: Arc::default(), ..self.clone() };
        let cut = own.cut.clone();
        let one = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l";
        let router = Router::new()
            .route(one, get(Self::read).put(Self::replace))
            .route("/apis/coordination.k8s.io/v1/namespaces/ns/leases", axum::routing::post(Self::create))
            .with_state(own);
        (Client::new(router, "ns"), cut)
    }

    fn failure(code: StatusCode, reason: &str) -> Answer {
        let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason});
        (code, Json(status))
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn store(&self, mut lease: Value) -> Answer {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        *self.lease.lock().unwrap() = Some(lease.clone());
        (StatusCode::OK, Json(lease))
    }

    async fn read(State(fake): State<Self>) -> Answer {
        if fake.is_cut() {
            return Self::failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        match &*fake.lease.lock().unwrap() {
            Some(lease) => (StatusCode::OK, Json(lease.clone())),
            None => Self::failure(StatusCode::NOT_FOUND, "NotFound"),
        }
    }

    async fn create(State(fake): State<Self>, Json(lease): Json<Value>) -> Answer {
        if fake.lease.lock().unwrap().is_some() {
            return Self::failure(StatusCode::CONFLICT, "AlreadyExists");
        }
        fake.store(lease)
    }

    async fn replace(State(fake): State<Self>, Json(lease): Json<Value>) -> Answer {
        if fake.is_cut() {
            return Self::failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
        }
        let now = fake.lease.lock().unwrap().clone().unwrap_or_default();
        if now["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] {
            return Self::failure(StatusCode::CONFLICT, "Conflict");
        }
        fake.store(lease)
    }
}

/// Who works now, and whether two ever did.
#[derive(Default)]
struct Floor {
    working: Mutex<BTreeSet<&'static str>>,
    crowded: AtomicBool,
}

impl Floor {
    fn who(&self) -> Vec<&'static str> {
        self.working.lock().unwrap().iter().copied().collect()
    }

    async fn work(self: Arc<Self>, name: &'static str, stop: CancellationToken) {
        {
            let mut working = self.working.lock().unwrap();
            working.insert(name);
            self.crowded.fetch_or(working.len() > 1, Ordering::SeqCst);
        }
        stop.cancelled().await;
        self.working.lock().unwrap().remove(name);
    }
}

fn candidate(
    client: Client,
    name: &'static str,
    floor: &Arc<Floor>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let terms = Terms {
        lease: Duration::from_secs(1),
        renew: Duration::from_millis(50),
        give_up: Duration::from_millis(500),
    };
    let election = Election::new(client, "ns", "l".to_owned(), name.to_owned(), terms);
    let (floor, stop) = (floor.clone(), stop.clone());
    tokio::spawn(async move { election.run(stop, |end| floor.clone().work(name, end)).await })
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn of_two_candidates_one_works_even_when_the_first_loses_the_network() {
    let (fake, floor) = (Fake::default(), Arc::new(Floor::default()));
    let (a, b) = (CancellationToken::new(), CancellationToken::new());
    let (path_a, cut_a) = fake.path();
    let first = candidate(path_a, "a", &floor, &a);
    until("a leads", || floor.who() == ["a"]).await;
    let second = candidate(fake.path().0, "b", &floor, &b);

    cut_a.store(true, Ordering::SeqCst);
    until("a stops by itself", || floor.who().is_empty()).await;
    until("b takes over", || floor.who() == ["b"]).await;
    cut_a.store(false, Ordering::SeqCst);

    // b ends and gives the lease back; a need not wait for it to run out.
    b.cancel();
    second.await.unwrap();
    until("a leads again", || floor.who() == ["a"]).await;
    a.cancel();
    first.await.unwrap();
    assert!(!floor.crowded.load(Ordering::SeqCst), "two worked at once");
}
