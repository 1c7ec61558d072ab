//! Does this model give the same bits in any company? The same prompt and continuation are decoded in fourteen compositions that differ
//! only in what must not matter, and the logits are compared bit by bit. A model that passes may run in deterministic mode.
//!
//! It is a test, not a proof: it finds kernels that choose their order of summation by the shape of the batch, which is how llama.cpp's
//! results come to depend on company (measured: flash attention, K-quants, F16 and F32 weights).

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::vocab::Token;

/// Slots that the test needs.
pub const SLOTS: usize = 16;
/// Rows of a rectangle when the sequence has company of its own length.
const COMPANY: usize = 4;
/// Tokens decoded after the prompt, one by one.
pub const CONTINUATION: usize = 4;
/// The shortest prompt that the compositions can be cut from.
pub const MIN_PROMPT: usize = 48;

/// What the test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Compositions tried.
    pub compositions: usize,
    /// Names of those that gave other bits than the first.
    pub differing: Vec<&'static str>,
}

/// Run the test on a fresh model with at least [`SLOTS`] slots. `prompt` tokens are taken from `tokens`, which must hold ordinary tokens
/// of the vocabulary; `threads` is restored at the end.
///
/// # Errors
/// [`Error::Option`] when the model is too small for the test; [`Error::Decode`] when it fails.
pub fn run(model: &mut dyn Model, tokens: &[Token], prompt: usize, threads: usize) -> Result<Report> {
    let limits = model.limits();
    let longest = limits.context.saturating_sub(CONTINUATION) / 2;
    if limits.slots < SLOTS || limits.batch < MIN_PROMPT || !(MIN_PROMPT..=longest).contains(&prompt) || tokens.is_empty() {
        let expected = format!("between {MIN_PROMPT} and {longest}, with {SLOTS} slots and a batch of {MIN_PROMPT} or more");
        return Err(Error::Option { name: "self-test prompt", value: prompt.to_string(), expected });
    }
    let text = |seed: usize| (0..2 * prompt + CONTINUATION).map(|i| tokens[(i * i * 7 + i * 31 + seed * 101) % tokens.len()]).collect();
    let mut trial = Trial { model, texts: [text(0), text(1)], prompt, threads };
    let reference = trial.run(&Composition::PLAIN)?;
    let mut differing = Vec::new();
    for composition in &COMPOSITIONS {
        if trial.run(composition)? != reference {
            differing.push(composition.name);
        }
    }
    trial.model.set_threads(threads);
    Ok(Report { compositions: COMPOSITIONS.len(), differing })
}

/// One way to do the same work.
#[allow(clippy::struct_excessive_bools)] // each is a thing that must not matter
struct Composition {
    name: &'static str,
    /// Slot of the sequence that is compared.
    slot: usize,
    /// Widest chunk of prefill.
    chunk: usize,
    /// Other sequences beside it in prefill and in decode.
    company: bool,
    /// Fifteen others beside it in decode, fourteen of them much shorter and one twice as long.
    crowd: bool,
    /// Prompt tokens taken over from another slot.
    copied: usize,
    /// The slot held another, longer sequence with the same beginning.
    reused: bool,
    /// The sequence moves to another slot between prompt and continuation.
    moved: bool,
    one_thread: bool,
}

impl Composition {
    const PLAIN: Self = Self {
        name: "repeated",
        slot: 0,
        chunk: usize::MAX,
        company: false,
        crowd: false,
        copied: 0,
        reused: false,
        moved: false,
        one_thread: false,
    };
}

const COMPOSITIONS: [Composition; 14] = [
    Composition::PLAIN,
    Composition { name: "on another slot", slot: 2, ..Composition::PLAIN },
    Composition { name: "in chunks of 2", chunk: 2, ..Composition::PLAIN },
    Composition { name: "in chunks of 17", chunk: 17, ..Composition::PLAIN },
    Composition { name: "in chunks of 33", chunk: 33, ..Composition::PLAIN },
    Composition { name: "in company", company: true, ..Composition::PLAIN },
    Composition { name: "in company, on another slot, in chunks of 12", slot: 3, chunk: 12, company: true, ..Composition::PLAIN },
    Composition { name: "in a crowd of shorter and longer ones", crowd: true, ..Composition::PLAIN },
    Composition { name: "in a crowd, on another slot, in chunks of 40", slot: 7, chunk: 40, crowd: true, ..Composition::PLAIN },
    Composition { name: "after a copied prefix", copied: 23, ..Composition::PLAIN },
    Composition { name: "after a copied prefix, in company", slot: 1, copied: 40, company: true, ..Composition::PLAIN },
    Composition { name: "on a slot used before", reused: true, chunk: 29, ..Composition::PLAIN },
    Composition { name: "moved before decoding", moved: true, ..Composition::PLAIN },
    Composition { name: "on one thread, in company", one_thread: true, company: true, ..Composition::PLAIN },
];

struct Trial<'a> {
    model: &'a mut dyn Model,
    /// The compared text, and that of all company.
    texts: [Vec<Token>; 2],
    prompt: usize,
    threads: usize,
}

