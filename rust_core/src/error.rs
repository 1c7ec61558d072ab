//! What can go wrong in the core. Each variant names the thing, the value and, where there is one, the remedy.

/// Result of the core's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the core. Python sees each variant as one class of `matrix_py.errors` (see [`Error::python_class`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An event's payload breaks the canonical form (see [`crate::payload`]).
    #[error("payload is not canonical at byte {offset}: {reason}")]
    Payload { offset: usize, reason: &'static str },
    /// An event or a finish was asked for a scene that the log does not have open.
    #[error("scene {scene} is not open in the event log")]
    SceneNotOpen { scene: String },
    /// A scene was opened twice.
    #[error("scene {scene} is already open in the event log")]
    SceneOpenTwice { scene: String },
    /// A completion was recorded for a turn that it does not answer.
    #[error("the completion of turn {other} was recorded as the answer to turn {path}")]
    NotTheAnswer { path: String, other: String },
    /// A turn's setting is out of range.
    #[error("turn setting {name} is {value}; it must be {expected}")]
    Setting { name: &'static str, value: String, expected: &'static str },
    /// A prompt with fewer than two tokens: no token may be prefilled alone (see [`crate::scheduler`]).
    #[error("turn {path} has a prompt of {tokens} tokens; at least 2 are needed")]
    PromptTooShort { path: String, tokens: usize },
    /// A form is not a grammar that llguidance accepts.
    #[error("form does not parse as a Lark grammar: {reason}")]
    Form { reason: String },
    /// The vocabulary cannot be used.
    #[error("vocabulary: {reason}")]
    Vocabulary { reason: String },
    /// The engine was opened with options that cannot work.
    #[error("engine option {name} is {value}; it must be {expected}")]
    Option { name: &'static str, value: String, expected: String },
    /// A struct of this llama.cpp is laid out otherwise than the one this version was built for.
    #[error("llama.cpp's {what} is {actual}, not {expected}: install a llama-cpp-python version that matrix pins")]
    Layout { what: &'static str, expected: usize, actual: usize },
    /// An address or a pointer that the core needs was not given.
    #[error("{what} is missing: install a llama-cpp-python version that matrix pins")]
    Missing { what: &'static str },
    /// `llama_decode` returned a code, or gave no usable logits.
    #[error("llama.cpp could not decode {tokens} tokens: {reason}")]
    Decode { tokens: usize, reason: String },
    /// What is in KV is not what the engine takes it for: an error of the engine.
    #[error("the KV cache is not what it should be: {found}; please report it, and resume the run")]
    Integrity { found: String },
    /// The sampler or the grammar met a state it cannot go on from.
    #[error("turn {path} cannot be sampled: {reason}")]
    Sampling { path: String, reason: String },
    /// The turn was cancelled before it was complete.
    #[error("turn {path} was cancelled")]
    Cancelled { path: String },
    /// An Arrow stream failed on its way, or is not whole; Arrow's words or those of whoever made the stream.
    #[error("{reason}")]
    Arrow { reason: String },
    /// The engine is closed, or its thread has ended.
    #[error("the engine is closed")]
    Closed,
}

impl Error {
    /// Name of the class in `matrix_py.errors` that stands for this error in Python.
    #[must_use]
    pub fn python_class(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "PayloadError",
            Self::SceneNotOpen { .. } | Self::SceneOpenTwice { .. } | Self::NotTheAnswer { .. } => "SceneError",
            Self::Setting { .. } | Self::PromptTooShort { .. } | Self::Form { .. } => "RequestError",
            Self::Vocabulary { .. } | Self::Layout { .. } | Self::Missing { .. } => "ModelError",
            Self::Option { .. } => "ConfigError",
            Self::Decode { .. } | Self::Integrity { .. } | Self::Sampling { .. } | Self::Cancelled { .. } => "EngineError",
            Self::Arrow { .. } => "StoreError",
            Self::Closed => "EngineClosedError",
        }
    }

    /// Every class that [`Error::python_class`] can name: the table that the Python tests hold against `matrix_py.errors`.
    pub const PYTHON_CLASSES: [&'static str; 8] =
        ["PayloadError", "SceneError", "RequestError", "ModelError", "ConfigError", "EngineError", "StoreError", "EngineClosedError"];
}
