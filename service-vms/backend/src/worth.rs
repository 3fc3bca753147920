//! Whether it is worth while to ask again and again for what comes next, instead of sleeping until it comes. To sleep and to be woken
//! takes a PV domain several ways through Xen: often longer than a disk takes, or a guest to ask again. (`ennead_os::Spin` asks for
//! the time and lets others run at each turn: two system calls, which cost as much as what is to be saved here.)

use std::hint::spin_loop;

/// Most times in a row that it is not tried, after it was in vain.
const MOST_PASSED_OVER: u32 = 31;

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
}

/// Looks at most so many times whether something is there.
pub fn look(turns: u32, mut is_there: impl FnMut() -> bool) -> bool {
    for turn in 1..=turns {
        if is_there() {
            return true;
        }
        // For the processor's other thread. Not each time: emulators stop at it.
        if turn % 64 == 0 {
            spin_loop();
        }
    }
    false
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
        assert_eq!(gaps, [0, 1, 3, 7, 15, 31, 31, 31]);
        assert_eq!(passed_over(&mut worth), 31);
        for _ in 0..4 {
            worth.note(true);
            assert_eq!(passed_over(&mut worth), 0);
        }
        worth.note(false);
        assert_eq!(passed_over(&mut worth), 3);
    }

    #[test]
    fn looking_ends_with_what_is_there_or_after_a_while() {
        let mut turns = 0;
        let mut third = || {
            turns += 1;
            turns == 3
        };
        assert!(!look(2, &mut third) && look(100, &mut third));
        assert_eq!(turns, 3);
        turns = 0;
        assert!(!look(100, || {
            turns += 1;
            false
        }));
        assert_eq!(turns, 100);
    }
}
