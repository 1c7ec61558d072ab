//! BLAKE3 hashes and the one way to hash several fields: a domain, then each field behind its length.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A BLAKE3 hash: of a text, a scene, a request, an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Hash of `bytes` alone: the address of a text in the log.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Hash of a file's content, on all cores.
    ///
    /// # Errors
    /// Those of opening and reading the file.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        Ok(Self(*blake3::Hasher::new().update_mmap_rayon(path)?.finalize().as_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        const ERROR: &str = "a hash is 64 hexadecimal digits";
        let digits = hex.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(ERROR);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ERROR)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ERROR)?;
        }
        Ok(Self(bytes))
    }
}

/// Hashes a sequence of fields so that no two different sequences meet: the domain keeps uses apart, and each field is preceded by
/// its length (u64, little endian).
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// A hasher for one use, for example `matrix.event.1`.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        Self(blake3::Hasher::new()).bytes(domain.as_bytes())
    }

    /// Add a field of bytes.
    #[must_use]
    pub fn bytes(mut self, field: &[u8]) -> Self {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    /// Add a field of text, as its UTF-8 bytes, without normalisation.
    #[must_use]
    pub fn text(self, field: &str) -> Self {
        self.bytes(field.as_bytes())
    }

    /// Add an integer field (u64, little endian).
    #[must_use]
    pub fn int(self, field: u64) -> Self {
        self.bytes(&field.to_le_bytes())
    }

    /// Add a hash as a field.
    #[must_use]
    pub fn hash(self, field: Hash) -> Self {
        self.bytes(&field.0)
    }

    /// The hash of all fields.
    #[must_use]
    pub fn finish(self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_boundaries_count() {
        let split = |a: &str, b: &str| Hasher::new("test").text(a).text(b).finish();
        assert_ne!(split("ab", "c"), split("a", "bc"));
        assert_ne!(Hasher::new("one").finish(), Hasher::new("two").finish());
    }

    #[test]
    fn hex_round_trips() {
        let hash = Hash::of(b"matrix");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("xyz".parse::<Hash>().is_err());
        assert!("\u{e9}".repeat(32).parse::<Hash>().is_err());
    }
}
