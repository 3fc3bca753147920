//! Volumes of a tenant: files on a storage controller's own file system, kept by blkback. What its toolstack asks, and what blkback
//! says, stands in XenStore, so either of them may be rebuilt at any time; a page shared between them would keep the other's
//! domid alive.
//!
//! ```text
//! /local/domain/<blkback>/backend/volumes/<toolstack>/   blkback's own; XenStore lets that toolstack do everything there
//!     request                    NUMBER and what is to be done          by the toolstack
//!     begun                      number of what is being done           by blkback
//!     answer                     the same number and what became of it  by blkback
//!     free                       bytes that new volumes may have        by blkback
//!     volume/<NAME>              its size and state                     by blkback
//!     lend/<guest>/<handle>      name of the volume that this disk is   by the toolstack
//! ```
//!
//! A disk is a volume if its `params` say so and `lend` of that toolstack agrees: another toolstack cannot write there.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// The directory below `backend` in blkback's own.
pub const KIND: &str = "volumes";
/// Longest name.
pub const MAX_NAME: usize = 32;
/// Volumes have whole mebibytes.
pub const UNIT: u64 = 1 << 20;
/// What the source of a guest's disk begins with if it is a volume.
const SOURCE: &str = "volume:";

/// What is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A name.
    #[error("a volume's name is 1 to {MAX_NAME} of a-z, 0-9, `_` and `-`, the first a letter or digit")]
    Name,
    /// A request, an answer or a state.
    #[error("these words make no sense")]
    Words,
}

/// A volume's name: also that of a file and of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let is_name = first && text.len() <= MAX_NAME && text.bytes().all(fits);
        is_name.then(|| Self(text.to_owned())).ok_or(Unfit::Name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The volume that a guest's disk is, if its source (`volume:NAME`) is one.
#[must_use]
pub fn of_source(source: &str) -> Option<Result<Name, Unfit>> {
    source.strip_prefix(SOURCE).map(str::parse)
}

/// A disk's `params`: the volume of a toolstack.
#[must_use]
pub fn params(toolstack: u16, name: &Name) -> String {
    format!("{SOURCE}{toolstack}/{name}")
}

/// What a disk's `params` say, if it is a volume: toolstack and name.
#[must_use]
pub fn of_params(params: &str) -> Option<(u16, Name)> {
    let (toolstack, name) = params.strip_prefix(SOURCE)?.split_once('/')?;
    let found = (toolstack.parse().ok()?, name.parse().ok()?);
    // The only text of it is the one that we write.
    (self::params(found.0, &found.1) == params).then_some(found)
}

/// Where a toolstack says that a guest's disk is a volume of its own, below its directory.
#[must_use]
pub fn lend(guest: u16, handle: u32) -> String {
    format!("lend/{guest}/{handle}")
}

/// What a toolstack asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A new volume of zeroes.
    Create {
        /// Its name.
        name: Name,
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A new volume with the content of another.
    Copy {
        /// Its name.
        name: Name,
        /// The other.
        from: Name,
    },
    /// More zeroes at its end.
    Grow {
        /// Its name.
        name: Name,
        /// Its new size, in bytes.
        bytes: u64,
    },
    /// Its end.
    Delete {
        /// Its name.
        name: Name,
    },
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, bytes } => write!(f, "create {name} {bytes}"),
            Self::Copy { name, from } => write!(f, "copy {name} {from}"),
            Self::Grow { name, bytes } => write!(f, "grow {name} {bytes}"),
            Self::Delete { name } => write!(f, "delete {name}"),
        }
    }
}

impl FromStr for Request {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse().map_err(|_| Unfit::Words);
        match *words.as_slice() {
            ["create", name, bytes] => Ok(Self::Create { name: name.parse()?, bytes: number(bytes)? }),
            ["copy", name, from] => Ok(Self::Copy { name: name.parse()?, from: from.parse()? }),
            ["grow", name, bytes] => Ok(Self::Grow { name: name.parse()?, bytes: number(bytes)? }),
            ["delete", name] => Ok(Self::Delete { name: name.parse()? }),
            _ => Err(Unfit::Words),
        }
    }
}

/// Why it is not done, for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// There is no such volume.
    NoSuchVolume,
    /// There is a volume of that name.
    Exists,
    /// Not as long as it is used, or made.
    State,
    /// There is no room.
    TooLarge,
    /// The file system failed, or there is none.
    Failed,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Invalid, "invalid"),
    (Kind::NoSuchVolume, "no-such-volume"),
    (Kind::Exists, "exists"),
    (Kind::State, "state"),
    (Kind::TooLarge, "too-large"),
    (Kind::Failed, "failed"),
];

