//! The bytes of a message on their way into the spool and out of it.

use super::CommitError;

/// Bytes of a message, in memory or mapped from disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Content {}

impl Content {
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        todo!()
    }

    pub fn bytes(&self) -> &[u8] {
        todo!()
    }
}

impl From<Vec<u8>> for Content {
    fn from(_bytes: Vec<u8>) -> Self {
        todo!()
    }
}

/// Collects the content of one message. Dropped unfinished, nothing of it remains.
pub struct ContentWriter {}

impl ContentWriter {
    pub fn write(&mut self, _piece: &[u8]) -> Result<(), CommitError> {
        todo!()
    }

    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        todo!()
    }

    pub fn finish(self) -> Result<Content, CommitError> {
        todo!()
    }
}