impl Trial<'_> {
    /// Bits of the logits after the prompt and after each token of the continuation.
    fn run(&mut self, composition: &Composition) -> Result<Vec<u32>> {
        self.model.set_threads(if composition.one_thread { 1 } else { self.threads });
        for slot in 0..SLOTS {
            self.model.truncate(slot, 0);
        }
        let mut slot = composition.slot;
        let mut done = 0;
        let donor = (slot + 1) % COMPANY;
        if composition.copied > 0 {
            self.decode(donor, 1, 0, self.prompt)?;
            self.model.copy(donor, slot);
            self.model.truncate(donor, 0);
            done = composition.copied;
        }
        if composition.reused {
            self.decode(slot, 1, 0, self.prompt)?;
            done = self.prompt / 3;
        }
        self.model.truncate(slot, done);
        // The company prefills and decodes whole rectangles with the sequence; before that it catches up with what was taken over.
        let (first, rows) = if composition.company { (0, COMPANY) } else { (slot, 1) };
        if done > 0 && rows > 1 {
            for other in (0..COMPANY).filter(|&other| other != slot) {
                self.decode_text(other, 1, 1, 0, done)?;
            }
        }
        let mut bits = Vec::new();
        while done < self.prompt {
            let left = self.prompt - done;
            let mut width = left.min(composition.chunk).min(self.model.limits().batch / rows);
            if left - width == 1 {
                width = if width == 2 { 3.min(self.model.limits().batch / rows) } else { width - 1 };
            }
            bits = self.rectangle(composition.slot, first, &vec![done; rows], width)?;
            done += width;
        }
        if composition.moved {
            self.model.copy(slot, donor);
            self.model.truncate(slot, 0);
            slot = donor;
        }
        let first = if composition.company || composition.crowd { 0 } else { slot };
        let mut lengths = vec![self.prompt; rows];
        if composition.crowd {
            lengths = (0..SLOTS).map(|other| if other == donor { 2 * self.prompt } else { 8 + other }).collect();
            for other in (0..SLOTS).filter(|&other| other != slot) {
                self.decode_text(other, 1, 1, 0, lengths[other])?;
            }
            lengths[slot] = self.prompt;
        }
        for _ in 0..CONTINUATION {
            bits.extend(self.rectangle(slot, first, &lengths, 1)?);
            for length in &mut lengths {
                *length += 1;
            }
        }
        Ok(bits)
    }

    /// Decode `width` tokens of the compared text on one slot.
    fn decode(&mut self, slot: usize, rows: usize, position: usize, width: usize) -> Result<()> {
        self.decode_text(slot, rows, 0, position, width)
    }

    fn decode_text(&mut self, slot: usize, rows: usize, text: usize, position: usize, width: usize) -> Result<()> {
        let batch = self.model.limits().batch;
        let mut at = position;
        while at < position + width {
            let left = position + width - at;
            let mut take = left.min(batch / rows);
            if left - take == 1 {
                take -= 1;
            }
            let mut batch = Batch::default();
            batch.push_row(slot, &self.texts[text][at..at + take], at, false);
            self.model.decode(&batch)?;
            at += take;
        }
        Ok(())
    }

    /// Decode a rectangle in which `slot` holds the compared text, and return the bits of its logits.
    fn rectangle(&mut self, slot: usize, first: usize, positions: &[usize], width: usize) -> Result<Vec<u32>> {
        let mut batch = Batch::default();
        for (row, &position) in (first..).zip(positions) {
            // Any other text will do for the company, as long as a slot keeps its own.
            let text = usize::from(row != slot);
            batch.push_row(row, &self.texts[text][position..position + width], position, true);
        }
        self.model.decode(&batch)?;
        let tokens = batch.tokens().len();
        let rows = self.model.logits()?;
        let row = rows.get(slot - first).ok_or_else(|| Error::Decode { tokens, reason: "there are no logits".into() })?;
        Ok(row.iter().map(|logit| logit.to_bits()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;
    use crate::scripted::Scripted;

    /// Adds a hair to the logits of every rectangle with more than `rows` rows, as a kernel that sums in another order does.
    struct DependsOnCompany(Scripted, Vec<Vec<f32>>, usize);

    impl Model for DependsOnCompany {
        fn limits(&self) -> Limits {
            self.0.limits()
        }
        fn decode(&mut self, batch: &Batch) -> Result<()> {
            self.0.decode(batch)?;
            let hair = if batch.rows().len() > self.2 { f32::EPSILON } else { 0.0 };
            self.1 = self.0.logits()?.iter().map(|row| row.iter().map(|logit| logit * (1.0 + hair)).collect()).collect();
            Ok(())
        }
        fn logits(&mut self) -> Result<Vec<&[f32]>> {
            Ok(self.1.iter().map(Vec::as_slice).collect())
        }
        fn copy(&mut self, from: usize, to: usize) {
            self.0.copy(from, to);
        }
        fn truncate(&mut self, slot: usize, length: usize) -> bool {
            self.0.truncate(slot, length)
        }
        fn length(&self, slot: usize) -> usize {
            self.0.length(slot)
        }
        fn set_threads(&mut self, threads: usize) {
            self.0.set_threads(threads);
        }
    }

    fn tokens() -> Vec<Token> {
        (32..127).collect()
    }

    #[test]
    fn an_exact_model_passes() {
        for (prompt, batch) in [(48, 48), (61, 64), (100, 512)] {
            let report = run(&mut Scripted::new(SLOTS, 256, batch), &tokens(), prompt, 2).unwrap();
            assert_eq!(report, Report { compositions: 14, differing: vec![] });
        }
    }

    #[test]
    fn a_model_that_depends_on_its_company_is_found_out() {
        let mut model = DependsOnCompany(Scripted::new(SLOTS, 256, 512), vec![], 1);
        let report = run(&mut model, &tokens(), 64, 2).unwrap();
        assert!(
            report.differing.iter().all(|name| name.contains("company") || name.contains("crowd")) && report.differing.len() == 6,
            "{report:?}"
        );
    }

    #[test]
    fn a_model_too_small_for_the_test_is_refused() {
        assert!(run(&mut Scripted::new(2, 256, 512), &tokens(), 64, 2).is_err());
        assert!(run(&mut Scripted::new(SLOTS, 60, 512), &tokens(), 64, 2).is_err());
    }
}
