//! How a State gives all that it knows to its successor, and may end. The link's memory is the successor's; the one that gives
//! calls (`CallKind::Contents`), the one that takes answers.
//!
//! Neither has the whole stream in memory. Who gives changes nothing: if anything goes wrong it goes on serving.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use ennead_xs_link::{
    Answerer, Call, CallKind, Caller, MAX_BODY, Record, RecordKind, RecordWriter, Records, Shared,
};

use crate::{
    Settings,
    service::{Loading, Mode, Service},
};

/// What happens around the link.
pub trait Bell {
    /// Rings the other side.
    fn ring(&mut self);
    /// Waits until the other side rings. `false`: it had all the time that it gets.
    fn wait(&mut self) -> bool;
}

/// Why nothing was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Failed {}

fn failed(why: impl Into<String>) -> Failed {
    Failed(why.into())
}

/// Sum of all bytes (FNV-1a, 64 bits): finds what is lost or torn on the way, and nothing that somebody forges.
#[derive(Debug)]
struct Sum(u64);

impl Sum {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// As a call's header carries it.
    fn halves(&self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = self.0.to_le_bytes();
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }
}

/// Gives everything to the State at the other end of `memory`; returns when that one has it. From then on this one must not serve.
///
/// # Errors
/// Why the other one does not have it: it is as if nothing had happened.
pub fn give<M: Shared>(service: &Service, memory: M, bell: &mut impl Bell) -> Result<(), Failed> {
    let caller = Caller::attach(memory).map_err(|_| failed("its region is no link"))?;
    let mut giver = Giver { caller, bell, answer: Box::new([0; MAX_BODY]) };
    let (mut sum, mut result) = (Sum::new(), Ok(()));
    service.save_to(&mut |piece| {
        sum.add(piece);
        result = piece.chunks(MAX_BODY).try_for_each(|part| giver.call(0, (0, 0), part));
        result.is_ok()
    });
    result?;
    giver.call(1, sum.halves(), &[])?;
    while giver.caller.under_way() > 0 {
        giver.collect()?;
    }
    Ok(())
}

struct Giver<'b, M: Shared, B> {
    caller: Caller<M>,
    bell: &'b mut B,
    answer: Box<[u8; MAX_BODY]>,
}

impl<M: Shared, B: Bell> Giver<'_, M, B> {
    fn call(&mut self, line: u32, (req_cons, rsp_cons): (u32, u32), body: &[u8]) -> Result<(), Failed> {
        while !self.caller.has_room() {
            self.collect()?;
        }
        let call = Call { kind: CallKind::Contents, line, req_cons, rsp_cons };
        self.caller.submit(&call, body).map_err(|violation| failed(violation.0))?;
        if self.caller.must_wake() {
            self.bell.ring();
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), Failed> {
        let answer = loop {
            if let Some(answer) = self.caller.collect(&mut self.answer).map_err(|v| failed(v.0))? {
                break answer;
            }
            self.caller.sleeps(true);
            let in_time = self.caller.is_answered() || self.bell.wait();
            self.caller.sleeps(false);
            if !in_time {
                return Err(failed("it does not answer"));
            }
        };
        let records = Records(self.answer.get(..answer.len).unwrap_or_default());
        match records.into_iter().find(|record| record.kind == RecordKind::Drop) {
            Some(refusal) => Err(failed(refusal.data.escape_ascii().to_string())),
            None => Ok(()),
        }
    }
}

/// The successor's end.
#[derive(Debug)]
pub struct Taker<M: Shared> {
    answerer: Answerer<M>,
}

impl<M: Shared> Taker<M> {
    /// Makes a region of zeroes the link: before the other State is told of it.
    #[must_use]
    pub fn new(memory: M) -> Self {
        Self { answerer: Answerer::create(memory) }
    }

    /// Takes everything.
    ///
    /// # Errors
    /// Why not; the other State is told.
    pub fn take(mut self, settings: Settings, mode: Mode, bell: &mut impl Bell) -> Result<Service, Failed> {
        let mut body = Box::new([0; MAX_BODY]);
        let (mut loading, mut sum) = (Loading::new(settings, mode), Sum::new());
        loop {
            let Some((call, piece)) = self.answerer.next_call(&mut body).map_err(|v| failed(v.0))? else {
                self.answerer.sleeps(true);
                let in_time = self.answerer.has_call() || bell.wait();
                self.answerer.sleeps(false);
                if in_time {
                    continue;
                }
                return Err(failed("the other State says nothing"));
            };
            let taken = match (call.kind, call.line) {
                (CallKind::Contents, 0) => {
                    sum.add(piece);
                    loading.push(piece).map_err(|e| failed(e.to_string()))
                }
                (CallKind::Contents, _) if (call.req_cons, call.rsp_cons) == sum.halves() => break,
                (CallKind::Contents, _) => Err(failed("some of it was lost on the way")),
                (kind, _) => Err(failed(format!("it asks for {kind:?}"))),
            };
            self.answer(taken.as_ref().err(), bell);
            taken?;
        }
        let service = loading.finish().map_err(|e| failed(e.to_string()));
        self.answer(service.as_ref().err(), bell);
        service
    }

    fn answer(&mut self, refusal: Option<&Failed>, bell: &mut impl Bell) {
        let mut records = RecordWriter::default();
        if let Some(Failed(why)) = refusal {
            let data: Vec<u8> = why.bytes().take(256).collect();
            records.push(&Record { kind: RecordKind::Drop, line: 0, at: 0, skip: 0, take: 0, data: &data });
        }
        self.answerer.answer(records.bytes(), false);
        if self.answerer.must_wake() {
            bell.ring();
        }
    }
}

#[cfg(test)]
mod tests;
