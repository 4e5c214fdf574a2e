//! A publication handed over directly: the manifest that was just written to the API server, and the pieces that
//! are new in it. The ConfigMaps stay the record; this only spares a pod the wait for its kubelet, which looks at
//! a changed pod at most once a second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the controller posts to `/bundle` on a pod's control port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// `manifest.json`, byte for byte as published.
    pub manifest: Vec<u8>,
    /// Pieces by key. A pod that lacks others waits for its mount.
    pub pieces: BTreeMap<String, Vec<u8>>,
}

impl Push {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("bytes and texts are always encoded")
    }

    /// `None`: these bytes are no push.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
