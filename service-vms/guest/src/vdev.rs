//! Names of virtual disks and the numbers that they stand for (xen-vbd-interface(7)).

/// The number of a virtual disk or of a partition of one, which names its directory in XenStore: `xvda`, `xvdb2`, `sda`,
/// `hda`, `d0p1`. `None` if it is none. (The bare number that very old guests need is not accepted.)
#[must_use]
pub fn vdev_number(vdev: &str) -> Option<u32> {
    if let Some(rest) = vdev.strip_prefix("xvd") {
        let (disk, partition) = lettered(rest, 1 << 20, 255)?;
        Some(xvd(disk, partition))
    } else if let Some(rest) = vdev.strip_prefix("hd") {
        let (disk, partition) = lettered(rest, 4, 63)?;
        let major = if disk < 2 { 3 } else { 22 };
        Some(major << 8 | (disk & 1) << 6 | partition)
    } else if let Some(rest) = vdev.strip_prefix("sd") {
        let (disk, partition) = lettered(rest, 16, 15)?;
        Some(8 << 8 | disk << 4 | partition)
    } else {
        let (disk, partition) = vdev.strip_prefix('d')?.split_once('p')?;
        Some(xvd(number(disk, (1 << 20) - 1)?, number(partition, 255)?))
    }
}

fn xvd(disk: u32, partition: u32) -> u32 {
    if disk <= 15 && partition <= 15 {
        202 << 8 | disk << 4 | partition
    } else {
        1 << 28 | disk << 8 | partition
    }
}

/// Number from 0 of one of so many disks, and of its partition.
fn lettered(rest: &str, disks: u32, partitions: u32) -> Option<(u32, u32)> {
    let count = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let (letters, partition) = rest.split_at_checked(count)?;
    // Letters count as digits of base 26 that go from 1 to 26.
    let digit = |sum: u32, letter: u8| sum.checked_mul(26)?.checked_add(u32::from(letter - b'a') + 1);
    let disk = letters.bytes().try_fold(0, digit)?.checked_sub(1)?;
    let partition = match partition {
        "" => 0,
        "0" => return None,
        digits => number(digits, partitions)?,
    };
    (disk < disks).then_some((disk, partition))
}

fn number(text: &str, max: u32) -> Option<u32> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| is_decimal && *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        // The examples of xen-vbd-interface(7), and the edges.
        for (vdev, expected) in [
            ("xvda", 202 << 8),
            ("d0p0", 202 << 8),
            ("xvdb2", 202 << 8 | 1 << 4 | 2),
            ("d1p2", 202 << 8 | 1 << 4 | 2),
            ("xvdp15", 202 << 8 | 15 << 4 | 15),
            ("xvdp16", 1 << 28 | 15 << 8 | 16),
            ("xvdtq37", 1 << 28 | 536 << 8 | 37),
            ("d536p37", 1 << 28 | 536 << 8 | 37),
            ("d1048575p255", 1 << 28 | 1_048_575 << 8 | 255),
            ("hda", 3 << 8),
            ("hdc2", 22 << 8 | 2),
            ("hdd63", 22 << 8 | 1 << 6 | 63),
            ("sdb3", 8 << 8 | 1 << 4 | 3),
            ("sdp15", 8 << 8 | 15 << 4 | 15),
        ] {
            assert_eq!(vdev_number(vdev), Some(expected), "{vdev}");
        }
        for vdev in [
            "",
            "xvd",
            "xvd1",
            "xvdA",
            "xvda0",
            "xvda01",
            "xvda256",
            "xvdzzzzzz",
            "xvdzzzzzzzzzzzz",
            "xvda ",
            "hde",
            "hda64",
            "sdq",
            "sda16",
            "d0",
            "d0p",
            "dp0",
            "d1048576p0",
            "d0p256",
            "d-1p0",
            "51712",
            "/dev/xvda",
            "vda",
            "xvda\u{e4}",
        ] {
            assert_eq!(vdev_number(vdev), None, "{vdev}");
        }
    }
}
