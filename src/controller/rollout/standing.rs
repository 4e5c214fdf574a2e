//! Which objects the pods obey as written, and which wait although everything is published: because the gateway is
//! pinned to a former revision, or because a staged rollout has not reached all pods or was taken back. Pure.

use std::collections::{HashMap, HashSet};

use crate::bundle::document::{ObjectId, Origin};
use crate::bundle::manifest::Halted;
use crate::bundle::{Bundle, Revision};

/// Why what some authors wrote is not obeyed by every pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Why {
    /// `spec.pinnedRevision` names this one.
    Pinned(Revision),
    /// Some pods have it first.
    Staged,
    /// It was taken back.
    Halted(Halted),
}

/// The objects that wait, and why. The default: none does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standings(Option<(Why, HashSet<ObjectId>)>);

impl Standings {
    /// Of what authors want (`newest`) and what all pods are to run (`in_force`).
    pub fn between(why: Why, newest: &Bundle, in_force: Option<&Bundle>) -> Self {
        let sorted = |bundle: Option<&Bundle>| -> HashMap<ObjectId, (String, i64)> {
            let origins = bundle.into_iter().flat_map(Bundle::origins);
            origins
                .map(|Origin { object, uid, generation }| (object.clone(), (uid.clone(), *generation)))
                .collect()
        };
        let (newest, in_force) = (sorted(Some(newest)), sorted(in_force));
        let differs = |object: &&ObjectId| newest.get(*object) != in_force.get(*object);
        let waiting = newest.keys().chain(in_force.keys()).filter(differs).cloned().collect();
        Self(Some((why, waiting)))
    }

    /// Why this object waits, if it does.
    pub fn of(&self, object: &ObjectId) -> Option<&Why> {
        self.0.as_ref().filter(|(_, waiting)| waiting.contains(object)).map(|(why, _)| why)
    }

    /// Why anything waits.
    pub fn why(&self) -> Option<&Why> {
        self.0.as_ref().map(|(why, _)| why)
    }

    /// All objects that wait for something else than their pods.
    pub fn waiting(&self) -> impl Iterator<Item = &ObjectId> {
        self.0.iter().flat_map(|(_, waiting)| waiting)
    }

    /// Objects that no pod obeys as written, and that will not be obeyed by waiting.
    pub fn withheld(&self) -> impl Iterator<Item = &ObjectId> {
        let withheld = self.0.as_ref().filter(|(why, _)| match why {
            Why::Pinned(_) | Why::Halted(_) => true,
            Why::Staged => false,
        });
        withheld.into_iter().flat_map(|(_, waiting)| waiting)
    }
}
