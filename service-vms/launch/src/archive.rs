//! A newc archive, as Linux's initramfs takes it.

use std::io;

/// An archive of `directories` and `files` (name, contents), in this order, owned by root.
pub(crate) fn newc(directories: &[&str], files: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut ino = 0;
    let mut entry = |out: Vec<u8>, name: &str, mode: u32, data: &[u8]| {
        ino += 1;
        let size =
            u32::try_from(data.len()).map_err(|_| io::Error::other(format!("{name}: larger than 4 GiB")))?;
        let mut writer = cpio::newc::Builder::new(name).ino(ino).mode(mode).nlink(1).write(out, size);
        io::Write::write_all(&mut writer, data)?;
        writer.finish()
    };
    for name in directories {
        out = entry(out, name, 0o040_755, &[])?;
    }
    for (name, data) in files {
        out = entry(out, name, 0o100_444, data)?;
    }
    cpio::newc::trailer(out)
}
