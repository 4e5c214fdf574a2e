//! What tests of routes found in the pods of one gateway. Each pod says in its acknowledgement how many of its
//! results were new so far; only those that changed are asked for, over the same connection. Values only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::bundle::document::ObjectId;
use crate::bundle::probe::{Probes, RouteProbe};

/// Results by the uid of the pod.
#[derive(Debug, Default)]
pub struct Collected {
    pods: HashMap<String, Pod>,
    /// Routes of which something was found, or forgotten, since this was asked last.
    changed: BTreeSet<ObjectId>,
}

#[derive(Debug, Default)]
struct Pod {
    instance: String,
    tested: u64,
    routes: BTreeMap<ObjectId, RouteProbe>,
}

impl Collected {
    /// The count up to which a process is known; what another process said in its place is forgotten.
    pub fn known(&mut self, pod: &str, instance: &str) -> u64 {
        let pod = self.pods.entry(pod.to_owned()).or_default();
        if pod.instance != instance {
            self.changed.extend(pod.routes.keys().cloned());
            *pod = Pod { instance: instance.to_owned(), ..Pod::default() };
        }
        pod.tested
    }

    /// Takes in an answer. Whether it says that there may be more up to `wanted`.
    pub fn absorb(&mut self, pod: &str, probes: Probes, wanted: u64) -> bool {
        let Probes { instance, tested, routes } = probes;
        self.known(pod, &instance);
        let pod = self.pods.entry(pod.to_owned()).or_default();
        self.changed.extend(routes.iter().map(|probe| probe.origin.object.clone()));
        let progress = tested > pod.tested;
        pod.tested = tested;
        pod.routes.extend(routes.into_iter().map(|probe| (probe.origin.object.clone(), probe)));
        progress && tested < wanted
    }

    /// There is no reading this pod's results: it is not asked again before it says that there are new ones.
    pub fn give_up(&mut self, pod: &str, instance: &str, count: u64) {
        self.known(pod, instance);
        self.pods.entry(pod.to_owned()).or_default().tested = count;
    }

    pub fn of(&self, pod: &str, route: &ObjectId) -> Option<&RouteProbe> {
        self.pods.get(pod)?.routes.get(route)
    }

    /// Routes of which something was found, or forgotten, since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<ObjectId> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets pods that are gone.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.pods.retain(|pod, _| keep(pod));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::document::{ObjectKind, Origin};
    use crate::bundle::probe::Reason;

    fn result(name: &str, reason: Reason) -> RouteProbe {
        let object =
            ObjectId { kind: ObjectKind::OutboundRoute, namespace: "mail".into(), name: name.into() };
        let at = "2026-11-22T10:00:00Z".parse().unwrap();
        RouteProbe {
            origin: Origin { object, uid: "u".into(), generation: 1 },
            since: at,
            tested_at: at,
            reason,
            message: String::new(),
            hosts: Vec::new(),
        }
    }

    fn answer(instance: &str, tested: u64, routes: Vec<RouteProbe>) -> Probes {
        Probes { instance: instance.into(), tested, routes }
    }

    #[test]
    fn only_what_changed_is_asked_for_and_a_new_process_begins_anew() {
        let mut collected = Collected::default();
        assert_eq!(collected.known("p", "one"), 0);
        let (a, b) = (result("a", Reason::Verified), result("b", Reason::ConnectFailed));
        assert!(collected.absorb("p", answer("one", 1, vec![a.clone()]), 2), "there is more");
        assert!(!collected.absorb("p", answer("one", 2, vec![b.clone()]), 2));
        assert_eq!(collected.known("p", "one"), 2);
        assert_eq!(collected.of("p", &a.origin.object).unwrap().reason, Reason::Verified);
        // A page that brings nothing ends the asking, whatever the pod claims.
        assert!(!collected.absorb("p", answer("one", 2, Vec::new()), 9));
        assert_eq!(collected.known("p", "two"), 0);
        assert_eq!(collected.of("p", &a.origin.object), None);
        collected.give_up("p", "two", 7);
        assert_eq!(collected.known("p", "two"), 7);
        collected.retain(|pod| pod != "p");
        assert_eq!(collected.known("p", "two"), 0);
    }
}
