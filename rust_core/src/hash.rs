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
        let mut hasher = Self(blake3::Hasher::new());
        hasher.bytes(domain.as_bytes());
        hasher
    }

    /// Add a field of bytes. The hasher is lent on, not moved: it holds two kilobytes.
    pub fn bytes(&mut self, field: &[u8]) -> &mut Self {
        let length = (field.len() as u64).to_le_bytes();
        // Length and field at once where they are short: an update costs more than they do.
        let mut both = [0; 64];
        if let Some(place) = both[8..].get_mut(..field.len()) {
            place.copy_from_slice(field);
            both[..8].copy_from_slice(&length);
            self.0.update(&both[..8 + field.len()]);
        } else {
            self.0.update(&length);
            self.0.update(field);
        }
        self
    }

    /// Add a field of text, as its UTF-8 bytes, without normalisation.
    pub fn text(&mut self, field: &str) -> &mut Self {
        self.bytes(field.as_bytes())
    }

    /// Add an integer field (u64, little endian).
    pub fn int(&mut self, field: u64) -> &mut Self {
        self.bytes(&field.to_le_bytes())
    }

    /// Add a hash as a field.
    pub fn hash(&mut self, field: Hash) -> &mut Self {
        self.bytes(&field.0)
    }

    /// The hash of all fields.
    #[must_use]
    pub fn finish(&self) -> Hash {
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
    fn a_field_is_its_length_and_its_bytes_however_long() {
        // Short fields are put together with their length first.
        let field: Vec<u8> = (0..=130).collect();
        for length in 0..=field.len() {
            let mut bytes = 4u64.to_le_bytes().to_vec();
            bytes.extend(b"test");
            bytes.extend((length as u64).to_le_bytes());
            bytes.extend(&field[..length]);
            assert_eq!(Hasher::new("test").bytes(&field[..length]).finish(), Hash::of(&bytes), "{length} bytes");
        }
    }

    #[test]
    fn hex_round_trips() {
        let hash = Hash::of(b"matrix");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("xyz".parse::<Hash>().is_err());
        assert!("\u{e9}".repeat(32).parse::<Hash>().is_err());
    }
}
