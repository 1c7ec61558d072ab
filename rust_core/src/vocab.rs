//! Segments of text to tokens and back.
//!
//! Segments are tokenised one by one, so that prompts which begin with the same segments begin with the same tokens. Three things that
//! `llama_tokenize` does on its own are undone here: vocabularies of the SentencePiece kind get a space added to every tokenised piece
//! of text, they read U+2581 as a space, and text that happens to spell a special token can become one. What comes out is compared with
//! the text; what differs is spelt byte by byte.

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
    /// [`SENTINELS`] and their tokens, where the vocabulary adds a space.
    sentinels: Vec<(&'static str, Vec<Token>)>,
    /// For each byte, a token that stands for it alone.
    byte_tokens: Vec<Option<Token>>,
}

/// Put before a text so that the space which the vocabulary adds falls on it. The second stands in where the first merges with the text.
const SENTINELS: [&str; 2] = ["\n", "\u{1}"];

/// Bytes of text that llama.cpp gets at a time. For many vocabularies it divides text by `std::regex`, which recurses for every character
/// of a match: a run of 7,000 letters or exclamation marks overflows a stack of 2 MiB and ends the process. Its SentencePiece code takes
/// quadratic time (400,000 newlines: 50 s).
const MAX_PIECE: usize = 2048;

impl Tokenizer {
    /// # Errors
    /// [`Error::Vocabulary`] when plain text does not survive encoding and decoding.
    pub fn new(vocab: Box<dyn Vocab>) -> Result<Self> {
        let tokens = 0..Token::try_from(vocab.size()).map_err(|_| Error::Vocabulary { reason: "more than 2^31 tokens".into() })?;
        let bytes: Vec<_> = tokens.clone().map(|token| vocab.bytes(token)).collect();
        let ends: Vec<_> = tokens.clone().map(|token| vocab.ends_generation(token)).collect();
        // Some files call every token text, those that begin and end it too.
        let frames = |token| bytes[index(token)].len() > 1 && (vocab.bos() == Some(token) || ends[index(token)]);
        let kind = |token| if frames(token) { TokenKind::Control } else { vocab.kind(token) };
        let kinds: Vec<_> = tokens.clone().map(kind).collect();
        let specials: Vec<Token> = tokens
            .clone()
            .filter(|&token| is_special(kinds[index(token)], &bytes[index(token)]))
            // No text contains a name that is not UTF-8, and a match of one could begin within a character.
            .filter(|&token| std::str::from_utf8(&bytes[index(token)]).is_ok())
            .collect();
        let names: Vec<&[u8]> = specials.iter().map(|&token| bytes[index(token)].as_slice()).collect();
        let finder = |kind| match AhoCorasick::builder().match_kind(kind).build(&names) {
            _ if names.is_empty() => Ok(None),
            Ok(finder) => Ok(Some(finder)),
            Err(error) => Err(Error::Vocabulary { reason: error.to_string() }),
        };
        let (trusted, untrusted) = (finder(MatchKind::LeftmostLongest)?, finder(MatchKind::Standard)?);
        let mut byte_tokens = vec![None; 256];
        for token in tokens.rev() {
            if let ([byte], TokenKind::Text) = (bytes[index(token)].as_slice(), kinds[index(token)]) {
                byte_tokens[usize::from(*byte)] = Some(token);
            }
        }
        let adds_space = vocab.encode("a")?.first().is_some_and(|&token| bytes[index(token)].first() == Some(&b' '));
        let sentinels = SENTINELS.iter().filter(|_| adds_space).map(|&sentinel| Ok((sentinel, vocab.encode(sentinel)?)));
        let sentinels = sentinels.collect::<Result<_>>()?;
        let tokenizer = Self { vocab, kinds, ends, bytes, trusted, untrusted, specials, sentinels, byte_tokens };
        let probe = "A probe: 1 + 1\n  is \u{e9}, <b>.";
        let survived = tokenizer.spelling(&tokenizer.encode_whole(probe)?);
        if survived != probe.as_bytes() {
            let survived = String::from_utf8_lossy(&survived);
            let reason = format!("text does not survive it ({probe:?} came back as {survived:?}): use a model that writes text");
            return Err(Error::Vocabulary { reason });
        }
        Ok(tokenizer)
    }

    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Tokens of a prompt. The vocabulary's BOS is put first if it asks for one and the text does not begin with it. All text is encoded
    /// exactly, but a character that the vocabulary has no tokens for, not even for its bytes, becomes U+FFFD: Falcon's lacks some control
    /// characters, and a few vocabularies planes of Unicode that are not assigned.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] when there are no tokens for U+FFFD either; [`Error::Closed`] when the model was closed.
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

