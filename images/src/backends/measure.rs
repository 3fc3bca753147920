//! What is measured, in the guest.

use anyhow::{Context, Result};

use super::side::{ADDRESS, Side};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// In a second.
    Operations,
    /// In a second.
    Mebibytes,
    /// In a second, 10^6.
    Megabits,
    /// In a second.
    Packets,
    /// Fewer are better.
    Milliseconds,
}

impl Unit {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Operations => "/s",
            Self::Mebibytes => "MiB/s",
            Self::Megabits => "Mbit/s",
            Self::Packets => "packets/s",
            Self::Milliseconds => "ms",
        }
    }
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
}

const fn case(name: &'static str, unit: Unit) -> Case {
    Case { name, unit }
}

/// All figures, in the order in which they are measured.
pub(super) const CASES: [Case; 11] = [
    case("disk: 1 MiB sequential write", Unit::Mebibytes),
    case("disk: 1 MiB sequential read", Unit::Mebibytes),
    case("disk: 4 KiB random read, depth 1", Unit::Operations),
    case("disk: 4 KiB random read, depth 32", Unit::Operations),
    case("disk: 4 KiB random write, depth 1", Unit::Operations),
    case("disk: 4 KiB random write, depth 32", Unit::Operations),
    case("network: TCP to the other guest", Unit::Megabits),
    case("network: TCP from the other guest", Unit::Megabits),
    case("network: UDP, 64 bytes each, that reach the other guest", Unit::Packets),
    case("network: and its program", Unit::Packets),
    case("network: round trip", Unit::Milliseconds),
];

/// fio's jobs for the first figures: how, block size, depth.
const JOBS: [(&str, &str, u32); 6] = [
    ("write", "1M", 4),
    ("read", "1M", 4),
    ("randread", "4k", 1),
    ("randread", "4k", 32),
    ("randwrite", "4k", 1),
    ("randwrite", "4k", 32),
];
/// Seconds of each.
const SECONDS: u32 = 2;
/// Seconds of small packets: the guests have all processors to do with them, and who has which differs from one second to the next.
const SMALL_SECONDS: u32 = 6;

/// What all of fio's jobs have.
pub(super) const FIO: &str =
    "fio --minimal --thread --filename=/dev/xvdb --direct=1 --ioengine=libaio --time_based";

impl Side {
    /// Measures everything once.
    ///
    /// # Errors
    /// When the guest does not do what it is asked.
    pub(super) fn measure(&mut self) -> Result<Vec<f64>> {
        let jobs: String = JOBS
            .iter()
            .map(|(how, size, depth)| {
                format!(" --name={how}{depth} --rw={how} --bs={size} --iodepth={depth} --stonewall")
            })
            .collect();
        let said = self.debian(&format!("{FIO} --runtime={SECONDS}{jobs}"))?;
        let lines: Vec<Fio> = said.lines().filter_map(Fio::read).collect();
        anyhow::ensure!(lines.len() == JOBS.len(), "fio says {said}");
        let mut figures = Vec::new();
        for (line, (how, size, _)) in lines.iter().zip(JOBS) {
            figures.push(line.rate(how.ends_with("write"), size != "4k")?);
        }
        for way in ["", " -R"] {
            let said = self.debian(&format!("iperf3 -c {ADDRESS} -f k -t {SECONDS}{way} | grep receiver"))?;
            figures.push(before(&said, "Kbits/sec").with_context(|| format!("iperf3 says {said}"))? / 1000.0);
        }
        let received = self.received_by_peer()?;
        let said = self
            .debian(&format!("iperf3 -c {ADDRESS} -f k -t {SMALL_SECONDS} -u -b 0 -l 64 | grep receiver"))?;
        let received = self.received_by_peer()?.saturating_sub(received);
        let small = Small::read(&said).with_context(|| format!("iperf3 says {said}"))?;
        figures.extend([f64::from(received), small.packets].map(|packets| packets / small.seconds));
        // The middle one of 200: the machine may be busy with something else for a moment, and the average is full of that.
        let said = self.debian(&format!(
            "ping -c 200 -i 0.01 {ADDRESS} | grep -o 'time=[0-9.]*' | cut -c 6- | sort -n | sed -n 100p"
        ))?;
        figures.push(said.trim().parse().with_context(|| format!("ping says {said}"))?);
        Ok(figures)
    }

