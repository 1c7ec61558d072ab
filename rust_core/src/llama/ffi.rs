//! llama.cpp's C functions by address: with one function of `py/ipc.rs`, the only unsafe code of the crate.
//!
//! What makes it sound: the addresses come from the library that llama-cpp-python loaded and never unloads; the struct that crosses the
//! boundary by value is compared with the caller's layout before the first call; a context is used by one thread, the owner of its
//! [`crate::llama::LlamaModel`]; the functions on vocabularies only read. C++ exceptions cannot be caught here, so the callers keep to
//! arguments on which llama.cpp throws nothing: they check sizes and ids, and models are vetted in a child process first.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, c_char, c_void};
use std::mem::{offset_of, size_of};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::vocab::Token;

/// `llama_batch`, passed by value.
#[repr(C)]
struct LlamaBatch {
    n_tokens: i32,
    token: *mut i32,
    embd: *mut f32,
    pos: *mut i32,
    n_seq_id: *mut i32,
    seq_id: *mut *mut i32,
    logits: *mut i8,
}

/// Size and offsets that Python's view of `llama_batch` must agree with, by the names of the fields.
pub const BATCH_LAYOUT: [(&str, usize); 8] = [
    ("size of llama_batch", size_of::<LlamaBatch>()),
    ("offset of llama_batch.n_tokens", offset_of!(LlamaBatch, n_tokens)),
    ("offset of llama_batch.token", offset_of!(LlamaBatch, token)),
    ("offset of llama_batch.embd", offset_of!(LlamaBatch, embd)),
    ("offset of llama_batch.pos", offset_of!(LlamaBatch, pos)),
    ("offset of llama_batch.n_seq_id", offset_of!(LlamaBatch, n_seq_id)),
    ("offset of llama_batch.seq_id", offset_of!(LlamaBatch, seq_id)),
    ("offset of llama_batch.logits", offset_of!(LlamaBatch, logits)),
];

/// A pointer that llama-cpp-python opened and frees.
macro_rules! pointer {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(*mut c_void);

        // SAFETY: a plain address. What may be done with it from which thread is said where it is used (see the module's words).
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl $name {
            /// # Errors
            /// [`Error::Missing`] for a null pointer.
            pub fn new(address: usize) -> Result<Self> {
                if address == 0 {
                    return Err(Error::Missing { what: stringify!($name) });
                }
                Ok(Self(address as *mut c_void))
            }
        }
    };
}

pointer!(
    /// `llama_context *`
    ContextPtr
);
pointer!(
    /// `const llama_vocab *`
    VocabPtr
);

macro_rules! library {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)+) => {
        /// The functions that the core calls.
        pub struct Library { $($field: unsafe extern "C" fn($($argument),*) -> $result,)+ }

        impl Library {
            /// The C names of the functions whose addresses [`Library::new`] wants.
            pub const SYMBOLS: &'static [&'static str] = &[$($symbol),+];

            fn from_addresses(addresses: &BTreeMap<String, usize>) -> Result<Self> {
                Ok(Self { $($field: {
                    let address = addresses.get($symbol).copied().filter(|&address| address != 0);
                    let address = address.ok_or(Error::Missing { what: concat!("the address of ", $symbol) })?;
                    // SAFETY: the address is that symbol's in a loaded library, whose declaration the field's type repeats.
                    unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> $result>(address) }
                },)+ })
            }
        }
    };
}

library! {
    decode = "llama_decode": fn(*mut c_void, LlamaBatch) -> i32;
    get_logits_ith = "llama_get_logits_ith": fn(*mut c_void, i32) -> *mut f32;
    get_memory = "llama_get_memory": fn(*mut c_void) -> *mut c_void;
    memory_seq_rm = "llama_memory_seq_rm": fn(*mut c_void, i32, i32, i32) -> bool;
    memory_seq_cp = "llama_memory_seq_cp": fn(*mut c_void, i32, i32, i32, i32) -> ();
    memory_seq_pos_max = "llama_memory_seq_pos_max": fn(*mut c_void, i32) -> i32;
    set_n_threads = "llama_set_n_threads": fn(*mut c_void, i32, i32) -> ();
    vocab_n_tokens = "llama_vocab_n_tokens": fn(*mut c_void) -> i32;
    vocab_get_attr = "llama_vocab_get_attr": fn(*mut c_void, i32) -> i32;
    vocab_is_eog = "llama_vocab_is_eog": fn(*mut c_void, i32) -> bool;
    vocab_bos = "llama_vocab_bos": fn(*mut c_void) -> i32;
    vocab_get_add_bos = "llama_vocab_get_add_bos": fn(*mut c_void) -> bool;
    tokenize = "llama_tokenize": fn(*mut c_void, *const c_char, i32, *mut i32, i32, bool, bool) -> i32;
    token_to_piece = "llama_token_to_piece": fn(*mut c_void, i32, *mut c_char, i32, i32, bool) -> i32;
}

