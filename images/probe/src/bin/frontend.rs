//! A guest's program that plays a frontend which means harm (`ennead_probe::frontend`): `frontend cases vbd|vif` goes through
//! all cases, `frontend storm vbd|vif` never ends, `frontend spin` only keeps a processor busy, `frontend grant` gives a page to
//! the vif's backend, one to Builder, and tells the backend so.
#![forbid(unsafe_code)]

use anyhow::bail;
use ennead_probe::frontend::fake::storm;
use ennead_probe::frontend::{Frontend, vbd, vif};
use ennead_xen::{DomId, GrantedPage};

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cases", kind] => {
            let mut frontend = Frontend::open(kind)?;
            let all = if *kind == "vbd" { vbd::cases } else { vif::cases };
            let (count, held) = all(&mut frontend)?;
            println!("cases {count} held {held}");
            Ok(())
        }
        ["storm", kind] => {
            let mut frontend = Frontend::open(kind)?;
            let storm = if *kind == "vbd" { storm::<vbd::Disk> } else { storm::<vif::Interface> };
            storm(&mut frontend)
        }
        ["grant"] => {
            let mut frontend = Frontend::open("vif")?;
            let pages = [GrantedPage::new(frontend.peer)?, GrantedPage::new(DomId(1))?];
            frontend.write("granted", b"1")?;
            println!("granted {} {}", pages[0].gref(), pages[1].gref());
            loop {
                std::thread::park();
            }
        }
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        _ => bail!("frontend cases|storm vbd|vif, or frontend spin"),
    }
}
