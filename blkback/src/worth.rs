//! Whether it is worth while to ask again and again for what comes next, instead of sleeping until it comes. To sleep and to be woken
//! takes a PV domain several ways through Xen: often longer than a disk takes, or a guest to ask again. (`ennead_os::Spin` asks for
//! the time and lets others run at each turn: two system calls, which cost as much as what is to be saved here.)

use std::hint::spin_loop;

/// How often memory is looked at: some 50 to 500 microseconds, by the processor's `pause`.
const TURNS: u32 = 10_000;
/// Most times in a row that it is not tried, after it was in vain.
const MOST_PASSED_OVER: u32 = 63;

/// What the last times tell: after each that was in vain, twice as many are passed over. So who always comes late costs hardly any
/// time of the processor's.
#[derive(Debug, Default)]
pub struct Worth {
    /// Times that are still to be passed over.
    left: u32,
    /// As many are, after one more in vain.
    passed_over: u32,
}

impl Worth {
    /// To be asked once before each time.
    pub const fn is_it(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                false
            }
            None => true,
        }
    }

    /// Whether it was, this time.
    pub fn note(&mut self, it_was: bool) {
        if it_was {
            self.passed_over /= 2;
        } else {
            self.passed_over = (2 * self.passed_over + 1).min(MOST_PASSED_OVER);
            self.left = self.passed_over;
        }
    }

    /// Looks until something is there, for a while; whether something is.
    ///
    /// # Errors
    /// As `is_there`.
    pub fn look<E>(&mut self, mut is_there: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        for _ in 0..TURNS {
            if is_there()? {
                self.note(true);
                return Ok(true);
            }
            spin_loop();
        }
        self.note(false);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many times are passed over until it is tried.
    fn passed_over(worth: &mut Worth) -> u32 {
        (0..).take_while(|_| !worth.is_it()).count().try_into().unwrap()
    }

    #[test]
    fn what_is_in_vain_becomes_rare_and_what_pays_is_done_each_time() {
        let mut worth = Worth::default();
        let mut gaps = Vec::new();
        for _ in 0..8 {
            gaps.push(passed_over(&mut worth));
            worth.note(false);
        }
        assert_eq!(gaps, [0, 1, 3, 7, 15, 31, 63, 63]);
        assert_eq!(passed_over(&mut worth), 63);
        for _ in 0..5 {
            worth.note(true);
            assert_eq!(passed_over(&mut worth), 0);
        }
        worth.note(false);
        assert_eq!(passed_over(&mut worth), 3);
    }

    #[test]
    fn looking_ends_with_what_is_there_with_an_error_or_after_a_while() {
        let (mut worth, mut turns) = (Worth::default(), 0);
        let third = worth.look(|| {
            turns += 1;
            Ok::<_, ()>(turns == 3)
        });
        assert_eq!((third, turns, passed_over(&mut worth)), (Ok(true), 3, 0));
        assert_eq!(worth.look(|| Err(7)), Err(7));
        turns = 0;
        let never = worth.look(|| {
            turns += 1;
            Ok::<_, ()>(false)
        });
        assert_eq!((never, turns, passed_over(&mut worth)), (Ok(false), TURNS, 1));
    }
}
