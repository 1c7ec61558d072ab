//! Models without weights. [`Scripted`] is for tests: its logits are a function of the tokens in a slot's KV, so that a wrong position, a
//! stale cell or a mixed-up slot shows in the text, and it checks the rules of batches that llama.cpp would punish with an abort or with
//! other bits. [`Idle`] is for benchmarks.

use crate::batch::Batch;
use crate::cells::Cells;
use crate::error::{Error, Result};
use crate::hash::{Hash, Hasher};
use crate::model::{Limits, Model};
use crate::vocab::{Token, TokenKind, Vocab};

/// Bytes 0 to 255, then these.
const CONTROLS: [&str; 3] = ["<s>", "</s>", "<|role|>"];
const BOS: Token = 256;
const EOS: Token = 257;

/// One token a byte, with a few control tokens.
#[derive(Clone, Copy, Default)]
pub struct ByteVocab {
    /// Put a space before every text, as vocabularies of the SentencePiece kind do.
    pub adds_space: bool,
}

impl Vocab for ByteVocab {
    fn size(&self) -> usize {
        256 + CONTROLS.len()
    }

    fn kind(&self, token: Token) -> TokenKind {
        if token < BOS { TokenKind::Text } else { TokenKind::Control }
    }

    fn ends_generation(&self, token: Token) -> bool {
        token == EOS
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        match u8::try_from(token) {
            Ok(byte) => vec![byte],
            Err(_) => CONTROLS[usize::try_from(token - BOS).unwrap_or_default()].as_bytes().to_vec(),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<Token>> {
        let mut tokens = Vec::with_capacity(text.len() + 1);
        tokens.extend(self.adds_space.then_some(Token::from(b' ')));
        tokens.extend(text.bytes().map(Token::from));
        Ok(tokens)
    }

    fn bos(&self) -> Option<Token> {
        Some(BOS)
    }
}

/// The model over [`ByteVocab`].
pub struct Scripted {
    limits: Limits,
    /// The tokens in each slot's KV.
    kv: Vec<Vec<Token>>,
    /// Where all slots share one KV, its cells.
    cells: Option<Cells>,
    logits: Vec<Vec<f32>>,
    calls: usize,
    /// Fails the decode calls whose number (from 0) this answers with true.
    fails: Box<dyn Fn(usize) -> bool + Send>,
    /// Likelihood of the end token, in logits above the others.
    end_bias: f32,
}

impl Scripted {
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(slots: usize, context: usize, batch: usize) -> Self {
        let limits = Limits { slots, context, batch, vocab: ByteVocab::default().size(), cells: None };
        Self { limits, kv: vec![Vec::new(); slots], cells: None, logits: Vec::new(), calls: 0, fails: Box::new(|_| false), end_bias: 1.5 }
    }

    /// Let all slots share one KV of so many tokens.
    #[must_use]
    pub fn sharing(mut self, tokens: usize) -> Self {
        self.limits.cells = Some(tokens);
        self.cells = Some(Cells::new(self.limits.slots, tokens));
        self
    }

    /// Let the decode calls fail for whose number `fails` says so.
    #[must_use]
    pub fn failing(mut self, fails: impl Fn(usize) -> bool + Send + 'static) -> Self {
        self.fails = Box::new(fails);
        self
    }

    fn logits_after(&self, tokens: &[Token]) -> Vec<f32> {
        let mut hasher = Hasher::new("scripted");
        for token in tokens {
            hasher.int(u64::from(token.cast_unsigned()));
        }
        let mut block = hasher.finish();
        let mut logits = Vec::with_capacity(self.limits.vocab);
        while logits.len() < self.limits.vocab {
            logits.extend(block.0.iter().map(|&byte| f32::from(byte) / 64.0));
            block = Hash::of(&block.0);
        }
        logits.truncate(self.limits.vocab);
        // Control characters stay rare, the end comes now and then.
        logits[..32].iter_mut().for_each(|logit| *logit -= 8.0);
        logits[127..256].iter_mut().for_each(|logit| *logit -= 8.0);
        logits[256] -= 8.0;
        logits[257] += self.end_bias;
        logits[258] -= 8.0;
        logits
    }

    fn check(&self, batch: &Batch) -> std::result::Result<(), String> {
        let size = batch.tokens().len();
        if size == 0 || size > self.limits.batch {
            return Err(format!("{size} tokens in a batch of {}", self.limits.batch));
        }
        if self.cells.is_none() && !batch.is_rectangle() {
            return Err("slots with a stream each need a rectangle".into());
        }
        for row in batch.rows() {
            let kv = self.kv.get(row.slot).ok_or_else(|| format!("slot {} does not exist", row.slot))?;
            if kv.len() != row.position {
                return Err(format!("slot {} holds {} tokens, not {}", row.slot, kv.len(), row.position));
            }
            if row.position + row.width > self.limits.context {
                return Err(format!("slot {} is full", row.slot));
            }
        }
        Ok(())
    }
}

impl Model for Scripted {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &Batch) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        let error = |reason| Error::Decode { tokens: batch.tokens().len(), reason };
        self.check(batch).map_err(error)?;
        if (self.fails)(call) {
            return Err(error(format!("call {call} was told to fail")));
        }
        if self.cells.as_ref().is_some_and(|cells| cells.num_free() < batch.tokens().len()) {
            return Err(error("no KV cells are left".into()));
        }
        self.logits.clear();
        let mut tokens = batch.tokens();
        for row in batch.rows() {
            let (own, rest) = tokens.split_at(row.width);
            tokens = rest;
            self.kv[row.slot].extend_from_slice(own);
            if let Some(cells) = &mut self.cells {
                // Room for all rows was found above.
                let _ = cells.extend(row.slot, row.width);
            }
            if row.output {
                let logits = self.logits_after(&self.kv[row.slot]);
                self.logits.push(logits);
            }
        }
        Ok(())
    }

