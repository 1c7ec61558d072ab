//! The engine as others see it: turns in, answers out. What happens between is in `batching`, on a thread of its own, which alone
//! touches the model.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::batching::{Command, Loop, Work};
use crate::error::{Error, Result};
use crate::grammar::{Form, Grammars};
use crate::hash::Hash;
use crate::model::Model;
use crate::scheduler::MIN_BATCH;
use crate::sequence::Sequence;
use crate::turn::{Completion, Facts, Finish, Outcome, Source, Turn};
use crate::vocab::{Token, Tokenizer};

/// How the engine uses the model. None of it changes what is said where the model is deterministic.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Turns in flight at the same time. They run on the model's lowest slots; its other slots keep beginnings of prompts that may come
    /// again.
    pub parallel: usize,
    /// Begin prompts with what other sequences left in KV.
    pub prefix_reuse: bool,
    /// Tokens that a turn may hold, prompt and completion together: configuration, never what happens to fit. At most the model's.
    pub context: usize,
    /// Take the slot of the youngest running sequence at every so many steps, as a lack of KV would. For tests: nothing may come of it.
    pub preempt_every: Option<u64>,
}

/// A turn that is done, well or badly.
#[derive(Debug)]
pub struct Answer {
    pub turn: Arc<Turn>,
    pub result: Result<Completion>,
}

/// What the engine has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rounds of the loop: prompt tokens up to a batch, then a token of each sequence that decodes.
    pub steps: u64,
    pub prefill_calls: u64,
    pub decode_calls: u64,
    pub prefilled_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    /// Time in the model, fetching logits included, in microseconds: in calls with prompt tokens, and in those without.
    pub prefill_us: u64,
    pub decode_us: u64,
    /// Slots copied, for reuse of a prefix or to close a gap.
    pub copies: u64,
    /// Sequences that lost their slot to others and had to wait again.
    pub preemptions: u64,
    pub turns: u64,
    pub failed_turns: u64,
    /// Sequences in flight, and turns waiting for a slot, at the last step.
    pub running: u64,
    pub waiting: u64,
}

/// Handle of the engine's thread. Methods take `&self` and may be called from any thread.
pub struct Engine {
    commands: Mutex<Option<Sender<Command>>>,
    answers: Receiver<Vec<Answer>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stats: Arc<Mutex<Stats>>,
    tokenizer: Arc<Tokenizer>,
    grammars: Mutex<Option<Grammars>>,
    context: usize,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Start the engine's thread on `model`, which is dropped there when the engine closes.
    ///
    /// # Errors
    /// [`Error::Option`] when an option does not fit the model.
    pub fn open(model: Box<dyn Model>, tokenizer: Arc<Tokenizer>, options: Options) -> Result<Self> {
        let limits = model.limits();
        let option = |name, value: usize, expected: String| Err(Error::Option { name, value: value.to_string(), expected });
        if options.context > limits.context || options.context < 3 {
            return option("context", options.context, format!("between 3 and {}", limits.context));
        }
        if !(1..=limits.slots).contains(&options.parallel) {
            return option("parallel", options.parallel, format!("between 1 and {}, the model's slots", limits.slots));
        }
        if limits.batch < MIN_BATCH {
            return option("batch", limits.batch, format!("at least {MIN_BATCH}"));
        }
        if let Some(cells) = limits.cells {
            // Else a turn could be too long to fit alone, and a step hold no prompt beside the tokens of those that decode.
            if cells < options.context {
                return option("KV tokens", cells, format!("at least {}, the tokens that a turn may hold", options.context));
            }
            if limits.batch <= options.parallel {
                return option("batch", limits.batch, format!("more than {}, the turns in flight", options.parallel));
            }
        }
        if limits.vocab != tokenizer.size() {
            return option("vocab", limits.vocab, format!("{}, the size of the vocabulary", tokenizer.size()));
        }
        let (commands, inbox) = unbounded();
        let (outbox, answers) = unbounded();
        let stats = Arc::default();
        let run = Loop::new(model, Arc::clone(&tokenizer), options, outbox, Arc::clone(&stats));
        let thread = std::thread::Builder::new()
            .name("matrix-engine".into())
            .spawn(move || run.run(&inbox))
            .map_err(|error| Error::Option { name: "thread", value: error.to_string(), expected: "startable".into() })?;
        Ok(Self {
            commands: Mutex::new(Some(commands)),
            answers,
            thread: Mutex::new(Some(thread)),
            stats,
            tokenizer,
            grammars: Mutex::new(None),
            context: options.context,
        })
    }

