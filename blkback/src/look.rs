//! Looking again for a while for what comes next, before sleeping until it comes. To sleep and to be woken takes a PV domain several
//! ways through Xen: often longer than a disk takes, or a guest to ask again.

use std::hint::spin_loop;

/// How often it is looked at most: some 50 to 500 microseconds, by the processor's `pause`.
const TURNS: u32 = 10_000;
/// Most times in a row that it is not tried, after it was in vain.
const MOST_PASSED_OVER: u32 = 63;

/// Whether it is worth while, as far as the last times tell: after each that was in vain, twice as many are passed over. So who
/// always asks late costs hardly any time of the processor's.
#[derive(Debug, Default)]
pub struct Look {
    /// Times that are still to be passed over.
    pass_over: u32,
    /// As many were after the last one in vain.
    passed_over: u32,
}

impl Look {
    /// To be asked once before each sleep.
    pub const fn is_worth_it(&mut self) -> bool {
        match self.pass_over.checked_sub(1) {
            Some(left) => {
                self.pass_over = left;
                false
            }
            None => true,
        }
    }

    /// Looks until something is there, for a while; whether something is.
    ///
    /// # Errors
    /// As `is_there`.
    pub fn until<E>(&mut self, mut is_there: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        for _ in 0..TURNS {
            if is_there()? {
                self.passed_over = 0;
                return Ok(true);
            }
            spin_loop();
        }
        self.passed_over = (2 * self.passed_over + 1).min(MOST_PASSED_OVER);
        self.pass_over = self.passed_over;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as `until` takes it")]
    const fn never() -> Result<bool, ()> {
        Ok(false)
    }

    /// How many sleeps follow each other without a look.
    fn passed_over(look: &mut Look) -> u32 {
        (0..).take_while(|_| !look.is_worth_it()).count().try_into().unwrap()
    }

    #[test]
    fn what_is_in_vain_becomes_rare_and_what_pays_is_done_each_time() {
        let mut look = Look::default();
        let mut gaps = Vec::new();
        for _ in 0..8 {
            gaps.push(passed_over(&mut look));
            assert_eq!(look.until(never), Ok(false));
        }
        assert_eq!(gaps, [0, 1, 3, 7, 15, 31, 63, 63]);
        passed_over(&mut look);
        assert_eq!(look.until(|| Ok::<_, ()>(true)), Ok(true));
        assert_eq!(passed_over(&mut look), 0);
        assert_eq!(look.until(never), Ok(false));
        assert_eq!(passed_over(&mut look), 1);
    }

    #[test]
    fn it_ends_with_the_first_that_is_there_and_with_an_error() {
        let (mut look, mut turns) = (Look::default(), 0);
        let third = look.until(|| {
            turns += 1;
            Ok::<_, ()>(turns == 3)
        });
        assert_eq!((third, turns), (Ok(true), 3));
        assert_eq!(look.until(|| Err(7)), Err(7));
        turns = 0;
        let all = look.until(|| {
            turns += 1;
            Ok::<_, ()>(false)
        });
        assert_eq!((all, turns), (Ok(false), TURNS));
    }
}
