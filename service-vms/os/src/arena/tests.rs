use super::*;

fn double(input: &[u8], output: &mut [u8]) -> usize {
    let twice: Vec<u8> = input.iter().chain(input).copied().collect();
    let Some(out) = output.get_mut(..twice.len()) else { return 0 };
    out.copy_from_slice(&twice);
    twice.len()
}

#[test]
fn a_handler_gets_its_input_and_its_output_comes_back() {
    let mut arena = Arena::new().unwrap();
    assert_eq!(arena.run(double, b"abc"), Some(&b"abcabc"[..]));
    assert!(!arena.is_pristine());
    assert_eq!(arena.run(double, &[0; INPUT_LEN + 1]), None);
}

#[test]
fn input_output_heap_and_stack_are_put_back() {
    let mut arena = Arena::new().unwrap();
    for _ in 0..3 {
        assert_eq!(arena.run(double, &[7; 2000]).map(<[u8]>::len), Some(4000));
        // Not `reset`: it would put back the statics of the whole test program, whose other threads run.
        // SAFETY: as in `reset`.
        unsafe { std::ptr::copy_nonoverlapping(arena.pristine.as_ptr(), arena.base.as_ptr(), LEN) };
        assert!(arena.is_pristine());
    }
}

#[test]
fn the_statics_are_found() {
    static MARK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(7);
    let statics = Statics::find();
    let at = std::ptr::from_ref(&MARK).addr();
    assert!((statics.start.addr()..statics.start.addr() + statics.len).contains(&at));
}