impl Library {
    /// # Errors
    /// [`Error::Missing`] when an address is, [`Error::Layout`] when `layout` (by the names of [`BATCH_LAYOUT`]) is not ours.
    pub fn new(addresses: &BTreeMap<String, usize>, layout: &BTreeMap<String, usize>) -> Result<Self> {
        for (what, expected) in BATCH_LAYOUT {
            let actual = layout.get(what).copied().unwrap_or(usize::MAX);
            if actual != expected {
                return Err(Error::Layout { what, expected, actual });
            }
        }
        Self::from_addresses(addresses)
    }

    pub(super) fn decode(&self, context: ContextPtr, buffers: &mut BatchBuffers) -> i32 {
        let batch = LlamaBatch {
            n_tokens: i32::try_from(buffers.token.len()).unwrap_or(i32::MAX),
            token: buffers.token.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: buffers.pos.as_mut_ptr(),
            n_seq_id: buffers.n_seq_id.as_mut_ptr(),
            seq_id: buffers.seq_id.as_mut_ptr(),
            logits: buffers.logits.as_mut_ptr(),
        };
        // SAFETY: the arrays have n_tokens entries each and outlive the call, which copies what it keeps; the caller checked ids.
        unsafe { (self.decode)(context.0, batch) }
    }

    /// Rows of logits at these places of the last batch.
    pub(super) fn logits<'a>(&self, context: ContextPtr, places: &[i32], vocab: usize) -> Option<Vec<&'a [f32]>> {
        let row = |&place: &i32| {
            // SAFETY: the place was marked for output in the last batch; llama.cpp returns null otherwise.
            let pointer = unsafe { (self.get_logits_ith)(context.0, place) };
            // SAFETY: a row holds `vocab` floats and stands until the next decode; the caller's borrow of the model ends before.
            (!pointer.is_null()).then(|| unsafe { std::slice::from_raw_parts(pointer, vocab) })
        };
        places.iter().map(row).collect()
    }

    pub(super) fn copy_sequence(&self, context: ContextPtr, from: i32, to: i32) {
        // SAFETY: ids are below n_seq_max, and the whole sequence is copied, as copies between streams must be.
        unsafe { (self.memory_seq_cp)((self.get_memory)(context.0), from, to, -1, -1) }
    }

    pub(super) fn remove_from(&self, context: ContextPtr, id: i32, position: i32) -> bool {
        // SAFETY: the id is below n_seq_max.
        unsafe { (self.memory_seq_rm)((self.get_memory)(context.0), id, position, -1) }
    }

    /// The greatest position that a sequence has in KV, -1 for none.
    pub(super) fn last_position(&self, context: ContextPtr, id: i32) -> i32 {
        // SAFETY: the id is below n_seq_max.
        unsafe { (self.memory_seq_pos_max)((self.get_memory)(context.0), id) }
    }

    pub(super) fn set_threads(&self, context: ContextPtr, threads: i32) {
        // SAFETY: sets two integers of the context.
        unsafe { (self.set_n_threads)(context.0, threads, threads) }
    }

    pub(super) fn vocab_size(&self, vocab: VocabPtr) -> usize {
        // SAFETY: reads the vocabulary.
        usize::try_from(unsafe { (self.vocab_n_tokens)(vocab.0) }).unwrap_or(0)
    }

    pub(super) fn token_attributes(&self, vocab: VocabPtr, token: Token) -> i32 {
        // SAFETY: reads the vocabulary; tokens come from it.
        unsafe { (self.vocab_get_attr)(vocab.0, token) }
    }

    pub(super) fn ends_generation(&self, vocab: VocabPtr, token: Token) -> bool {
        // SAFETY: reads the vocabulary.
        unsafe { (self.vocab_is_eog)(vocab.0, token) }
    }

    pub(super) fn vocab_bos(&self, vocab: VocabPtr) -> Option<Token> {
        // SAFETY: reads the vocabulary.
        let (adds, bos) = unsafe { ((self.vocab_get_add_bos)(vocab.0), (self.vocab_bos)(vocab.0)) };
        (adds && bos >= 0).then_some(bos)
    }

    pub(super) fn token_bytes(&self, vocab: VocabPtr, token: Token) -> Vec<u8> {
        let mut buffer = vec![0u8; 64];
        loop {
            let capacity = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer has that capacity; tokens come from the vocabulary.
            let length = unsafe { (self.token_to_piece)(vocab.0, token, buffer.as_mut_ptr().cast(), capacity, 0, true) };
            match usize::try_from(length) {
                Ok(length) => {
                    buffer.truncate(length);
                    return buffer;
                }
                // A negative length is the capacity that is needed.
                Err(_) => buffer.resize(length.unsigned_abs() as usize, 0),
            }
        }
    }

