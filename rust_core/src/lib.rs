//! The exact and the fast half of matrix. It knows turns, tokens and events; it knows nothing of roles or prompts.
//!
//! Read it in this order:
//!
//! | module | what it holds |
//! |---|---|
//! | [`error`], [`hash`] | the error tree; BLAKE3 over fields |
//! | [`payload`], [`event`], [`log`] | canonical payloads; the hash chain of a scene; sequencing, buffering, Arrow batches |
//! | [`turn`] | a request to the model, its identity, its completion |
//! | [`vocab`] | segments of text to tokens and back, with untrusted text kept text |
//! | [`model`], [`batch`] | what the engine asks of a model; rows of tokens |
//! | [`llama`], [`scripted`] | the model behind llama.cpp's C functions; a deterministic stand-in that needs no weights |
//! | [`sampler`], [`grammar`], `distinct` | the next token from logits; forms, through llguidance; lines that may not stand twice |
//! | [`kv`], [`cells`] | a model's KV; which parts of it the slots hold, where they share it |
//! | [`sequence`], [`slots`], [`prefix`], [`scheduler`] | a turn in flight; who is on which slot; reuse of prompt tokens; what to decode next |
//! | [`engine`], `batching` | turns in, answers out; the loop between, on a thread of its own |
//! | [`simulation`] | whole runs over a model that only counts: how well the loop fills a machine |
//! | [`selftest`] | whether this model gives the same bits in any company |
//! | `py` | everything that Python sees (feature `python`) |

pub mod batch;
mod batching;
pub mod cells;
mod distinct;
pub mod engine;
pub mod error;
pub mod event;
pub mod grammar;
pub mod hash;
pub mod kv;
pub mod llama;
pub mod log;
pub mod model;
pub mod payload;
pub mod prefix;
#[cfg(feature = "python")]
mod py;
pub mod sampler;
pub mod scheduler;
pub mod scripted;
pub mod selftest;
pub mod sequence;
pub mod simulation;
pub mod slots;
pub mod turn;
pub mod vocab;
