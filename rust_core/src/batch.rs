//! A rectangle of tokens: what one call to `llama_decode` is given.

use crate::vocab::Token;

/// `rows` sequences on adjacent, ascending slots, each with the same number of tokens.
///
/// llama.cpp splits a batch into sub-batches of sequences with adjacent ascending ids and equal lengths; a rectangle within `n_ubatch`
/// tokens is exactly one sub-batch, so what a sequence computes does not depend on its company.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rectangle {
    /// Slot of the first row; row `i` is on slot `first_slot + i`.
    pub first_slot: usize,
    /// Tokens a row.
    pub width: usize,
    /// Row-major, `rows * width`.
    pub tokens: Vec<Token>,
    /// For each row, the position of its first token in its sequence.
    pub positions: Vec<usize>,
    /// For each row, whether the logits after its last token are wanted.
    pub outputs: Vec<bool>,
}

impl Rectangle {
    /// An empty rectangle of that shape, ready for [`Rectangle::push_row`].
    #[must_use]
    pub fn new(first_slot: usize, width: usize) -> Self {
        Self { first_slot, width, ..Self::default() }
    }

    /// Add the next row.
    ///
    /// # Panics
    /// When `tokens` is not `width` long: an error of the caller that llama.cpp would split into uneven sub-batches.
    pub fn push_row(&mut self, tokens: &[Token], position: usize, output: bool) {
        assert_eq!(tokens.len(), self.width, "rows of a rectangle are equally long");
        self.tokens.extend_from_slice(tokens);
        self.positions.push(position);
        self.outputs.push(output);
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.positions.len()
    }
}
