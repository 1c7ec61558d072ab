//! Segments of text to tokens and back.
//!
//! Segments are tokenised one by one, so that prompts which begin with the same segments begin with the same tokens. Two things that
//! `llama_tokenize` does on its own are undone here: vocabularies of the SentencePiece kind get a space added to every tokenised piece
//! of text, and text that happens to spell a special token can become one.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::{Error, Result};
use crate::turn::Segment;

/// A token id, as llama.cpp has them.
pub type Token = i32;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Text,
    /// A mark of the chat format or the vocabulary, never text: BOS, `<|im_start|>`, the unknown token.
    Control,
    /// Text that the vocabulary keeps whole wherever it occurs (`<think>`; runs of spaces).
    Added,
}

/// A model's vocabulary.
pub trait Vocab: Send + Sync {
    /// Number of tokens.
    fn size(&self) -> usize;
    /// # Panics
    /// May panic when `token` is not below `size`.
    fn kind(&self, token: Token) -> TokenKind;
    /// Whether the model ends its answer with this token.
    fn ends_generation(&self, token: Token) -> bool;
    /// The bytes that the token stands for; of a control token, its name.
    fn bytes(&self, token: Token) -> Vec<u8>;
    /// Tokens of plain text, as the vocabulary's own rules give them. No special tokens are looked for or added.
    ///
    /// # Errors
    /// [`Error::Closed`] when the model that the vocabulary belongs to was closed.
    fn encode(&self, text: &str) -> Result<Vec<Token>>;
    /// The token that prompts begin with, if the vocabulary asks for one.
    fn bos(&self) -> Option<Token>;
}

/// Encodes segments exactly and decodes tokens.
pub struct Tokenizer {
    vocab: Box<dyn Vocab>,
    kinds: Vec<TokenKind>,
    ends: Vec<bool>,
    bytes: Vec<Vec<u8>>,
    /// Finds special tokens in trusted text: the longest at the leftmost place.
    trusted: Option<AhoCorasick>,
    /// Finds every occurrence in untrusted text, overlapping ones too.
    untrusted: Option<AhoCorasick>,
    specials: Vec<Token>,
    adds_space: bool,
}

/// Put before a text so that the space which the vocabulary adds falls on it. The second stands in where the first merges with the text.
const SENTINELS: [&str; 2] = ["\n", "\u{1}"];

