//! Forms: Lark grammars that bind a completion token by token, through llguidance, and a directive that is ours: a grammar that begins with
//! the line `%distinct_lines` lets no line of the completion stand twice.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Matcher, ParserFactory};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::distinct::{DistinctLines, Spellings, are_distinct};
use crate::error::{Error, Result};
use crate::scripted::ByteVocab;
use crate::vocab::{Token, Tokenizer};

/// Distinct forms kept compiled. A scene has a handful, but names of roles may be part of them.
const KEPT_FORMS: usize = 256;

const DISTINCT_LINES: &str = "%distinct_lines\n";

/// Compiles forms for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    spellings: Arc<Spellings>,
    compiled: HashMap<String, Matcher>,
}

impl Grammars {
    /// # Errors
    /// [`Error::Vocabulary`] when the vocabulary has no token that ends an answer, or llguidance refuses it.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        Self::with_slices(tokenizer, &SlicedBiasComputer::general_slices())
    }

    /// For texts given byte by byte, whatever the model.
    fn over_bytes() -> Result<Self> {
        Self::with_slices(&Tokenizer::new(Box::new(ByteVocab::default()))?, &[])
    }

    /// Slices are regular expressions whose tokens get into a mask together. They save time where a vocabulary is large, and cost some for
    /// every form that is compiled.
    fn with_slices(tokenizer: &Tokenizer, slices: &[String]) -> Result<Self> {
        let ends: Vec<u32> = tokenizer.end_tokens().into_iter().map(i32::cast_unsigned).collect();
        let first = *ends.first().ok_or_else(|| Error::Vocabulary { reason: "no token ends an answer, so no form can end".into() })?;
        let size = u32::try_from(tokenizer.size()).map_err(|_| Error::Vocabulary { reason: "more than 2^32 tokens".into() })?;
        let words: Vec<Vec<u8>> = (0..).take(tokenizer.size()).map(|token| grammar_bytes(tokenizer, token)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), slices)
            .map_err(|error| Error::Vocabulary { reason: one_line(&error.to_string()) })?;
        factory.quiet();
        Ok(Self { factory, spellings: Arc::new(Spellings::new(env, &ends)), compiled: HashMap::new() })
    }

    /// A fresh matcher of that form.
    ///
    /// # Errors
    /// [`Error::Form`] when the form is not a grammar.
    pub fn form(&mut self, grammar: &str) -> Result<Form> {
        let lark = grammar.strip_prefix(DISTINCT_LINES);
        let distinct = lark.map(|_| DistinctLines::new(Arc::clone(&self.spellings)));
        Ok(Form { matcher: self.matcher(lark.unwrap_or(grammar))?, distinct })
    }

    fn matcher(&mut self, grammar: &str) -> Result<Matcher> {
        if let Some(matcher) = self.compiled.get(grammar) {
            return Ok(matcher.deep_clone());
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
        let matcher = Matcher::new(parser);
        if let Some(reason) = matcher.get_error() {
            return Err(Error::Form { reason: one_line(&reason) });
        }
        if self.compiled.len() >= KEPT_FORMS {
            self.compiled.clear();
        }
        self.compiled.insert(grammar.to_owned(), matcher.deep_clone());
        Ok(matcher)
    }
}

/// A form as far as a completion has filled it.
pub struct Form {
    matcher: Matcher,
    distinct: Option<DistinctLines>,
}

impl Form {
    /// The tokens that may come next; those that end the answer are among them once the form may end.
    ///
    /// # Errors
    /// The reason, when llguidance gives up (a grammar that explodes).
    pub fn mask(&mut self) -> std::result::Result<SimpleVob, String> {
        let mut mask = self.matcher.compute_mask_or_eos().map_err(|error| one_line(&error.to_string()))?;
        if let Some(distinct) = &self.distinct {
            distinct.forbid(&mut mask);
        }
        Ok(mask)
    }

    /// Take a token that the mask allows. True when the form is complete and nothing may follow.
    ///
    /// # Errors
    /// The reason, when llguidance gives up.
    pub fn accept(&mut self, token: Token) -> std::result::Result<bool, String> {
        self.matcher.consume_token(token.cast_unsigned()).map_err(|error| one_line(&error.to_string()))?;
        if let Some(distinct) = &mut self.distinct {
            distinct.accept(token.cast_unsigned());
        }
        Ok(self.matcher.is_stopped())
    }
}

/// Marks stand behind llguidance's marker byte, so that no text rule matches them.
fn grammar_bytes(tokenizer: &Tokenizer, token: Token) -> Vec<u8> {
    let bytes = tokenizer.bytes(token);
    if tokenizer.is_special(token) || tokenizer.ends_turn(token) {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
    } else if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        // The byte 0xFF occurs in no UTF-8 text.
        Vec::new()
    } else {
        bytes.to_vec()
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect::<Vec<_>>().join(": ")
}

thread_local! {
    /// Kept for [`accepts`]: scripts are held to the same few forms over and over.
    static OVER_BYTES: RefCell<Option<Grammars>> = const { RefCell::new(None) };
}

/// Whether a form accepts a whole text: what a model that followed a script would have been held to.
///
/// # Errors
/// [`Error::Form`] when the form is not a grammar.
pub fn accepts(grammar: &str, text: &str) -> Result<bool> {
    let Form { mut matcher, distinct } = OVER_BYTES.with_borrow_mut(|kept| match kept {
        Some(grammars) => grammars.form(grammar),
        None => kept.insert(Grammars::over_bytes()?).form(grammar),
    })?;
    if distinct.is_some() && !are_distinct(text.as_bytes()) {
        return Ok(false);
    }
    for byte in text.bytes() {
        // llguidance stops by itself once nothing may follow.
        if matcher.is_stopped() || matcher.try_consume_tokens(&[u32::from(byte)]).unwrap_or(0) == 0 {
            return Ok(false);
        }
    }
    Ok(matcher.is_accepting().unwrap_or(false) || matcher.is_stopped())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_distinct_where_the_form_says_so() {
        let lines = "start: LINE (\"\\n\" LINE){0,2}\nLINE: /[a-z. 0-9]+/";
        assert_eq!(accepts(lines, "1. a\n2. a"), Ok(true));
        let distinct = format!("{DISTINCT_LINES}{lines}");
        assert_eq!(accepts(&distinct, "1. a\n2. a"), Ok(false));
        assert_eq!(accepts(&distinct, "1. a\n2. b"), Ok(true));
        assert_eq!(accepts(&distinct, "1. a\n"), Ok(false), "the grammar still binds");
    }

    #[test]
    fn a_form_accepts_whole_texts_only() {
        let names = "start: name (\", \" name){0,2}\nname: /[a-z]{2,6}/";
        for (text, expected) in [("doctor, nurse", true), ("doctor", true), ("doctor,", false), ("d", false), ("", false), ("a b", false)] {
            assert_eq!(accepts(names, text), Ok(expected), "{text:?}");
        }
        assert_eq!(accepts("start: \"yes\" | \"no\"", "yes!"), Ok(false));
        assert_eq!(accepts("start: \"yes\" | \"no\"", "yes"), Ok(true));
        assert!(matches!(accepts("start: (", "x"), Err(Error::Form { .. })));
    }
}
