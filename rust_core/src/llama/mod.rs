//! llama.cpp, loaded once by llama-cpp-python: Python opens the model and the context and hands over pointers and addresses. Here they
//! become a safe [`Vocab`] and [`Model`]; all unsafe code is in [`ffi`].

pub mod ffi;

use std::sync::{Arc, RwLock};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::{Limits, Model};
use crate::vocab::{Token, TokenKind, Vocab};
use ffi::Library;

/// llama.cpp's own bound (`LLAMA_MAX_SEQ`).
pub const MAX_SEQUENCES: usize = 256;

/// The vocabulary of an open model, which goes when the model is closed: whoever closes it empties the lease first.
pub struct LlamaVocab {
    library: Arc<Library>,
    vocab: ffi::VocabPtr,
    lease: Arc<RwLock<bool>>,
    /// The token that begins a prompt, when the vocabulary asks for one.
    bos: Option<Token>,
}

impl LlamaVocab {
    /// # Errors
    /// [`Error::Vocabulary`] when the model has no tokens.
    pub fn new(library: Arc<Library>, vocab: ffi::VocabPtr) -> Result<Self> {
        if library.vocab_size(vocab) == 0 {
            return Err(Error::Vocabulary { reason: "the model has no tokens".into() });
        }
        let bos = library.vocab_bos(vocab);
        Ok(Self { library, vocab, lease: Arc::new(RwLock::new(true)), bos })
    }

    /// True while the vocabulary may be used. Writing false waits until nobody uses it, and nobody does afterwards.
    #[must_use]
    pub fn lease(&self) -> Arc<RwLock<bool>> {
        Arc::clone(&self.lease)
    }
}

impl Vocab for LlamaVocab {
    fn size(&self) -> usize {
        self.library.vocab_size(self.vocab)
    }

    fn kind(&self, token: Token) -> TokenKind {
        // llama_token_attr, a bit field.
        const UNKNOWN: i32 = 1 << 0;
        const UNUSED: i32 = 1 << 1;
        const CONTROL: i32 = 1 << 3;
        const USER_DEFINED: i32 = 1 << 4;
        let attributes = self.library.token_attributes(self.vocab, token);
        if attributes & (CONTROL | UNKNOWN | UNUSED) != 0 {
            TokenKind::Control
        } else if attributes & USER_DEFINED != 0 {
            TokenKind::Added
        } else {
            TokenKind::Text
        }
    }

    fn ends_generation(&self, token: Token) -> bool {
        self.library.ends_generation(self.vocab, token)
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        self.library.token_bytes(self.vocab, token)
    }

    fn encode(&self, text: &str) -> Result<Vec<Token>> {
        match self.lease.read() {
            Ok(open) if *open => Ok(self.library.tokenize(self.vocab, text)),
            _ => Err(Error::Closed),
        }
    }

    fn bos(&self) -> Option<Token> {
        self.bos
    }
}

/// An open context; slots are sequence ids. Each has a KV stream of its own, or all share one (`kv_unified`), as the limits say.
pub struct LlamaModel {
    library: Arc<Library>,
    context: ffi::ContextPtr,
    limits: Limits,
    buffers: ffi::BatchBuffers,
    /// Tokens of the last batch, and where in it logits were asked for.
    decoded: usize,
    outputs: Vec<i32>,
}

impl LlamaModel {
    /// Take over a context. Nobody else may touch it until this is dropped; its owner frees it afterwards.
    ///
    /// # Errors
    /// [`Error::Option`] when the limits are beyond llama.cpp's; [`Error::Decode`] when a probe of two tokens gives no finite logits.
    pub fn new(library: Arc<Library>, context: ffi::ContextPtr, limits: Limits, probe: [Token; 2]) -> Result<Self> {
        if limits.slots == 0 || limits.slots > MAX_SEQUENCES {
            let expected = format!("between 1 and {MAX_SEQUENCES}, the most sequences that llama.cpp allows");
            return Err(Error::Option { name: "slots", value: limits.slots.to_string(), expected });
        }
        let buffers = ffi::BatchBuffers::new(limits.batch);
        let mut model = Self { library, context, limits, buffers, decoded: 0, outputs: Vec::new() };
        model.probe(probe)?;
        Ok(model)
    }