    /// Packets that the other guest's interface has received. Its program gets fewer: the guest drops what it has no time for.
    fn received_by_peer(&self) -> Result<u32> {
        let said = self.peer("ifconfig eth0 | grep -o 'RX packets:[0-9]*'")?;
        let packets = said.trim().strip_prefix("RX packets:").and_then(|packets| packets.parse().ok());
        packets.with_context(|| format!("ifconfig says {said}"))
    }
}

/// A line of fio's terse output (version 3).
pub(super) struct Fio<'a>(Vec<&'a str>);

impl<'a> Fio<'a> {
    pub(super) fn read(line: &'a str) -> Option<Self> {
        line.starts_with("3;fio-").then(|| Self(line.trim().split(';').collect()))
    }

    /// A field, counted from 1 as fio's manual does.
    fn number(&self, field: usize) -> Result<f64> {
        let text = field.checked_sub(1).and_then(|index| self.0.get(index));
        let text = text.with_context(|| format!("fio gives no field {field}"))?;
        text.parse().with_context(|| format!("fio's field {field} is {text}"))
    }

    /// MiB or operations in a second.
    fn rate(&self, write: bool, bytes: bool) -> Result<f64> {
        anyhow::ensure!(self.number(5)? == 0.0, "fio failed: {}", self.0.join(";"));
        let first = if write { 48 } else { 7 };
        if bytes { Ok(self.number(first)? / 1024.0) } else { self.number(first + 1) }
    }

    /// The longest time that a write took, in seconds.
    pub(super) fn longest_write(&self) -> Result<f64> {
        anyhow::ensure!(self.number(5)? == 0.0, "fio failed: {}", self.0.join(";"));
        Ok(self.number(80)? / 1e6)
    }
}

/// The number before a word.
fn before(text: &str, word: &str) -> Option<f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|w| *w == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// What iperf3's receiver says of small packets.
#[derive(Debug, PartialEq)]
struct Small {
    seconds: f64,
    packets: f64,
}

impl Small {
    /// `0.00-2.00 sec ... LOST/ALL (x%) receiver`
    fn read(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (_, seconds) = words.iter().find_map(|word| word.split_once('-'))?;
        let (lost, all) =
            words.iter().filter(|word| !word.ends_with("sec")).find_map(|word| word.split_once('/'))?;
        let number = |text: &str| text.parse::<f64>().ok();
        Some(Self { seconds: number(seconds)?, packets: number(all)? - number(lost)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_say_is_read() {
        let tcp = "[  5]   0.00-2.01   sec  12.3 MBytes  51234 Kbits/sec                  receiver";
        assert_eq!(before(tcp, "Kbits/sec"), Some(51234.0));
        let udp =
            "[  5]   0.00-2.00   sec  1.2 MBytes  4990 Kbits/sec  0.048 ms  1000/21000 (4.8%)  receiver";
        assert_eq!(Small::read(udp), Some(Small { seconds: 2.0, packets: 20_000.0 }));
        assert!(Small::read("").is_none() && before("", "x").is_none());
    }

    #[test]
    fn the_terse_lines_of_fio_are_read() {
        let mut fields: Vec<String> = (1..=100).map(|n| (n * 1024).to_string()).collect();
        for (field, value) in [(1, "3"), (2, "fio-3.33"), (3, "name"), (5, "0")] {
            fields[field - 1] = value.to_owned();
        }
        let line = fields.join(";");
        let fio = Fio::read(&line).unwrap();
        assert_eq!(fio.rate(false, true).unwrap(), 7.0);
        assert_eq!(fio.rate(true, false).unwrap(), 49.0 * 1024.0);
        assert_eq!(fio.longest_write().unwrap(), 80.0 * 1024.0 / 1e6);
        assert!(Fio::read("fio: failed").is_none());
        let failed = line.replacen(";0;", ";5;", 1);
        assert!(Fio::read(&failed).unwrap().rate(true, true).is_err());
    }
}