    pub(super) fn tokenize(&self, vocab: VocabPtr, text: &str) -> Vec<Token> {
        let Ok(length) = i32::try_from(text.len()) else { return Vec::new() };
        let mut tokens = vec![0; text.len() + 8];
        loop {
            let capacity = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            // SAFETY: text and buffer have the lengths given; no special tokens are added or looked for.
            let count = unsafe { (self.tokenize)(vocab.0, text.as_ptr().cast(), length, tokens.as_mut_ptr(), capacity, false, false) };
            match usize::try_from(count) {
                Ok(count) => {
                    tokens.truncate(count);
                    return tokens;
                }
                Err(_) => tokens.resize(count.unsigned_abs() as usize, 0),
            }
        }
    }
}

/// The arrays behind a `llama_batch`, allocated once.
pub struct BatchBuffers {
    token: Vec<i32>,
    pos: Vec<i32>,
    n_seq_id: Vec<i32>,
    /// For each token, a pointer to its entry in `ids`.
    seq_id: Vec<*mut i32>,
    ids: Vec<i32>,
    logits: Vec<i8>,
}

// SAFETY: the pointers point into this struct's own heap buffers.
unsafe impl Send for BatchBuffers {}

impl BatchBuffers {
    /// Room for `tokens` tokens.
    #[must_use]
    pub fn new(tokens: usize) -> Self {
        let ints = || Vec::with_capacity(tokens);
        let (seq_id, logits) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        Self { token: ints(), pos: ints(), n_seq_id: ints(), seq_id, ids: ints(), logits }
    }

    pub(super) fn fill(&mut self, batch: &Batch) {
        self.token.clear();
        self.token.extend_from_slice(batch.tokens());
        self.pos.clear();
        self.n_seq_id.clear();
        self.ids.clear();
        self.logits.clear();
        self.seq_id.clear();
        for row in batch.rows() {
            let id = i32::try_from(row.slot).unwrap_or(i32::MAX);
            for column in 0..row.width {
                self.pos.push(i32::try_from(row.position + column).unwrap_or(i32::MAX));
                self.n_seq_id.push(1);
                self.ids.push(id);
                self.logits.push(i8::from(row.output && column + 1 == row.width));
            }
        }
        self.seq_id.extend(self.ids.iter_mut().map(std::ptr::from_mut));
    }
}

/// Messages kept for errors: the last few lines that llama.cpp logged as warnings or errors.
static LOG: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
const KEPT_LINES: usize = 32;

/// llama.cpp's log callback. llama-cpp-python installs a Python one, which takes the GIL on whatever thread logs and so can deadlock;
/// this one must replace it right after the import.
///
/// # Safety
/// `text` is null or a NUL-terminated string.
pub unsafe extern "C" fn log_callback(level: i32, text: *const c_char, _user_data: *mut c_void) {
    // GGML_LOG_LEVEL_WARN = 3, GGML_LOG_LEVEL_ERROR = 4.
    if !(3..=4).contains(&level) || text.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated string that stands for the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned();
    if line.is_empty() {
        return;
    }
    if let Ok(mut log) = LOG.lock() {
        if log.len() == KEPT_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// The last warning or error that llama.cpp logged.
#[must_use]
pub fn last_log_line() -> Option<String> {
    LOG.lock().ok()?.back().cloned()
}

/// All kept warnings and errors, oldest first; they are forgotten.
#[must_use]
pub fn take_log() -> Vec<String> {
    LOG.lock().map(|mut log| log.drain(..).collect()).unwrap_or_default()
}

/// Counts sub-batches: how often llama.cpp ran its graph, whatever it was asked in one call.
static SUB_BATCHES: AtomicU64 = AtomicU64::new(0);
static GET_NAME: AtomicU64 = AtomicU64::new(0);

/// An evaluation callback (`ggml_backend_sched_eval_callback`) that counts sub-batches by their last node and changes nothing. For tests
/// and benchmarks; [`set_name_function`] comes first.
///
/// # Safety
/// `tensor` is a live node of a graph, and the address given to [`set_name_function`] is that of `ggml_get_name`.
pub unsafe extern "C" fn count_sub_batches(tensor: *mut c_void, ask: bool, _user_data: *mut c_void) -> bool {
    let address = usize::try_from(GET_NAME.load(Ordering::Relaxed)).unwrap_or(0);
    if ask && address != 0 {
        // SAFETY: the address is that of `const char * ggml_get_name(const struct ggml_tensor *)`, and the tensor is a live node.
        let name = unsafe {
            let get_name = std::mem::transmute::<usize, unsafe extern "C" fn(*mut c_void) -> *const c_char>(address);
            CStr::from_ptr(get_name(tensor))
        };
        if name.to_bytes() == b"result_output" {
            SUB_BATCHES.fetch_add(1, Ordering::Relaxed);
        }
    }
    // For "ask", whether the node's data is wanted: never. Otherwise, whether to go on: never asked.
    !ask
}

/// Tell [`count_sub_batches`] the address of `ggml_get_name`.
pub fn set_name_function(address: usize) {
    GET_NAME.store(address as u64, Ordering::Relaxed);
}

/// Sub-batches counted so far in this process.
#[must_use]
pub fn sub_batches() -> u64 {
    SUB_BATCHES.load(Ordering::Relaxed)
}
