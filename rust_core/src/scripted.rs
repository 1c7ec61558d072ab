//! A model without weights: its logits are a function of the tokens in a slot's KV, so that a wrong position, a stale cell or a mixed-up
//! slot shows in the text. It checks the rules of rectangles that llama.cpp would punish with an abort or with other bits.

use crate::batch::Rectangle;
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
        let space = self.adds_space.then_some(b' ');
        Ok(space.into_iter().chain(text.bytes()).map(Token::from).collect())
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
        let limits = Limits { slots, context, batch, vocab: ByteVocab::default().size() };
        Self { limits, kv: vec![Vec::new(); slots], logits: Vec::new(), calls: 0, fails: Box::new(|_| false), end_bias: 1.5 }
    }

    /// Let the decode calls fail for whose number `fails` says so.
    #[must_use]
    pub fn failing(mut self, fails: impl Fn(usize) -> bool + Send + 'static) -> Self {
        self.fails = Box::new(fails);
        self
    }

    fn logits_after(&self, tokens: &[Token]) -> Vec<f32> {
        let hasher = tokens.iter().fold(Hasher::new("scripted"), |hasher, &token| hasher.int(u64::from(token.cast_unsigned())));
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

    fn check(&self, rectangle: &Rectangle) -> std::result::Result<(), String> {
        let size = rectangle.rows() * rectangle.width;
        if size == 0 || size != rectangle.tokens.len() || size > self.limits.batch {
            return Err(format!("a rectangle of {} x {} in a batch of {}", rectangle.rows(), rectangle.width, self.limits.batch));
        }
        for (row, &position) in rectangle.positions.iter().enumerate() {
            let slot = rectangle.first_slot + row;
            let kv = self.kv.get(slot).ok_or_else(|| format!("slot {slot} does not exist"))?;
            if kv.len() != position {
                return Err(format!("slot {slot} holds {} tokens, not {position}", kv.len()));
            }
            if position + rectangle.width > self.limits.context {
                return Err(format!("slot {slot} is full"));
            }
        }
        Ok(())
    }
}

impl Model for Scripted {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, rectangle: &Rectangle) -> Result<()> {
        let call = self.calls;
        self.calls += 1;
        let error = |reason| Error::Decode { tokens: rectangle.tokens.len(), reason };
        self.check(rectangle).map_err(error)?;
        if (self.fails)(call) {
            return Err(error(format!("call {call} was told to fail")));
        }
        self.logits.clear();
        for (row, tokens) in rectangle.tokens.chunks(rectangle.width).enumerate() {
            let slot = rectangle.first_slot + row;
            self.kv[slot].extend_from_slice(tokens);
            if rectangle.outputs[row] {
                let logits = self.logits_after(&self.kv[slot]);
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
    }

    fn truncate(&mut self, slot: usize, length: usize) -> bool {
        self.kv[slot].truncate(length);
        true
    }

    fn set_threads(&mut self, _threads: usize) {}
}