    fn logits(&mut self) -> Result<Vec<&[f32]>> {
        Ok(self.logits.iter().map(Vec::as_slice).collect())
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.kv[to] = self.kv[from].clone();
        if let Some(cells) = &mut self.cells {
            cells.copy(from, to);
        }
    }

    fn truncate(&mut self, slot: usize, length: usize) -> bool {
        self.kv[slot].truncate(length);
        if let Some(cells) = &mut self.cells {
            cells.truncate(slot, length);
        }
        true
    }

    fn length(&self, slot: usize) -> usize {
        self.kv[slot].len()
    }

    fn set_threads(&mut self, _threads: usize) {}
}

/// A model over [`ByteVocab`] that answers at once, and always the same: what is left of a run's time is the engine's own.
pub struct Idle {
    limits: Limits,
    lengths: Vec<usize>,
    logits: Vec<f32>,
    outputs: usize,
}

impl Idle {
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(slots: usize, context: usize, batch: usize) -> Self {
        let limits = Limits { slots, context, batch, vocab: ByteVocab::default().size(), cells: None };
        Self { limits, lengths: vec![0; slots], logits: vec![0.0; limits.vocab], outputs: 0 }
    }
}

impl Model for Idle {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &Batch) -> Result<()> {
        self.outputs = batch.outputs();
        for row in batch.rows() {
            self.lengths[row.slot] = row.position + row.width;
        }
        Ok(())
    }

    fn logits(&mut self) -> Result<Vec<&[f32]>> {
        Ok(vec![&self.logits; self.outputs])
    }

    fn copy(&mut self, from: usize, to: usize) {
        self.lengths[to] = self.lengths[from];
    }

    fn truncate(&mut self, slot: usize, length: usize) -> bool {
        self.lengths[slot] = self.lengths[slot].min(length);
        true
    }

    fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    fn set_threads(&mut self, _threads: usize) {}
}
