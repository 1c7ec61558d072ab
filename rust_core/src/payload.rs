//! The canonical form of an event's payload: compact JSON in which one value has one spelling.
//!
//! A payload is an object whose first field is `"kind"` (the event's name) and whose second is `"v"` (the version of that kind's
//! format); the other fields follow in the order that the kind declares. Values are integers within i64, strings, `true`, `false`,
//! `null`, arrays and objects of these. There are no floats and no white space; strings are UTF-8 as given, without normalisation, and
//! escape only what JSON must (`"`, `\`, controls), in the shortest way. So the text in the log is the text that was hashed.

use crate::error::{Error, Result};

/// Deepest nesting of arrays and objects that a payload may have.
const MAX_DEPTH: usize = 16;

/// A payload known to be canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    text: String,
    kind_end: usize,
}

impl Payload {
    const HEAD: &'static str = "{\"kind\":\"";

    /// Take `text` as a payload.
    ///
    /// # Errors
    /// [`Error::Payload`] with the first byte at which `text` leaves the canonical form.
    pub fn parse(text: String) -> Result<Self> {
        let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
        scanner.expect_all(Self::HEAD, "a payload begins with its kind")?;
        let kind_start = scanner.at;
        while scanner.peek().is_some_and(|b| b.is_ascii_alphanumeric()) {
            scanner.at += 1;
        }
        let kind_end = scanner.at;
        if kind_end == kind_start {
            return Err(scanner.error("a kind is made of ASCII letters and digits"));
        }
        scanner.expect_all("\",\"v\":", "the version follows the kind")?;
        scanner.integer()?;
        let mut names = vec!["\"kind\"".as_bytes(), "\"v\"".as_bytes()];
        while scanner.peek() == Some(b',') {
            scanner.at += 1;
            scanner.name(&mut names)?;
            scanner.expect(b':', "a colon follows a field's name")?;
            scanner.value(1)?;
        }
        scanner.expect(b'}', "a comma or the closing brace follows a field")?;
        if scanner.at != text.len() {
            return Err(scanner.error("nothing follows the closing brace"));
        }
        Ok(Self { text, kind_end })
    }

    /// The event's name, in the past tense.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.text[Self::HEAD.len()..self.kind_end]
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Walks the bytes once. The text is valid UTF-8 already, so only ASCII matters here.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn error(&self, reason: &'static str) -> Error {
        Error::Payload { offset: self.at, reason }
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.error(reason));
        }
        self.at += 1;
        Ok(())
    }

    fn expect_all(&mut self, text: &str, reason: &'static str) -> Result<()> {
        text.bytes().try_for_each(|byte| self.expect(byte, reason))
    }

    fn value(&mut self, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deep"));
        }
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.integer(),
            Some(b't') => self.expect_all("true", "not a value"),
            Some(b'f') => self.expect_all("false", "not a value"),
            Some(b'n') => self.expect_all("null", "not a value"),
            Some(b'[') => self.items(b']', |scanner| scanner.value(depth + 1)),
            Some(b'{') => {
                let mut names = Vec::new();
                self.items(b'}', |scanner| {
                    scanner.name(&mut names)?;
                    scanner.expect(b':', "a colon follows a field's name")?;
                    scanner.value(depth + 1)
                })
            }
            _ => Err(self.error("not a value")),
        }
    }

    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.at += 1;
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b) if b == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("a comma or the closing bracket follows an item")),
            }
        }
    }

    /// A field's name, which no earlier field of the object has. Objects are small, so a list of their names will do.
    fn name(&mut self, names: &mut Vec<&'a [u8]>) -> Result<()> {
        let start = self.at;
        self.string()?;
        let name = &self.bytes[start..self.at];
        if names.contains(&name) {
            return Err(Error::Payload { offset: start, reason: "a field's name that the object has already" });
        }
        names.push(name);
        Ok(())
    }

    fn integer(&mut self) -> Result<()> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(self.error("floats are not canonical"));
        }
        // Parsing and printing again rejects leading zeros, "-0" and what i64 cannot hold.
        let digits = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        match digits.parse::<i64>() {
            Ok(value) if value.to_string() == digits => Ok(()),
            _ => Err(Error::Payload { offset: start, reason: "not an integer within i64 in its shortest spelling" }),
        }
    }

    fn string(&mut self) -> Result<()> {
        self.expect(b'"', "a string begins with a quote")?;
        loop {
            match self.peek() {
                None => return Err(self.error("a string does not end")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => return Err(self.error("a control character is not escaped")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 1..self.at + 5).unwrap_or_default();
                let canonical = match digits {
                    [b'0', b'0', b'0', low] => matches!(low, b'0'..=b'7' | b'b' | b'e' | b'f'),
                    [b'0', b'0', b'1', low] => matches!(low, b'0'..=b'9' | b'a'..=b'f'),
                    _ => false,
                };
                if !canonical {
                    return Err(self.error("an escape that a shorter spelling exists for"));
                }
                self.at += 5;
            }
            _ => return Err(self.error("an unknown escape")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(text: &str) -> Result<Payload> {
        Payload::parse(text.to_owned())
    }

    #[test]
    fn what_is_not_canonical_is_named_with_its_place() {
        for (text, offset) in [
            (r#"{"v":1,"kind":"A"}"#, 2),
            (r#"{"kind":"A","v":1.5}"#, 17),
            (r#"{"kind":"A","v":01}"#, 16),
            (r#"{"kind":"A","v":1,"x":-0}"#, 22),
            (r#"{"kind":"A","v":1, "x":1}"#, 18),
            (r#"{"kind":"A","v":1,"x":9223372036854775808}"#, 22),
            (r#"{"kind":"A","v":1,"x":"\u0041"}"#, 24),
            (r#"{"kind":"A","v":1,"x":"\u000A"}"#, 24),
            (r#"{"kind":"A","v":1,"x":"\u000a"}"#, 24),
            (r#"{"kind":"A","v":1,"x":"\/"}"#, 24),
            ("{\"kind\":\"A\",\"v\":1,\"x\":\"\n\"}", 23),
            (r#"{"kind":"A","v":1,"x":1,"x":1}"#, 24),
            (r#"{"kind":"A","v":1,"v":1}"#, 18),
            (r#"{"kind":"A","v":1,"x":{"y":1,"y":1}}"#, 29),
            (r#"{"kind":"A","v":1}x"#, 18),
            (r#"{"kind":"","v":1}"#, 9),
        ] {
            match parse(text) {
                Err(Error::Payload { offset: actual, .. }) => assert_eq!(actual, offset, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!(r#"{{"kind":"A","v":1,"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(MAX_DEPTH)).is_ok());
        assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
        assert!(parse(&nested(100_000)).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<i64>().prop_map(Value::from), any::<String>().prop_map(Value::from), any::<bool>().prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_canonical(x in value()) {
            let text = json!({"kind": "Tested", "v": 1, "x": x}).to_string();
            let payload = Payload::parse(text.clone()).unwrap();
            prop_assert_eq!(payload.kind(), "Tested");
            prop_assert_eq!(payload.as_str(), text);
        }

        #[test]
        fn a_canonical_payload_is_the_only_spelling_of_its_value(text in r#"\{"kind":"A","v":1,"x":[-0-9."\\ueE ]{1,12}\}"#) {
            if Payload::parse(text.clone()).is_ok() {
                let value: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(value.to_string(), text);
            }
        }
    }
}