impl Tokenizer {
    /// # Errors
    /// [`Error::Vocabulary`] when plain text does not survive encoding and decoding.
    pub fn new(vocab: Box<dyn Vocab>) -> Result<Self> {
        let tokens = 0..Token::try_from(vocab.size()).map_err(|_| Error::Vocabulary { reason: "more than 2^31 tokens".into() })?;
        let kinds: Vec<_> = tokens.clone().map(|token| vocab.kind(token)).collect();
        let ends = tokens.clone().map(|token| vocab.ends_generation(token)).collect();
        let bytes: Vec<_> = tokens.clone().map(|token| vocab.bytes(token)).collect();
        let specials: Vec<Token> = tokens.filter(|&token| is_special(kinds[index(token)], &bytes[index(token)])).collect();
        let names: Vec<&[u8]> = specials.iter().map(|&token| bytes[index(token)].as_slice()).collect();
        let finder = |kind| match AhoCorasick::builder().match_kind(kind).build(&names) {
            _ if names.is_empty() => Ok(None),
            Ok(finder) => Ok(Some(finder)),
            Err(error) => Err(Error::Vocabulary { reason: error.to_string() }),
        };
        let (trusted, untrusted) = (finder(MatchKind::LeftmostLongest)?, finder(MatchKind::Standard)?);
        let adds_space = vocab.encode("a")?.first().is_some_and(|&token| bytes[index(token)].first() == Some(&b' '));
        let tokenizer = Self { vocab, kinds, ends, bytes, trusted, untrusted, specials, adds_space };
        let probe = "A probe: 1 + 1\n is \u{e9}, <b>.";
        let survived = tokenizer.decode(&tokenizer.encode(&[Segment { text: probe.into(), trusted: false }])?);
        if survived != probe {
            return Err(Error::Vocabulary { reason: format!("text does not survive it: {probe:?} came back as {survived:?}") });
        }
        Ok(tokenizer)
    }

    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Tokens of a prompt. The vocabulary's BOS is put first if it asks for one and the text does not begin with it.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] when a text cannot be encoded exactly.
    pub fn encode(&self, segments: &[Segment]) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        for segment in segments {
            if segment.trusted {
                self.encode_trusted(&segment.text, &mut tokens)?;
            } else {
                self.encode_untrusted(&segment.text, &mut tokens)?;
            }
        }
        if let Some(bos) = self.vocab.bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Text of tokens; bytes that are not UTF-8 become U+FFFD. Control tokens give their names.
    #[must_use]
    pub fn decode(&self, tokens: &[Token]) -> String {
        let bytes: Vec<u8> =
            tokens.iter().filter(|&&token| Some(token) != self.vocab.bos()).flat_map(|&token| self.bytes(token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token stands for.
    ///
    /// # Panics
    /// When the token is not in the vocabulary.
    #[must_use]
    pub fn bytes(&self, token: Token) -> &[u8] {
        &self.bytes[index(token)]
    }

    /// Whether the token may be sampled only to end a turn: an end of generation, or another control token, which would begin a
    /// message that is not the model's to write.
    #[must_use]
    pub fn ends_turn(&self, token: Token) -> bool {
        self.kinds[index(token)] == TokenKind::Control || self.ends[index(token)]
    }

    /// Whether the token stands for no text: control tokens and added tokens that look like marks.
    #[must_use]
    pub fn is_special(&self, token: Token) -> bool {
        is_special(self.kinds[index(token)], &self.bytes[index(token)])
    }

    /// The tokens with which the model ends its answers, in ascending order.
    #[must_use]
    pub fn end_tokens(&self) -> Vec<Token> {
        (0..).take(self.size()).filter(|&token| self.ends[index(token)]).collect()
    }

    fn encode_trusted(&self, text: &str, tokens: &mut Vec<Token>) -> Result<()> {
        let mut plain = 0;
        if let Some(finder) = &self.trusted {
            for found in finder.find_iter(text) {
                self.encode_plain(&text[plain..found.start()], tokens)?;
                tokens.push(self.specials[found.pattern().as_usize()]);
                plain = found.end();
            }
        }
        self.encode_plain(&text[plain..], tokens)
    }

    /// Cut the text after the first character of everything in it that spells a special token, and encode the pieces apart.
    fn encode_untrusted(&self, text: &str, tokens: &mut Vec<Token>) -> Result<()> {
        let mut cuts = Vec::new();
        if let Some(finder) = &self.untrusted {
            for found in finder.find_overlapping_iter(text) {
                let first = text[found.start()..].chars().next().map_or(1, char::len_utf8);
                if found.start() + first < found.end() {
                    cuts.push(found.start() + first);
                }
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        cuts.push(text.len());
        let begin = tokens.len();
        let mut from = 0;
        for cut in cuts {
            self.encode_plain(&text[from..cut], tokens)?;
            from = cut;
        }
        match tokens[begin..].iter().find(|&&token| self.kinds[index(token)] == TokenKind::Control) {
            Some(&token) => Err(Error::Vocabulary { reason: format!("untrusted text would become the control token {token}") }),
            None => Ok(()),
        }
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<Token>) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.adds_space {
            tokens.extend(self.vocab.encode(text)?);
            return Ok(());
        }
        for sentinel in SENTINELS {
            let alone = self.vocab.encode(sentinel)?;
            let both = self.vocab.encode(&format!("{sentinel}{text}"))?;
            if let Some(rest) = both.strip_prefix(alone.as_slice()) {
                tokens.extend_from_slice(rest);
                return Ok(());
            }
        }
        Err(Error::Vocabulary { reason: "the space that it adds to text cannot be told apart from the text".into() })
    }
}

/// Control tokens are special, and so are added tokens that are written like marks. Added runs of spaces or words are text.
fn is_special(kind: TokenKind, bytes: &[u8]) -> bool {
    match kind {
        TokenKind::Text => false,
        TokenKind::Control => bytes.len() > 1,
        TokenKind::Added => matches!(bytes, [b'<' | b'[', .., b'>' | b']']),
    }
}

/// Token ids come from the vocabulary itself and are not negative.
fn index(token: Token) -> usize {
    usize::try_from(token).unwrap_or(usize::MAX)
}
