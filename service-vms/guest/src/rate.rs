//! How much a NIC may send, as xl-network-configuration(5) writes it: `10Mb/s`, `1MB/s@20ms`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::code;
use crate::words::Refusal;

/// Microseconds after which credit is given anew, if nothing else is said: libxlu's.
const DEFAULT_INTERVAL_US: u32 = 50_000;
/// 1 TB/s.
const MAX_BYTES_PER_SECOND: u64 = 1_000_000_000_000;
const UNITS: [(&str, u64); 4] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];
const BIT_UNITS: [(&str, u64); 4] = [("Gb", 1_000_000_000), ("Mb", 1_000_000), ("Kb", 1_000), ("b", 1)];

/// A limit on what a NIC sends: credit for so many bytes, given anew after each interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    bytes_per_second: u64,
    interval_us: u32,
}

impl Rate {
    /// Bytes that may be sent in each interval, at least 1. With `interval_us` the value of the node `rate` of a
    /// backend's vif in XenStore.
    #[must_use]
    pub fn bytes_per_interval(self) -> u64 {
        credit(self.bytes_per_second, self.interval_us)
    }

    /// Length of the interval in microseconds, at least 1.
    #[must_use]
    pub fn interval_us(self) -> u32 {
        self.interval_us
    }

    pub(crate) fn read(text: &str) -> Result<Self, Refusal> {
        let wrong = |why: &str| {
            Refusal {
            message: format!("The rate {} {why}", code(text)),
            help: "write a number with `GB/s`, `MB/s`, `KB/s` or `B/s` (with a small b for bits), and if need be `@` and a number with `s`, `ms` or `us`: `10Mb/s` or `1MB/s@20ms`".to_owned(),
        }
        };
        let (amount, interval) = text.split_once('@').map_or((text, None), |(a, i)| (a, Some(i)));
        let amount =
            amount.strip_suffix("/s").ok_or_else(|| wrong("is not one in bytes or bits per second"))?;
        let (number, factor, bits) = BIT_UNITS
            .iter()
            .map(|unit| (unit, 8))
            .chain(UNITS.iter().map(|unit| (unit, 1)))
            .find_map(|((unit, factor), bits)| Some((amount.strip_suffix(unit)?, *factor, bits)))
            .filter(|(number, ..)| is_digits(number))
            .ok_or_else(|| wrong("is not one in bytes or bits per second"))?;
        let number: u64 = number.parse().map_err(|_| wrong("is too large"))?;
        let bytes_per_second = number.saturating_mul(factor) / bits;
        if bytes_per_second > MAX_BYTES_PER_SECOND {
            return Err(wrong("is too large"));
        }
        let interval_us = match interval {
            None => DEFAULT_INTERVAL_US,
            Some(interval) => interval_us(interval).ok_or_else(|| {
                wrong("has no interval that can be read (xl takes one without a unit for seconds, its manual for microseconds)")
            })?,
        };
        if credit(bytes_per_second, interval_us) == 0 {
            return Err(wrong("gives less than a byte in each interval"));
        }
        Ok(Self { bytes_per_second, interval_us })
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn credit(bytes_per_second: u64, interval_us: u32) -> u64 {
    let bytes = u128::from(bytes_per_second) * u128::from(interval_us) / 1_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn interval_us(text: &str) -> Option<u32> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let (number, factor) = units.iter().find_map(|(unit, f)| Some((text.strip_suffix(unit)?, *f)))?;
    if !is_digits(number) {
        return None;
    }
    number.parse::<u32>().ok()?.checked_mul(factor)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            UNITS.into_iter().find(|(_, factor)| self.bytes_per_second % factor == 0).unwrap_or(("B", 1));
        write!(f, "{}{unit}/s", self.bytes_per_second / factor)?;
        match self.interval_us {
            DEFAULT_INTERVAL_US => Ok(()),
            us if us % 1_000_000 == 0 => write!(f, "@{}s", us / 1_000_000),
            us if us % 1_000 == 0 => write!(f, "@{}ms", us / 1_000),
            us => write!(f, "@{us}us"),
        }
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::read(&text).map_err(|refusal| refusal.message)
    }
}
