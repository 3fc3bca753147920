//! The two functions that see what guests wrote. They are pure, and run in memory that is put back afterwards.

use ennead_xs_link::{Head, decode_message, encode_request};
use ennead_xs_wire::{HEADER_LEN, Header, Request};

/// A complete message of a client -> a call's body for State. 0 bytes if it is not a message at all.
#[must_use]
pub fn parse(input: &[u8], output: &mut [u8]) -> usize {
    let Some((header, payload)) = input.split_first_chunk::<HEADER_LEN>() else { return 0 };
    let Ok(header) = Header::decode(header) else { return 0 };
    let head = Head { op: header.op, request_id: header.request_id, tx_id: header.tx_id };
    #[cfg(feature = "corrupt")]
    let payload = corrupt::subvert(header.op, payload);
    encode_request(head, Request::decode(header.op, payload), output).unwrap_or(0)
}

/// A message of State's -> its bytes on the wire. 0 bytes if State's message is none.
#[must_use]
pub fn format(input: &[u8], output: &mut [u8]) -> usize {
    decode_message(input).and_then(|message| message.encode_into(output)).unwrap_or(0)
}

/// Runs a handler and forgets everything that it did but for its output.
pub trait Forgetful {
    /// Runs `handler` on `input`; copies what it leaves into `output` and gives the number of bytes. 0 if something does not
    /// fit.
    fn run(&mut self, handler: fn(&[u8], &mut [u8]) -> usize, input: &[u8], output: &mut [u8]) -> usize;
}

/// A hole in the handler, for the test that proves that the reset closes it: CONTROL `corrupt` writes over the handler's statics,
/// heap and stack, and every request that is parsed in such memory reads `/stolen` instead of what its client asked for.
#[cfg(feature = "corrupt")]
mod corrupt {
    use core::hint::black_box;
    use core::sync::atomic::{AtomicU8, Ordering};

    static STATICS: [AtomicU8; 2048] = [const { AtomicU8::new(0) }; 2048];

    pub(super) fn subvert(op: u32, payload: &[u8]) -> &[u8] {
        if op == 0 && payload.starts_with(b"corrupt") {
            for byte in &STATICS {
                byte.store(0xaa, Ordering::Relaxed);
            }
            black_box(alloc::vec![0xaa_u8; 6000]);
            black_box([0xaa_u8; 3000]);
        }
        let infected = STATICS.iter().any(|byte| byte.load(Ordering::Relaxed) != 0);
        if infected && op == 2 { b"/stolen\0" } else { payload }
    }
}