/// Why it is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For a program.
    pub kind: Kind,
    /// For people, one sentence without a full stop.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Something with its number, as it stands in a node.
#[must_use]
pub fn numbered(number: u64, what: impl fmt::Display) -> String {
    format!("{number} {what}")
}

/// The number of a node's value, and what stands behind it.
#[must_use]
pub fn split(value: &str) -> Option<(u64, &str)> {
    let (number, rest) = value.split_once(' ')?;
    Some((number.parse().ok()?, rest))
}

/// What became of a request, as it stands in a node behind its number.
#[must_use]
pub fn answer(outcome: &Result<(), Refusal>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(Refusal { kind, message }) => {
            let word = KINDS.iter().find(|(one, _)| one == kind).map_or("failed", |(_, word)| word);
            format!("{word} {message}")
        }
    }
}

/// What an answer says.
///
/// # Errors
/// When it makes no sense.
pub fn of_answer(text: &str) -> Result<Result<(), Refusal>, Unfit> {
    if text == "ok" {
        return Ok(Ok(()));
    }
    let (word, message) = text.split_once(' ').ok_or(Unfit::Words)?;
    let (kind, _) = KINDS.iter().find(|(_, one)| *one == word).ok_or(Unfit::Words)?;
    Ok(Err(Refusal::new(*kind, message)))
}

/// A volume's size and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Its size.
    pub bytes: u64,
    /// Bytes that have been written, as long as it is made or grows.
    pub making: Option<u64>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.making {
            None => write!(f, "{} ready", self.bytes),
            Some(done) => write!(f, "{} making {done}", self.bytes),
        }
    }
}

impl FromStr for State {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse().map_err(|_| Unfit::Words);
        match *words.as_slice() {
            [bytes, "ready"] => Ok(Self { bytes: number(bytes)?, making: None }),
            [bytes, "making", done] => Ok(Self { bytes: number(bytes)?, making: Some(number(done)?) }),
            _ => Err(Unfit::Words),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_no_paths() {
        for right in ["a", "0", "web-1_x", &"a".repeat(MAX_NAME)] {
            assert_eq!(name(right).as_str(), right);
        }
        for wrong in
            ["", "-a", "_a", ".", "..", "a/b", "a.b", "A", "a b", "\u{e4}", &"a".repeat(MAX_NAME + 1)]
        {
            assert_eq!(wrong.parse::<Name>(), Err(Unfit::Name), "{wrong}");
        }
    }

    #[test]
    fn sources_and_params_name_volumes() {
        assert_eq!(of_source("volume:web"), Some(Ok(name("web"))));
        assert_eq!(of_source("volume:../x"), Some(Err(Unfit::Name)));
        assert_eq!(of_source("label:web"), None);
        assert_eq!(of_params("volume:7/web"), Some((7, name("web"))));
        for wrong in [
            "volume:web",
            "volume:07/web",
            "volume:+7/web",
            "volume:7/",
            "volume:7/a/b",
            "7/web",
            "volume:70000/a",
        ] {
            assert_eq!(of_params(wrong), None, "{wrong}");
        }
        assert_eq!(lend(1024, 51712), "lend/1024/51712");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_written_is_read(
            a in "[a-z0-9][a-z0-9_-]{0,31}", b in "[a-z0-9][a-z0-9_-]{0,31}", bytes in any::<u64>(), number in any::<u64>(),
            kind in prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec()), message in "[ -~]{0,80}",
        ) {
            let (a, b) = (name(&a), name(&b));
            prop_assert_eq!(of_params(&params(7, &a)), Some((7, a.clone())));
            let requests = [
                Request::Create { name: a.clone(), bytes },
                Request::Copy { name: a.clone(), from: b },
                Request::Grow { name: a.clone(), bytes },
                Request::Delete { name: a },
            ];
            for request in requests {
                let value = numbered(number, &request);
                let (found, rest) = split(&value).unwrap();
                prop_assert_eq!((found, rest.parse()), (number, Ok(request)));
            }
            for outcome in [Ok(()), Err(Refusal::new(kind, message.clone()))] {
                prop_assert_eq!(of_answer(&answer(&outcome)), Ok(outcome));
            }
            for state in [State { bytes, making: None }, State { bytes, making: Some(number) }] {
                prop_assert_eq!(state.to_string().parse(), Ok(state));
            }
        }

        #[test]
        fn nonsense_is_no_more_than_nonsense(text in ".{0,60}") {
            let _ = (text.parse::<Request>(), text.parse::<State>(), of_answer(&text), of_params(&text), split(&text));
        }
    }
}
