//! Lines that may not stand twice in a completion: what no context-free grammar can say of lines that nobody knows beforehand.
//!
//! The token that would make a line equal to one before it is forbidden, and not only the end of that line: so the model says something else,
//! where it would otherwise have to drag the line on. Only if that leaves it nothing to say may the line go on from there. A number before a
//! line, as in `2. waits`, is not part of it.

use std::sync::Arc;

use toktrie::{SimpleVob, TokEnv};

/// A vocabulary's tokens by how they are spelt.
pub struct Spellings {
    env: TokEnv,
    /// All tokens, in the order of their bytes.
    sorted: Vec<u32>,
    /// Those with which a line can end, or the completion.
    ending: Vec<u32>,
}

impl Spellings {
    /// `ends` are the tokens that end a completion.
    pub fn new(env: TokEnv, ends: &[u32]) -> Self {
        let trie = env.tok_trie();
        let mut sorted: Vec<u32> = (0..).take(trie.vocab_size()).collect();
        sorted.sort_unstable_by_key(|&token| trie.token(token));
        let ends_line = |token: &u32| ends.contains(token) || trie.token(*token).contains(&b'\n');
        let ending = sorted.iter().copied().filter(ends_line).collect();
        Self { env, sorted, ending }
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.env.tok_trie().token(token)
    }

    /// The tokens that are spelt like that; a vocabulary may have several.
    fn spelt(&self, bytes: &[u8]) -> &[u32] {
        let from = self.sorted.partition_point(|&token| self.bytes(token) < bytes);
        let same = self.sorted[from..].partition_point(|&token| self.bytes(token) == bytes);
        &self.sorted[from..from + same]
    }
}

/// The lines of a completion so far.
#[derive(Clone)]
pub struct DistinctLines {
    spellings: Arc<Spellings>,
    text: Vec<u8>,
}

impl DistinctLines {
    pub fn new(spellings: Arc<Spellings>) -> Self {
        Self { spellings, text: Vec::new() }
    }

    /// Forbid what would make a line stand twice.
    pub fn forbid(&self, mask: &mut SimpleVob) {
        let mut lines = lines(&self.text);
        let begun = lines.next_back().unwrap_or_default();
        let before: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        if before.is_empty() && begun.is_empty() {
            return;
        }
        let repeated = before.contains(&begun);
        for &token in &self.spellings.ending {
            if mask.is_allowed(token) && (repeated || !are_distinct(&[&self.text, self.spellings.bytes(token)].concat())) {
                mask.disallow_token(token);
            }
        }
        let mut others = mask.clone();
        for rest in before.iter().filter_map(|line| line.strip_prefix(begun)).filter(|rest| !rest.is_empty()) {
            for &token in self.spellings.spelt(rest) {
                others.disallow_token(token);
            }
        }
        if !others.is_zero() {
            *mask = others;
        }
    }

    pub fn accept(&mut self, token: u32) {
        self.text.extend_from_slice(self.spellings.env.tok_trie().token(token));
    }
}

/// Whether no line of a text stands twice. Empty lines do not count.
pub fn are_distinct(text: &[u8]) -> bool {
    let mut found: Vec<&[u8]> = lines(text).filter(|line| !line.is_empty()).collect();
    found.sort_unstable();
    found.windows(2).all(|pair| pair[0] != pair[1])
}

fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(without_number)
}

fn without_number(line: &[u8]) -> &[u8] {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    line[digits..].strip_prefix(b". ").filter(|_| digits > 0).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};

    /// Two tokens are spelt alike; some end a line in their midst, or begin the next.
    const TOKENS: [&str; 12] = ["a", "b", "ab", "ab", "\n", "b\n", "\na", "a\nb\n", "1", ". ", "1. ", "\n\n"];
    const END: u32 = 12;

    fn spellings() -> Arc<Spellings> {
        let words: Vec<Vec<u8>> = [&TOKENS[..], &["</s>"]].concat().iter().map(|token| token.as_bytes().to_vec()).collect();
        let trie = TokTrie::from(&TokRxInfo::new(END + 1, END), &words);
        Arc::new(Spellings::new(Arc::new(ApproximateTokEnv::new(trie)), &[END]))
    }

    /// What of these tokens may follow.
    fn allowed_of(tokens: &[u32], text: &str) -> Vec<u32> {
        let mut lines = DistinctLines::new(spellings());
        lines.text = text.as_bytes().to_vec();
        let mut mask = SimpleVob::alloc(TOKENS.len() + 1);
        for &token in tokens {
            mask.allow_token(token);
        }
        lines.forbid(&mut mask);
        mask.iter().collect()
    }

    fn allowed_after(text: &str) -> Vec<&'static str> {
        allowed_of(&(0..END).collect::<Vec<_>>(), text).into_iter().map(|token| TOKENS[token as usize]).collect()
    }

    #[test]
    fn a_token_that_would_complete_a_line_again_is_forbidden() {
        assert_eq!(allowed_after("ab"), ["a", "b", "ab", "ab", "\n", "b\n", "\na", "a\nb\n", "1", ". ", "1. ", "\n\n"], "one line");
        assert_eq!(allowed_after("ab\n"), ["a", "b", "\n", "b\n", "\na", "a\nb\n", "1", ". ", "1. ", "\n\n"], "all of it in one token");
        assert_eq!(
            allowed_after("ab\na"),
            ["a", "ab", "ab", "\n", "a\nb\n", "1", ". ", "1. ", "\n\n"],
            "the rest of it, and the next line"
        );
        assert_eq!(allowed_after("ab\na1"), TOKENS, "the line is another already");
    }

    #[test]
    fn a_line_goes_on_from_an_earlier_one_where_there_is_no_other() {
        let (a, b, newline) = (0, 1, 4);
        assert_eq!(allowed_of(&[a, b, END], "a\n"), [b, END]);
        assert_eq!(allowed_of(&[a, b], "a\nb\n"), [a, b], "either would repeat a line");
        assert_eq!(allowed_of(&[a, b, newline, END], "a\nb\na"), [a, b], "it may not end here");
        assert_eq!(allowed_of(&[a, b, newline, END], "a\nb\nab"), [a, b, newline, END]);
    }

    #[test]
    fn a_number_is_not_part_of_its_line() {
        assert!(!are_distinct(b"1. ab\n2. ab"));
        assert!(are_distinct(b"1. ab\n2. b\nab."));
        assert!(!allowed_after("1. ab\n2. a").contains(&"b"));
        assert!(are_distinct(b"a\n\n\nb"), "empty lines do not count");
    }

    proptest! {
        #[test]
        fn what_is_allowed_token_by_token_is_distinct(choices in prop::collection::vec(0..TOKENS.len(), 1..40)) {
            let mut lines = DistinctLines::new(spellings());
            for choice in choices {
                let mut mask = SimpleVob::alloc_ones(TOKENS.len() + 1);
                lines.forbid(&mut mask);
                if mask.is_allowed(u32::try_from(choice).unwrap()) {
                    lines.accept(u32::try_from(choice).unwrap());
                }
                // The last line may yet become another, unless it is equal already.
                prop_assert!(are_distinct(&lines.text), "{:?}", String::from_utf8_lossy(&lines.text));
            }
        }
    }
}
