//! The objects of our kinds by name, and by the gateway they belong to; of each gateway, which of them changed
//! since its driver looked last. So a driver looks at what changed, and at nothing of other gateways.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Entry, Written};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::translate::ObjectKey;

#[derive(Debug, Default)]
pub struct Index {
    objects: HashMap<ObjectId, Arc<Entry>>,
    gateways: HashMap<ObjectKey, Members>,
    /// Those that objects of any gateway may name, and those that cannot be read.
    named: BTreeMap<ObjectId, Arc<Entry>>,
}

/// What belongs to one gateway, whether it exists or not.
#[derive(Debug, Default)]
struct Members {
    objects: BTreeMap<ObjectId, Arc<Entry>>,
    changed: BTreeSet<ObjectId>,
}

impl Index {
    pub fn get(&self, id: &ObjectId) -> Option<&Arc<Entry>> {
        self.objects.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &Entry)> {
        self.objects.iter().map(|(id, entry)| (id, &**entry))
    }

    /// Returns what stood there before.
    pub fn insert(&mut self, id: ObjectId, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.objects.insert(id.clone(), entry.clone());
        if let Some(before) = before.as_ref().filter(|before| before.gateway != entry.gateway) {
            self.leave(&before.gateway, &id);
        }
        let members = self.gateways.entry(entry.gateway.clone()).or_default();
        members.changed.insert(id.clone());
        members.objects.insert(id.clone(), entry.clone());
        self.name(id, entry);
        before
    }

    pub fn remove(&mut self, id: &ObjectId) -> Option<Arc<Entry>> {
        let before = self.objects.remove(id)?;
        self.leave(&before.gateway, id);
        self.named.remove(id);
        Some(before)
    }

    fn name(&mut self, id: ObjectId, entry: Arc<Entry>) {
        let by_kind =
            matches!(id.kind, ObjectKind::OutboundRoute | ObjectKind::AddressList | ObjectKind::Directory);
        match by_kind || matches!(entry.written, Written::Malformed(_)) {
            true => drop(self.named.insert(id, entry)),
            false => drop(self.named.remove(&id)),
        }
    }

    fn leave(&mut self, gateway: &ObjectKey, id: &ObjectId) {
        let Some(members) = self.gateways.get_mut(gateway) else { return };
        members.objects.remove(id);
        members.changed.insert(id.clone());
        if members.objects.is_empty() {
            self.gateways.remove(gateway);
        }
    }

    /// Replaces an entry of which nothing has to be said anew.
    pub fn settle(&mut self, id: &ObjectId, entry: Entry) {
        let entry = Arc::new(entry);
        if let Some(members) = self.gateways.get_mut(&entry.gateway) {
            members.objects.insert(id.clone(), entry.clone());
        }
        self.objects.insert(id.clone(), entry.clone());
        self.name(id.clone(), entry);
    }

    /// The driver is to look at this object again.
    pub fn mark(&mut self, id: &ObjectId) {
        let Some(entry) = self.objects.get(id) else { return };
        if let Some(members) = self.gateways.get_mut(&entry.gateway) {
            members.changed.insert(id.clone());
        }
    }

    /// What changed, came or went since this was asked last.
    pub fn take_changed(&mut self, gateway: &ObjectKey) -> BTreeSet<ObjectId> {
        self.gateways.get_mut(gateway).map(|members| std::mem::take(&mut members.changed)).unwrap_or_default()
    }

    /// The objects of one gateway, itself included.
    pub fn of(&self, gateway: &ObjectKey) -> impl Iterator<Item = (&ObjectId, &Arc<Entry>)> {
        self.gateways.get(gateway).into_iter().flat_map(|members| &members.objects)
    }

    /// How many objects belong to a gateway, itself included.
    pub fn count(&self, gateway: &ObjectKey) -> usize {
        self.gateways.get(gateway).map_or(0, |members| members.objects.len())
    }

    /// Whether the gateway itself is there, readable or not.
    pub fn has_gateway(&self, gateway: &ObjectKey) -> bool {
        self.gateways.get(gateway).is_some_and(|members| members.objects.contains_key(&gateway_id(gateway)))
    }

    /// Gateways that are there, and those that are only referred to.
    pub fn gateways(&self) -> impl Iterator<Item = (&ObjectKey, bool)> {
        self.gateways.keys().map(|key| (key, self.has_gateway(key)))
    }

    /// Routes, lists and directories of other gateways, and what of theirs cannot be read.
    pub fn elsewhere(&self, gateway: &ObjectKey) -> impl Iterator<Item = &Arc<Entry>> {
        self.named.values().filter(move |entry| entry.gateway != *gateway)
    }

    pub fn all(&self) -> impl Iterator<Item = (&ObjectId, &Arc<Entry>)> {
        self.objects.iter()
    }
}

pub fn gateway_id(gateway: &ObjectKey) -> ObjectId {
    let ObjectKey { namespace, name } = gateway.clone();
    ObjectId { kind: ObjectKind::OutboundGateway, namespace, name }
}