    /// Queue turns. Their answers come from [`Engine::collect`], in the order in which they are done.
    ///
    /// # Errors
    /// [`Error::Closed`]; the first turn whose prompt or form cannot be used ([`Error::PromptTooShort`], [`Error::Form`],
    /// [`Error::Vocabulary`]): then none is queued.
    pub fn submit(&self, turns: Vec<impl Into<Arc<Turn>>>) -> Result<()> {
        let sender = lock(&self.commands).clone().ok_or(Error::Closed)?;
        let work = turns.into_iter().map(|turn| self.prepare(turn.into())).collect::<Result<_>>()?;
        sender.send(Command::Run(work)).map_err(|_| Error::Closed)
    }

    /// Queue turns whose prompts are these tokens, whatever their segments say, and which go on to the end of their budget: work of a
    /// given shape, for benchmarks.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::PromptTooShort`], [`Error::Form`], [`Error::Option`] for a prompt that leaves no room for its budget, or for
    /// a token that is not in the vocabulary: then none is queued.
    pub fn submit_tokens<T: Into<Arc<Turn>>>(&self, work: Vec<(T, Vec<Token>)>) -> Result<()> {
        let sender = lock(&self.commands).clone().ok_or(Error::Closed)?;
        let vocab = self.tokenizer.size();
        let prepare = |(turn, prompt): (T, Vec<Token>)| {
            let turn: Arc<Turn> = turn.into();
            if prompt.len() < 2 {
                return Err(Error::PromptTooShort { path: turn.path.clone(), tokens: prompt.len() });
            }
            let max_tokens = turn.sampling.max_tokens as usize;
            let length = prompt.len() + max_tokens;
            if length > self.context {
                return Err(Error::Option { name: "context", value: self.context.to_string(), expected: format!("at least {length}") });
            }
            if let Some(token) = prompt.iter().find(|&&token| usize::try_from(token).map_or(true, |token| token >= vocab)) {
                return Err(Error::Option { name: "token", value: token.to_string(), expected: format!("below {vocab}") });
            }
            let form = turn.sampling.form.as_deref().map(|form| self.form(form)).transpose()?;
            Ok(Work::Sequence(Box::new(Sequence::new(turn, prompt, max_tokens, form).without_end())))
        };
        let work = work.into_iter().map(prepare).collect::<Result<_>>()?;
        sender.send(Command::Run(work)).map_err(|_| Error::Closed)
    }

    /// Answers that are there; when there are none, wait up to `timeout` for the first.
    ///
    /// # Errors
    /// [`Error::Closed`] when the engine's thread has ended and nothing is left to collect.
    pub fn collect(&self, timeout: Duration) -> Result<Vec<Answer>> {
        let first = match self.answers.recv_timeout(timeout) {
            Ok(answers) => answers,
            Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed),
        };
        Ok(first.into_iter().chain(self.answers.try_iter().flatten()).collect())
    }

    /// Cancel every turn of a scene; each is answered with [`Error::Cancelled`] unless it was done already.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn cancel(&self, scene: Hash) -> Result<()> {
        let sender = lock(&self.commands);
        sender.as_ref().ok_or(Error::Closed)?.send(Command::CancelScene(scene)).map_err(|_| Error::Closed)
    }

    /// What the engine has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    /// The tokenizer in use.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Stop after the step under way, drop the model, and wait for the thread. Turns in flight are not answered. Closing twice is fine.
    pub fn close(&self) {
        lock(&self.commands).take();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the loop was already answered as errors of the turns in flight.
            let _ = thread.join();
        }
    }

    fn prepare(&self, turn: Arc<Turn>) -> Result<Work> {
        let prompt = self.tokenizer.encode(&turn.segments)?;
        if prompt.len() < 2 {
            return Err(Error::PromptTooShort { path: turn.path.clone(), tokens: prompt.len() });
        }
        if prompt.len() + 1 > self.context {
            let facts = Facts { prompt_tokens: u32::try_from(prompt.len()).unwrap_or(u32::MAX), ..Facts::default() };
            let completion = Completion {
                scene: turn.scene,
                path: turn.path.clone(),
                attempt: turn.attempt,
                request: turn.request,
                outcome: Outcome::TooLong,
                finish: Finish::None,
                text: String::new(),
                source: Source::Model,
                facts,
            };
            return Ok(Work::Answer(Box::new(Answer { turn, result: Ok(completion) })));
        }
        let form = turn.sampling.form.as_deref().map(|form| self.form(form)).transpose()?;
        let max_tokens = (turn.sampling.max_tokens as usize).min(self.context - prompt.len());
        Ok(Work::Sequence(Box::new(Sequence::new(turn, prompt, max_tokens, form))))
    }

    fn form(&self, form: &str) -> Result<Form> {
        let mut grammars = lock(&self.grammars);
        if grammars.is_none() {
            // Built at the first form: it takes a second with a large vocabulary.
            *grammars = Some(Grammars::new(&self.tokenizer)?);
        }
        grammars.as_mut().ok_or(Error::Closed)?.form(form)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}
