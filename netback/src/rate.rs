//! How much a guest may send: so many bytes in each interval.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::netif::MAX_PACKET;

/// The node `rate`: `BYTES,MICROSECONDS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    bytes: u64,
    interval: Duration,
}

/// What should be a rate is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no rate: expected BYTES,MICROSECONDS, neither of them zero")]
pub struct NoRate;

impl FromStr for Rate {
    type Err = NoRate;

    fn from_str(text: &str) -> Result<Self, NoRate> {
        let number =
            |text: &str| text.parse().ok().filter(|n| *n > 0 && text.bytes().all(|b| b.is_ascii_digit()));
        let (bytes, interval) = text.split_once(',').ok_or(NoRate)?;
        let bytes = number(bytes).ok_or(NoRate)?;
        let interval: u64 = number(interval).ok_or(NoRate)?;
        Ok(Self { bytes, interval: Duration::from_micros(interval) })
    }
}

/// A vif's credit, which its queues share.
#[derive(Debug, Clone)]
pub struct Credit(Arc<Mutex<Bucket>>);

impl Credit {
    /// As much as there may be.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Bucket::new(rate, now))))
    }

    /// Takes credit for a packet.
    ///
    /// # Errors
    /// When to try again: there is not enough.
    pub fn take(&self, bytes: usize, now: Instant) -> Result<(), Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, now)
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    credit: u64,
    /// When the credit was last given.
    given: Instant,
}

impl Bucket {
    /// Full.
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, credit: Self::most(rate), given: now }
    }

    /// Credit is not hoarded, but what is left over when the next packet is too large is not lost.
    fn most(rate: Rate) -> u64 {
        rate.bytes.saturating_add(MAX_PACKET as u64)
    }

    fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Instant> {
        let Rate { bytes: each, interval } = self.rate;
        let passed = now.saturating_duration_since(self.given).as_nanos() / interval.as_nanos().max(1);
        if let Ok(passed @ 1..) = u64::try_from(passed) {
            self.credit = self.credit.saturating_add(each.saturating_mul(passed)).min(Self::most(self.rate));
            // Whole intervals only, or a busy vif would lose the rest of each. After a very long time it does not matter.
            let whole = u32::try_from(passed).ok().and_then(|passed| interval.checked_mul(passed));
            self.given = whole.and_then(|whole| self.given.checked_add(whole)).unwrap_or(now);
        }
        match self.credit.checked_sub(bytes as u64) {
            Some(left) => {
                self.credit = left;
                Ok(())
            }
            None => Err(self.given.checked_add(interval).unwrap_or(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rates_are_read() {
        assert_eq!("62500,50000".parse(), Ok(Rate { bytes: 62_500, interval: 50 * MS }));
        for wrong in ["", "1", "0,1", "1,0", "1,2,3", "+1,2", "a,b", "1 ,2"] {
            assert_eq!(wrong.parse::<Rate>(), Err(NoRate), "{wrong}");
        }
    }

    #[test]
    fn over_time_the_rate_is_kept() {
        let start = Instant::now();
        let rate = Rate { bytes: 100_000, interval: 50 * MS };
        let mut bucket = Bucket::new(rate, start);
        let mut sent = 0;
        for ms in 0..10_000_u32 {
            while bucket.take(1500, start + ms * MS).is_ok() {
                sent += 1500;
            }
        }
        // 200 intervals, the first full.
        assert!((19_990_000..=20_000_000 + 65_535).contains(&sent), "{sent}");
    }

    #[test]
    fn credit_comes_when_it_was_said_and_is_not_hoarded() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { bytes: 1000, interval: 10 * MS }, start);
        assert_eq!(bucket.take(MAX_PACKET, start), Ok(()), "a full bucket holds the largest packet");
        assert_eq!(bucket.take(1000, start), Ok(()));
        let when = bucket.take(1000, start + 3 * MS).unwrap_err();
        assert_eq!(when, start + 10 * MS);
        assert_eq!(bucket.take(1000, when), Ok(()));
        assert!(bucket.take(1, when).is_err());
        let later = start + Duration::from_secs(1_000_000);
        assert_eq!(bucket.take(MAX_PACKET, later), Ok(()));
        assert!(bucket.take(1001, later).is_err());
    }

    #[test]
    fn queues_share_it() {
        let start = Instant::now();
        let one = Credit::new(Rate { bytes: 1000, interval: MS }, start);
        let other = one.clone();
        assert_eq!(one.take(MAX_PACKET, start), Ok(()));
        assert_eq!(other.take(1000, start), Ok(()));
        assert_eq!((one.take(1, start), other.take(1, start)), (Err(start + MS), Err(start + MS)));
    }

    #[test]
    fn the_largest_packet_passes_even_the_smallest_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { bytes: 1, interval: MS }, start);
        assert!(bucket.take(MAX_PACKET, start).is_ok());
        let (mut now, mut tries) = (start, 0);
        while let Err(when) = bucket.take(MAX_PACKET, now) {
            assert!(when > now);
            (now, tries) = (when, tries + 1);
        }
        assert_eq!(tries, MAX_PACKET - 1);
    }
}
