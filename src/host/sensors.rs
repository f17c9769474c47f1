//! How the machine is: memory, pressure (PSI), temperatures, and what a Raspberry Pi says of its power, where the kernel tells.
//! Small files of /proc and /sys, read when asked for; a driver may take a moment, so not by a coroutine.

use std::fs;
use std::path::Path;

/// More sensors than any board has; a machine with more of them tells of the first.
const MOST_SENSORS: usize = 32;

/// What a machine tells. Everything may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensors {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory that programs can still have without swapping, in bytes.
    pub available_bytes: Option<u64>,
    /// How long tasks have waited for a resource, since the machine was started.
    pub pressure: Vec<Pressure>,
    /// Sensors and their temperatures in thousandths of a degree Celsius.
    pub temperatures: Vec<(String, i64)>,
    /// What the firmware of a Raspberry Pi says of its power and heat: bits, as `vcgencmd get_throttled` prints them.
    pub throttled: Option<u32>,
}

/// One line of /proc/pressure (Linux 4.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// `cpu`, `memory` or `io`.
    pub resource: &'static str,
    /// `some`: at least one task waited; `full`: all did.
    pub kind: &'static str,
    /// In microseconds.
    pub total_us: u64,
}

/// Conditions of a Raspberry Pi, each with its bit in [`Sensors::throttled`]; 16 bits above stands whether it has been so since
/// the start.
pub const CONDITIONS: [(&str, u32); 4] =
    [("undervoltage", 0), ("frequency_capped", 1), ("throttled", 2), ("soft_temperature_limit", 3)];

/// Where the firmware's driver of a Raspberry Pi has it.
const THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// Looks at the machine whose /proc and /sys are below `root`.
pub fn look(root: &Path) -> Sensors {
    let memory = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let throttled = fs::read_to_string(root.join(THROTTLED)).ok();
    Sensors {
        memory_bytes: kib(&memory, "MemTotal:"),
        available_bytes: available_bytes(&memory),
        pressure: pressure(root),
        temperatures: temperatures(root),
        throttled: throttled
            .and_then(|bits| u32::from_str_radix(bits.trim().trim_start_matches("0x"), 16).ok()),
    }
}

/// What programs can still have without swapping (Linux 3.14, proc_meminfo(5)), of the text of /proc/meminfo.
pub(super) fn available_bytes(meminfo: &str) -> Option<u64> {
    kib(meminfo, "MemAvailable:")
}

/// A line of /proc/meminfo in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn pressure(root: &Path) -> Vec<Pressure> {
    let mut found = Vec::new();
    for resource in ["cpu", "memory", "io"] {
        let text = fs::read_to_string(root.join("proc/pressure").join(resource)).unwrap_or_default();
        for kind in ["some", "full"] {
            let line = text.lines().find(|line| line.starts_with(kind));
            let total_us = line.and_then(|line| line.split_once("total=")?.1.trim().parse().ok());
            found.extend(total_us.map(|total_us| Pressure { resource, kind, total_us }));
        }
    }
    found
}

/// In thousandths of a degree Celsius, by zone, as /sys has them; two zones of one kind are told apart by their number.
pub(super) fn temperatures(root: &Path) -> Vec<(String, i64)> {
    let Ok(zones) = fs::read_dir(root.join("sys/class/thermal")) else { return Vec::new() };
    let zones = zones.flatten().filter_map(|zone| {
        let number = zone.file_name().to_str()?.strip_prefix("thermal_zone")?.parse::<u32>().ok()?;
        let read = |file| fs::read_to_string(zone.path().join(file)).ok();
        let thousandths = read("temp")?.trim().parse().ok()?;
        Some((format!("{}-{number}", read("type")?.trim()), thousandths))
    });
    let mut found: Vec<_> = zones.take(MOST_SENSORS).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_read_and_what_it_has_not_is_missing() {
        let root = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(look(root.path()), Sensors::default());
        for (path, text) in [
            ("proc/meminfo", "MemTotal:         430000 kB\nMemFree: 1 kB\nMemAvailable:   200000 kB\n"),
            (
                "proc/pressure/io",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
            ),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/cooling_device0/type", "Fan\n"),
            (THROTTLED, "50005\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a file")).expect("made");
            fs::write(path, text).expect("written");
        }
        let found = look(root.path());
        assert_eq!((found.memory_bytes, found.available_bytes), (Some(440_320_000), Some(204_800_000)));
        assert_eq!(found.temperatures, [("cpu-thermal-0".to_owned(), 48_312)]);
        assert_eq!(found.throttled, Some(0x5_0005));
        let io = |kind, total_us| Pressure { resource: "io", kind, total_us };
        assert_eq!(found.pressure, [io("some", 1_500_000), io("full", 7)]);
    }
}
