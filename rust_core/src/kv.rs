//! The KV of all slots: the model that holds it, and where slots share it, its books.

use crate::batch::Batch;
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::model::{Limits, Model};

/// What a copy of a slot costs, in tokens that could be prefilled meanwhile, where each slot has a stream of its own: the whole stream is
/// copied (measured on a 135M model; less on a larger one, where reuse pays sooner).
const STREAM_COPY: usize = 16;

/// A model and its KV. All changes of KV go through here.
pub struct Kv {
    model: Box<dyn Model>,
    cells: Option<Cells>,
}

impl Kv {
    /// # Panics
    /// When the model's limits are beyond what [`Cells`] can count.
    #[must_use]
    pub fn new(model: Box<dyn Model>) -> Self {
        let limits = model.limits();
        Self { model, cells: limits.cells.map(|count| Cells::new(limits.slots, count)) }
    }

    /// The model's sizes.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.model.limits()
    }

    /// Where all slots share one KV, its books.
    #[must_use]
    pub fn cells(&self) -> Option<&Cells> {
        self.cells.as_ref()
    }

    /// What a copy of a slot costs, in tokens that could be prefilled meanwhile. Within a shared KV it only marks cells.
    #[must_use]
    pub fn copy_cost(&self) -> usize {
        if self.cells.is_some() { 1 } else { STREAM_COPY }
    }

    /// See [`Model::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&mut self, batch: &Batch) -> Result<()> {
        self.model.decode(batch)?;
        if let Some(cells) = &mut self.cells {
            for row in batch.rows() {
                if !cells.extend(row.slot, row.width) {
                    let reason = "the model took more tokens than its KV has cells".into();
                    return Err(Error::Decode { tokens: batch.tokens().len(), reason });
                }
            }
        }
        Ok(())
    }

    /// See [`Model::logits`].
    ///
    /// # Errors
    /// As there.
    pub fn logits(&mut self) -> Result<Vec<&[f32]>> {
        self.model.logits()
    }

    /// Make slot `to` hold what slot `from` holds.
    pub fn copy(&mut self, from: usize, to: usize) {
        self.model.copy(from, to);
        if let Some(cells) = &mut self.cells {
            cells.copy(from, to);
        }
    }

    /// Keep the first `length` tokens of a slot. False when the model cannot; the slot is then empty.
    pub fn truncate(&mut self, slot: usize, length: usize) -> bool {
        let kept = self.model.truncate(slot, length);
        if let Some(cells) = &mut self.cells {
            cells.truncate(slot, if kept { length } else { 0 });
        }
        kept
    }

    /// Hold the model's KV and the books against the number of tokens that each slot should hold.
    ///
    /// # Errors
    /// [`Error::Integrity`] with the first thing that does not agree.
    pub fn check(&self, lengths: impl Iterator<Item = usize>) -> Result<()> {
        for (slot, expected) in lengths.enumerate() {
            let held = self.model.length(slot);
            let counted = self.cells.as_ref().map_or(held, |cells| cells.length(slot));
            if held != expected || counted != expected {
                let found = format!("slot {slot} holds {held} tokens, {counted} by the books, where {expected} belong");
                return Err(Error::Integrity { found });
            }
        }
        match self.cells.as_ref().and_then(Cells::check) {
            Some(found) => Err(Error::Integrity { found }),
            None => Ok(()),
        }
    }
}
