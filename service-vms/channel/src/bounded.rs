//! Texts and lists with a greatest length, enforced while they are decoded.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// At most `N` bytes of printable ASCII: safe to log and to show.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    /// Any text, made to fit: what is not printable ASCII becomes `?`, what is too long is cut.
    pub fn new(text: &str) -> Self {
        Self(text.chars().map(|c| if printable(c) { c } else { '?' }).take(N).collect())
    }
}

impl<const N: usize> FromStr for Text<N> {
    type Err = Unfit;

    /// A text exactly as it is.
    fn from_str(text: &str) -> Result<Self, Unfit> {
        if text.len() <= N && text.chars().all(printable) { Ok(Self(text.to_owned())) } else { Err(Unfit(N)) }
    }
}

/// A text that is too long, or not printable ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not a text of at most {0} bytes of printable ASCII")]
pub struct Unfit(usize);

fn printable(c: char) -> bool {
    matches!(c, ' '..='~')
}

impl<const N: usize> Deref for Text<N> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Check<const N: usize>;
        impl<const N: usize> Visitor<'_> for Check<N> {
            type Value = Text<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} bytes of printable ASCII")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<N>, E> {
                text.parse().map_err(|Unfit(_)| E::invalid_value(serde::de::Unexpected::Str(""), &self))
            }
        }
        deserializer.deserialize_str(Check::<N>)
    }
}

/// At most `N` elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct List<T, const N: usize>(Vec<T>);

impl<T, const N: usize> List<T, N> {
    /// The list; `None` if it has more than `N` elements.
    pub fn new(elements: Vec<T>) -> Option<Self> {
        (elements.len() <= N).then_some(Self(elements))
    }

    /// The elements.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> Deref for List<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const N: usize> Serialize for List<T, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Check<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Check<T, N> {
            type Value = List<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T, N>, A::Error> {
                // The announced length is the peer's: nothing is allocated for it, and it is refused before any element.
                if seq.size_hint().is_some_and(|announced| announced > N) {
                    return Err(A::Error::invalid_length(N + 1, &self));
                }
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() >= N {
                        return Err(A::Error::invalid_length(N + 1, &self));
                    }
                    elements.push(element);
                }
                Ok(List(elements))
            }
        }
        deserializer.deserialize_seq(Check::<T, N>(PhantomData))
    }
}
