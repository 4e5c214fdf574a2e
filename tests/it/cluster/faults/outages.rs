//! The API server and its storage go away and come back; the operator is away for long.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::Scenario;
use super::ground::Ground;
use crate::support::cluster::SYSTEM;
use crate::support::gateway::condition;
use crate::support::tell;

fn restart(ground: &Ground<'_>, part: &str, pause: Duration) {
    ground.script(&["stop-part", part]);
    sleep(pause);
    ground.script(&["start-part", part]);
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "API server restarted", does: |g| restart(g, "kube-apiserver", Duration::ZERO) },
    Scenario {
        name: "API server killed right after a change",
        does: |g| {
            g.next_word();
            restart(g, "kube-apiserver", Duration::from_secs(1));
        },
    },
    Scenario {
        name: "API server away for 12 s, longer than a leader holds on",
        does: |g| restart(g, "kube-apiserver", Duration::from_secs(12)),
    },
    Scenario { name: "etcd restarted", does: |g| restart(g, "etcd", Duration::ZERO) },
    Scenario {
        name: "etcd away for 5 s right after a change",
        does: |g| {
            g.next_word();
            restart(g, "etcd", Duration::from_secs(5));
        },
    },
    Scenario {
        name: "API server and operator die together",
        does: |g| {
            g.next_word();
            let leader = g.operators().remove(0);
            g.script(&["stop-part", "kube-apiserver"]);
            sleep(Duration::from_secs(1));
            g.script(&["start-part", "kube-apiserver"]);
            g.script(&["kill-pod", SYSTEM, &leader]);
        },
    },
    Scenario {
        name: "API server restarted while children are deleted",
        does: |g| {
            g.kubectl(&[
                "delete",
                "service/default",
                "networkpolicy/default",
                "configmap/default-bundle-0",
                "--wait=false",
            ]);
            restart(g, "kube-apiserver", Duration::ZERO);
        },
    },
];

/// The length of an outage, and the short one of `make test`.
fn length(long: u64, short: u64) -> Duration {
    Duration::from_secs(if std::env::var_os("POSTERN_SOAK").is_some() { long } else { short })
}

/// Mail all the while: each letter goes to the pods in turn until one takes it. Returns what `meanwhile` does.
fn under_mail<T>(ground: &Ground<'_>, addresses: &[String], meanwhile: impl FnOnce() -> T) -> T {
    let (over, sent, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let before = ground.sink.mail().len();
    let sink = ground.sink.address;
    let result = scope(|scope| {
        let sender = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let taken = addresses.iter().any(|ip| super::ground::mail(ip, "harmless").starts_with("250"));
                if taken { &sent } else { &lost }.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(200));
            }
        });
        let result = meanwhile();
        over.store(true, Ordering::Relaxed);
        sender.join().expect("it only sends");
        result
    });
    let (sent, lost) = (sent.into_inner(), lost.into_inner());
    assert!(sent > 0 && lost == 0, "{lost} of {} letters found no pod to take them", sent + lost);
    crate::support::wait_for(&format!("{sent} letters arrive at {sink}"), Duration::from_secs(60), || {
        (ground.sink.mail().len() >= before + sent).then_some(())
    });
    tell(&format!("{sent} letters meanwhile, all delivered"));
    result
}

/// A change, and the time until it is Ready everywhere and obeyed.
fn next_change(ground: &Ground<'_>, what: &str) {
    let began = Instant::now();
    let word = ground.next_word();
    ground.all_ready(Duration::from_secs(30));
    let took = began.elapsed();
    ground.obeys(&word);
    tell(&format!("{what}: a change and all statuses right after {} ms", took.as_millis()));
    assert!(took <= Duration::from_secs(5), "{took:?}");
}

/// E18.
pub fn operator_down(ground: &Ground<'_>) {
    let length = length(600, 20);
    let word = ground.word();
    ground.cluster.scale_operator(0);
    let began = Instant::now();
    let addresses: Vec<String> = ground.pods().into_iter().map(|(_, ip)| ip).collect();
    // One pod stays; the other is restarted in every way.
    under_mail(ground, &addresses[1..], || {
        ground.script(&["kill-pod", &ground.namespace.name, "default-0"]);
        sleep(Duration::from_secs(2));
        ground.kubectl(&["delete", "pod/default-0", "--wait"]);
        ground.kubectl(&["wait", "--for=condition=Ready", "pod/default-0", "--timeout=90s"]);
        ground.obeys(&word);
        ground.next_word();
        while began.elapsed() < length {
            sleep(Duration::from_secs(1));
        }
        // The new word is nobody's yet, and no status claims so.
        ground.obeys(&word);
        let rule = ground.namespace.get("cpr/word");
        let ready = condition(&rule["status"], "Ready").expect("there is one");
        assert_ne!(ready["observedGeneration"], rule["metadata"]["generation"], "{ready}");
    });
    ground.cluster.scale_operator(1);
    let back = Instant::now();
    ground.all_ready(Duration::from_secs(30));
    let took = back.elapsed();
    tell(&format!("operator away for {length:?}: statuses right {} ms after it was back", took.as_millis()));
    assert!(took <= Duration::from_secs(5), "{took:?}");
    ground.obeys(&ground.word());
    next_change(ground, "operator back");
    ground.converged();
}

pub fn api_server_down(ground: &Ground<'_>) {
    let length = length(300, 15);
    let word = ground.word();
    let addresses: Vec<String> = ground.pods().into_iter().map(|(_, ip)| ip).collect();
    under_mail(ground, &addresses, || {
        ground.script(&["stop-part", "kube-apiserver"]);
        sleep(length);
        for ip in &addresses {
            assert!(ground.mail(ip, &word).starts_with("550"), "{ip} obeys the last revision");
        }
        ground.script(&["start-part", "kube-apiserver"]);
    });
    next_change(ground, &format!("API server away for {length:?}"));
    ground.converged();
}