    /// Text of tokens; bytes that are not UTF-8 become U+FFFD. Control tokens give their names, but a BOS at the beginning gives none:
    /// `encode` may have put it there.
    #[must_use]
    pub fn decode(&self, tokens: &[Token]) -> String {
        let tokens = match tokens {
            [first, rest @ ..] if Some(*first) == self.vocab.bos() => rest,
            _ => tokens,
        };
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.bytes(token)).copied().collect();
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
        let mut from = 0;
        for cut in cuts {
            self.encode_plain(&text[from..cut], tokens)?;
            from = cut;
        }
        Ok(())
    }

    fn encode_plain(&self, mut text: &str, tokens: &mut Vec<Token>) -> Result<()> {
        while !text.is_empty() {
            let (piece, rest) = text.split_at(piece_end(text));
            self.encode_piece(piece, tokens)?;
            text = rest;
        }
        Ok(())
    }

    /// Encode as the vocabulary does, but for the characters that get lost so.
    fn encode_piece(&self, text: &str, tokens: &mut Vec<Token>) -> Result<()> {
        let found = self.encode_whole(text)?;
        if self.spells(&found, text) {
            tokens.extend(found);
            return Ok(());
        }
        let spelt = self.spelling(&found);
        let same = spelt.iter().zip(text.as_bytes()).take_while(|(is, should)| is == should).count();
        let Some((_, lost)) = text.char_indices().take_while(|&(at, _)| at <= same).last() else { return Ok(()) };
        // At all its places at once, so that a text full of them takes no quadratic time. The parts have a character less to lose.
        for (number, part) in text.split(lost).enumerate() {
            if number > 0 {
                self.encode_char(lost, tokens)?;
            }
            if !part.is_empty() {
                self.encode_piece(part, tokens)?;
            }
        }
        Ok(())
    }

    fn encode_char(&self, char: char, tokens: &mut Vec<Token>) -> Result<()> {
        let text = char.to_string();
        let alone = self.encode_whole(&text)?;
        if self.spells(&alone, &text) {
            tokens.extend(alone);
            return Ok(());
        }
        let bytes: Option<Vec<_>> = text.bytes().map(|byte| self.byte_tokens[usize::from(byte)]).collect();
        match bytes {
            Some(bytes) => tokens.extend(bytes),
            None if char == char::REPLACEMENT_CHARACTER => {
                return Err(Error::Vocabulary { reason: format!("it has no tokens for {char:?}: use another model") });
            }
            // An error would let one odd character end a run.
            None => self.encode_char(char::REPLACEMENT_CHARACTER, tokens)?,
        }
        Ok(())
    }

    /// The vocabulary's own tokens without the space that it adds; none where that space cannot be told apart.
    fn encode_whole(&self, text: &str) -> Result<Vec<Token>> {
        if self.sentinels.is_empty() {
            return self.vocab.encode(text);
        }
        for (sentinel, alone) in &self.sentinels {
            let both = self.vocab.encode(&format!("{sentinel}{text}"))?;
            if let Some(rest) = both.strip_prefix(alone.as_slice()) {
                return Ok(rest.to_vec());
            }
        }
        Ok(Vec::new())
    }

    /// Whether tokens of plain text stand for exactly that text.
    fn spells(&self, tokens: &[Token], text: &str) -> bool {
        let mut left = text.as_bytes();
        for &token in tokens {
            match left.strip_prefix(self.bytes(token)) {
                Some(rest) if !self.is_special(token) => left = rest,
                _ => return false,
            }
        }
        left.is_empty()
    }

    /// What tokens of plain text stand for. A special token among them is none of it, whatever its name: 0xFF is in no text.
    fn spelling(&self, tokens: &[Token]) -> Vec<u8> {
        let bytes = |&token: &Token| if self.is_special(token) { [0xFF].as_slice() } else { self.bytes(token) };
        tokens.iter().flat_map(bytes).copied().collect()
    }
}

/// Where to cut a text so that llama.cpp gets no more than it can take: before a word, where vocabularies divide text anyway, or else
/// between any two characters.
fn piece_end(text: &str) -> usize {
    if text.len() <= MAX_PIECE {
        return text.len();
    }
    let bytes = text.as_bytes();
    let begins_word = |&at: &usize| bytes[at] == b' ' && !bytes[at - 1].is_ascii_whitespace() && !bytes[at + 1].is_ascii_whitespace();
    let word = (1..MAX_PIECE).rev().find(begins_word);
    word.or_else(|| (1..=MAX_PIECE).rev().find(|&at| text.is_char_boundary(at))).unwrap_or(text.len())
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
