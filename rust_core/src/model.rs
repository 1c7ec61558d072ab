//! What the engine asks of a model.

use crate::batch::Rectangle;
use crate::error::Result;

/// The sizes that the engine has to keep within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that may be in KV at the same time.
    pub slots: usize,
    /// Tokens that one sequence may hold, prompt and completion together.
    pub context: usize,
    /// Tokens that one rectangle may hold.
    pub batch: usize,
    /// Entries of a row of logits.
    pub vocab: usize,
}

/// A model with one KV stream a slot. Only the engine's thread touches it.
pub trait Model: Send {
    fn limits(&self) -> Limits;

    /// Run the model on a rectangle; its tokens enter KV.
    ///
    /// # Errors
    /// [`crate::error::Error::Decode`]; the rectangle's slots must be truncated before they are used again.
    fn decode(&mut self, rectangle: &Rectangle) -> Result<()>;

    /// Logits of the last rectangle, one slice of `vocab` entries for each row that wanted them, in row order. Valid until the next
    /// decode.
    ///
    /// # Errors
    /// [`crate::error::Error::Decode`] when the model gave none.
    fn logits(&mut self) -> Result<Vec<&[f32]>>;

    /// Make slot `to` hold what slot `from` holds.
    fn copy(&mut self, from: usize, to: usize);

    /// Keep the first `length` tokens of a slot. False when this model cannot; the slot is then empty.
    fn truncate(&mut self, slot: usize, length: usize) -> bool;

    /// Use that many threads from now on; a model without threads ignores it.
    fn set_threads(&mut self, threads: usize);
}
