//! Events and the hash chain that binds a scene's events to their order.

use crate::hash::{Hash, Hasher};
use crate::payload::Payload;

/// An immutable fact in its envelope. The run it belongs to is the log's: a log holds one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub scene: Hash,
    /// Position in the scene, from 0, without gaps.
    pub seq: u32,
    pub payload: Payload,
    /// Hash over the event before, the position and the payload.
    pub hash: Hash,
}

/// The hash chain of one scene: it gives each event its position and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    scene: Hash,
    last: Hash,
    next_seq: u32,
}

impl Chain {
    /// The chain of a scene without events. The scene's id stands where the hash before would.
    #[must_use]
    pub fn new(scene: Hash) -> Self {
        Self { scene, last: scene, next_seq: 0 }
    }

    /// Bind `payload` to the end of the chain.
    pub fn append(&mut self, payload: Payload) -> Event {
        let hash = Hasher::new("matrix.event.1").hash(self.last).int(u64::from(self.next_seq)).text(payload.as_str()).finish();
        let event = Event { scene: self.scene, seq: self.next_seq, payload, hash };
        self.last = hash;
        self.next_seq += 1;
        event
    }

    /// Hash of the last event, or the scene's id when there is none.
    #[must_use]
    pub fn last(&self) -> Hash {
        self.last
    }

    /// Number of events bound so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.next_seq
    }
}

/// Identity of a scene: never a row number, so that an inserted row, a shuffle or a limit changes no other scene.
///
/// `response` is the given response, if the input has one; `occurrence` counts earlier inputs with the same instruction and response.
#[must_use]
pub fn scene_id(scene: &str, instruction: &str, response: Option<&str>, occurrence: u64) -> Hash {
    let mut hasher = Hasher::new("matrix.scene.1");
    hasher.text(scene).text(instruction).int(u64::from(response.is_some())).text(response.unwrap_or_default()).int(occurrence);
    hasher.finish()
}

/// The root of a run: a hash over its configuration, then the id and the last hash of each scene, in input order.
pub struct Root(Hasher);

impl Root {
    #[must_use]
    pub fn new(config: Hash) -> Self {
        let mut hasher = Hasher::new("matrix.root.1");
        hasher.hash(config);
        Self(hasher)
    }

    /// Add the next scene.
    pub fn scene(&mut self, scene: Hash, last: Hash) -> &mut Self {
        self.0.hash(scene).hash(last);
        self
    }

    #[must_use]
    pub fn finish(&self) -> Hash {
        self.0.finish()
    }
}
