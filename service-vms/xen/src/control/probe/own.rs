//! This VM's own pages by their machine frames, so that a program can spoil what its kernel shares with others: its XenStore
//! ring, for instance.

use std::sync::atomic::Ordering;

use super::Probe;
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::page::PAGE_SIZE;
use crate::{DomId, Mfn, Port, ioctl, sys};
use xenctrl_sys as xc;

/// Xen's name for the caller itself (`DOMID_SELF`).
const SELF: DomId = DomId(0x7ff0);

/// A page that this program shares with its own kernel, and with whoever that shares it with.
#[derive(Debug)]
pub struct OwnPage {
    mapping: Mapping,
}

impl OwnPage {
    /// The 32-bit word at an offset, or 0.
    #[must_use]
    pub fn load(&self, offset: usize) -> u32 {
        self.mapping.word32(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets the 32-bit word at an offset, if there is one.
    pub fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.mapping.word32(offset) {
            word.store(value, Ordering::Release);
        }
    }

    /// Copies bytes in, if all of them are inside.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let _outside = self.mapping.write(offset, data);
    }
}

impl Probe<'_> {
    /// The first of `count` frames from `first` on that is this VM's own, that it may write to (page tables it may not),
    /// and that `wanted` picks by its bytes.
    ///
    /// # Errors
    /// When Linux refuses the whole call.
    pub fn own_page(
        &self,
        first: Mfn,
        count: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<OwnPage>> {
        let frames: Vec<u64> = (first.0..).take(count).collect();
        let (mapping, errors) = self.map_own(&frames)?;
        let mut bytes = [0; PAGE_SIZE];
        for (index, (frame, _)) in frames.iter().zip(errors).enumerate().filter(|(_, (_, error))| *error == 0)
        {
            let _inside = mapping.read(index.saturating_mul(PAGE_SIZE), &mut bytes);
            if wanted(&bytes) {
                return Ok(Some(OwnPage { mapping: self.map_own(&[*frame])?.0 }));
            }
        }
        Ok(None)
    }

    /// How many of `count` frames from `first` on this VM may map as its own: its memory, and I/O memory that it was given.
    ///
    /// # Errors
    /// When Linux refuses the whole call.
    pub fn reachable(&self, first: Mfn, count: usize) -> Result<usize> {
        let frames: Vec<u64> = (first.0..).take(count).collect();
        let (_mapping, errors) = self.map_own(&frames)?;
        Ok(errors.iter().filter(|error| **error == 0).count())
    }

    /// Maps frames side by side; where the number is not 0, there is nothing.
    fn map_own(&self, frames: &[u64]) -> Result<(Mapping, Vec<i32>)> {
        let local = |e| Error::new(Kind::Local, "map own pages", None, e);
        let device = self.control.privcmd.device();
        let mapping = Mapping::device(device, frames.len().saturating_mul(PAGE_SIZE), 0).map_err(local)?;
        let mut errors = vec![0; frames.len()];
        let mut request = sys::PrivcmdMmapbatchV2 {
            num: u32::try_from(frames.len()).unwrap_or(0),
            dom: SELF.0,
            addr: mapping.address(),
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: both arrays have `num` entries, and the address range is a mapping of our own that nobody has looked at.
        let result = unsafe { ioctl::request_raw(device, sys::IOCTL_PRIVCMD_MMAPBATCH_V2, &mut request) };
        // Linux reports a frame that it could not map both there and as the whole call's error.
        match result {
            Err(e) if errors.iter().all(|error| *error == 0) => Err(local(e)),
            _ => Ok((mapping, errors)),
        }
    }

    /// Sends an event on a port of this VM, whoever in it has the port (`EVTCHNOP_send`).
    ///
    /// # Errors
    /// Xen's refusal.
    pub fn send(&self, port: Port) -> Result<()> {
        let command = u64::from(xc::EVTCHNOP_send);
        let op = xc::evtchn_send { port: port.0 };
        self.any("evtchn send", xc::__HYPERVISOR_event_channel_op, op, |at| [command, at, 0, 0, 0]).map(drop)
    }
}