    /// A layout that differs from ours shows here at the latest: as an error code, or as logits that are no numbers.
    fn probe(&mut self, tokens: [Token; 2]) -> Result<()> {
        let mut batch = Batch::default();
        batch.push_row(0, &tokens, 0, true);
        self.decode(&batch)?;
        let finite = self.logits()?.iter().all(|row| row.iter().any(|logit| logit.is_finite()));
        self.truncate(0, 0);
        if finite { Ok(()) } else { Err(Error::Decode { tokens: 2, reason: "the probe gave no finite logits".into() }) }
    }
}

impl Model for LlamaModel {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn decode(&mut self, batch: &Batch) -> Result<()> {
        let tokens = batch.tokens().len();
        let error = |reason: String| Error::Decode { tokens, reason };
        // llama.cpp would abort the process on each of these.
        if tokens == 0 || tokens > self.limits.batch {
            return Err(error(format!("a batch holds 1 to {} tokens", self.limits.batch)));
        }
        if let Some(row) = batch.rows().iter().find(|row| row.slot >= self.limits.slots || row.position + row.width > self.limits.context) {
            return Err(error(format!("{} tokens from position {} of slot {} do not fit", row.width, row.position, row.slot)));
        }
        if batch.tokens().iter().any(|&token| usize::try_from(token).map_or(true, |token| token >= self.limits.vocab)) {
            return Err(error("a token is not in the vocabulary".into()));
        }
        // And this one it would compute in parts, with other bits.
        if self.limits.cells.is_none() && !batch.is_rectangle() {
            return Err(error("slots with a stream each need a rectangle".into()));
        }
        self.buffers.fill(batch);
        self.decoded = tokens;
        self.outputs.clear();
        let mut end = 0;
        for row in batch.rows() {
            end += row.width;
            if row.output {
                self.outputs.push(i32::try_from(end - 1).unwrap_or(i32::MAX));
            }
        }
        match self.library.decode(self.context, &mut self.buffers) {
            0 => Ok(()),
            1 => Err(error("no KV cells are left (code 1)".into())),
            2 => Err(error("it was aborted (code 2)".into())),
            -1 => Err(error("the batch is not valid (code -1)".into())),
            code => Err(error(format!("code {code}; its last message: {}", ffi::last_log_line().unwrap_or_else(|| "none".into())))),
        }
    }

    fn logits(&mut self) -> Result<Vec<&[f32]>> {
        let (tokens, vocab) = (self.decoded, self.limits.vocab);
        let rows = self.library.logits(self.context, &self.outputs, vocab);
        rows.ok_or_else(|| Error::Decode { tokens, reason: "there are no logits".into() })
    }

    fn copy(&mut self, from: usize, to: usize) {
        if self.limits.cells.is_some() {
            // In one stream a copy adds to what is there.
            self.truncate(to, 0);
        }
        self.library.copy_sequence(self.context, sequence_id(from), sequence_id(to));
    }

    fn truncate(&mut self, slot: usize, length: usize) -> bool {
        let id = sequence_id(slot);
        if self.library.remove_from(self.context, id, i32::try_from(length).unwrap_or(i32::MAX)) {
            return true;
        }
        // Recurrent and hybrid models cannot go back to a position, but any sequence can be removed whole.
        self.library.remove_from(self.context, id, 0);
        length == 0
    }

    fn length(&self, slot: usize) -> usize {
        usize::try_from(self.library.last_position(self.context, sequence_id(slot)) + 1).unwrap_or(0)
    }

    fn set_threads(&mut self, threads: usize) {
        self.library.set_threads(self.context, i32::try_from(threads).unwrap_or(i32::MAX));
    }
}

fn sequence_id(slot: usize) -> i32 {
    i32::try_from(slot).unwrap_or(i32::MAX)
}
