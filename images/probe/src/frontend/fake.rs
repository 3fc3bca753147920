//! What hostile frontends of both kinds do.

use std::time::Duration;

use ennead_xen::DomId;

use super::{Fate, Frontend, judge};

/// A case: its name, what is to become of it, and what is done; that gives the state in which the backend was when connected.
pub(super) type Case = (&'static str, Fate, fn(&mut Frontend) -> anyhow::Result<String>);

/// The rings and pages of a device.
pub trait Fake: Sized {
    /// For this peer.
    ///
    /// # Errors
    /// Xen's or Linux's.
    fn new(peer: DomId) -> anyhow::Result<Self>;

    /// The nodes by which the backend finds them.
    fn nodes(&self) -> Vec<(&'static str, Vec<u8>)>;

    /// Nonsense all over the rings.
    ///
    /// # Errors
    /// Linux's.
    fn spoil(&self, frontend: &mut Frontend) -> anyhow::Result<()>;
}

/// Goes through all; gives how many there were, and how many held.
pub(super) fn judge_all(frontend: &mut Frontend, all: &[Case]) -> anyhow::Result<(u32, u32)> {
    let mut held = 0;
    for (name, fate, case) in all {
        let done = case(frontend);
        held += u32::from(judge(frontend, name, *fate, done)?);
    }
    Ok((u32::try_from(all.len())?, held))
}

/// Connects, and does something; gives the state in which the backend was when connected.
pub(super) fn served<F: Fake>(
    frontend: &mut Frontend,
    act: impl FnOnce(&mut F) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    frontend.begin()?;
    let mut fake = F::new(frontend.peer)?;
    let state = frontend.connect(&fake.nodes())?;
    if state == "4" {
        act(&mut fake)?;
        // What the backend thinks of it comes before the pages go.
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(state)
}

/// Connects with one node that is wrong.
pub(super) fn with<F: Fake>(
    frontend: &mut Frontend,
    key: &'static str,
    value: &[u8],
) -> anyhow::Result<String> {
    frontend.begin()?;
    let fake = F::new(frontend.peer)?;
    let mut nodes = fake.nodes();
    nodes.retain(|(name, _)| *name != key);
    nodes.push((key, value.to_vec()));
    frontend.connect(&nodes)
}

/// Connects, spoils the rings, and begins again, for ever.
///
/// # Errors
/// When the device cannot be had any more.
pub fn storm<F: Fake>(frontend: &mut Frontend) -> anyhow::Result<()> {
    loop {
        frontend.begin()?;
        let fake = F::new(frontend.peer)?;
        if frontend.connect(&fake.nodes())? == "4" {
            for _ in 0..20 {
                fake.spoil(frontend)?;
                if frontend.backends("state")? != "4" {
                    break;
                }
            }
        }
    }
}
