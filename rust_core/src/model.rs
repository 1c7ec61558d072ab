//! What the engine asks of a model.

use crate::batch::Batch;
use crate::error::Result;

/// The sizes that the engine has to keep within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that may be in KV at the same time.
    pub slots: usize,
    /// Tokens that one sequence may hold, prompt and completion together.
    pub context: usize,
    /// Tokens that one batch may hold.
    pub batch: usize,
    /// Entries of a row of logits.
    pub vocab: usize,
    /// Where all slots share one KV: the tokens that it may hold. None where each slot has a stream of its own, `context` tokens long.
    pub cells: Option<usize>,
}

/// A model with the KV of many sequences. Only the engine's thread touches it.
pub trait Model: Send {
    fn limits(&self) -> Limits;

    /// Run the model on a batch; its tokens enter KV. Where each slot has a stream of its own, the batch is a rectangle.
    ///
    /// # Errors
    /// [`crate::error::Error::Decode`]; the batch's slots must be truncated before they are used again.
    fn decode(&mut self, batch: &Batch) -> Result<()>;

    /// Logits of the last batch, one slice of `vocab` entries for each row that wanted them, in row order. Valid until the next
    /// decode.
    ///
    /// # Errors
    /// [`crate::error::Error::Decode`] when the model gave none.
    fn logits(&mut self) -> Result<Vec<&[f32]>>;

    /// Make slot `to` hold what slot `from` holds.
    fn copy(&mut self, from: usize, to: usize);

    /// Keep the first `length` tokens of a slot. False when this model cannot; the slot is then empty.
    fn truncate(&mut self, slot: usize, length: usize) -> bool;

    /// Tokens that a slot's KV holds.
    fn length(&self, slot: usize) -> usize;

    /// Use that many threads from now on; a model without threads ignores it.
    fn set_threads(&mut self, threads: usize);
}
