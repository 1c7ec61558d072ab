//! What one call to the model is given: tokens of sequences on slots.

use crate::vocab::Token;

/// The tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub slot: usize,
    /// Number of tokens.
    pub width: usize,
    /// Position of the first in its sequence.
    pub position: usize,
    /// Whether the logits after the last are wanted.
    pub output: bool,
}

/// Rows of tokens on distinct slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    rows: Vec<Row>,
    /// Row after row.
    tokens: Vec<Token>,
}

impl Batch {
    /// Remove all rows, for another use of the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
    }

    /// Add a row.
    pub fn push_row(&mut self, slot: usize, tokens: &[Token], position: usize, output: bool) {
        self.rows.push(Row { slot, width: tokens.len(), position, output });
        self.tokens.extend_from_slice(tokens);
    }

    /// The rows, in the order in which they were added.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The tokens of all rows.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Number of rows whose logits are wanted.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.rows.iter().filter(|row| row.output).count()
    }

    /// Whether the rows are equally long and on adjacent, ascending slots.
    ///
    /// llama.cpp splits a batch into sub-batches of sequences with adjacent ascending ids and equal lengths; a rectangle within `n_ubatch`
    /// tokens is exactly one sub-batch, so what a sequence computes does not depend on its company.
    #[must_use]
    pub fn is_rectangle(&self) -> bool {
        self.rows.windows(2).all(|pair| pair[1].slot == pair[0].slot + 1 && pair[1].width == pair[0].width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_has_adjacent_slots_and_equal_widths() {
        let batch = |rows: &[(usize, usize)]| {
            let mut batch = Batch::default();
            for &(slot, width) in rows {
                batch.push_row(slot, &vec![7; width], 0, true);
            }
            batch
        };
        assert!(batch(&[(3, 2), (4, 2), (5, 2)]).is_rectangle() && batch(&[(1, 9)]).is_rectangle());
        for rows in [[(3, 2), (5, 2)], [(4, 2), (3, 2)], [(3, 2), (4, 1)]] {
            assert!(!batch(&rows).is_rectangle(), "{rows:?}");
        }
    }
}
