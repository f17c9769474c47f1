//! Whether the host is over a bound that its operator has set: MAX_LOAD, MIN_MEMORY, MAX_TEMPERATURE, MAX_PRESSURE.
//! Looks when it is asked, and keeps nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::load::Load;
use super::sensors;
use crate::event;
use crate::log::Seldom;

/// What the host may be at while a payload is started. `None`: whatever it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// CPU use in percent of all CPUs, as `/load` tells it.
    pub max_load_percent: Option<u32>,
    /// Bytes that have to be available.
    pub min_memory_bytes: Option<u64>,
    /// Degrees Celsius of the hottest thermal zone.
    pub max_temperature_celsius: Option<u32>,
    /// Percent of the last ten seconds in which something waited for CPU, memory or I/O.
    pub max_pressure_percent: Option<u32>,
}

/// The host, and its bounds.
pub struct Strain {
    bounds: Bounds,
    load: Load,
    /// Where /proc and /sys are.
    root: PathBuf,
    unknown: Seldom,
}

impl Strain {
    /// Of this host.
    pub fn new(bounds: Bounds, load: Load) -> Self {
        Self { bounds, load, root: "/".into(), unknown: Seldom::new() }
    }

    /// Which bound the host is over now, for people; `None` if none. One that this host cannot tell counts as kept, and the log says so.
    /// May take a moment: a sensor is asked.
    pub fn reason(&self) -> Option<String> {
        let Bounds { max_load_percent, min_memory_bytes, max_temperature_celsius, max_pressure_percent } =
            self.bounds;
        let load = max_load_percent.and_then(|most| {
            let load = self.load.percent();
            (load > f64::from(most))
                .then(|| format!("the CPUs are used at {load:.1} %, above MAX_LOAD, {most} %"))
        });
        let memory = || {
            let least = min_memory_bytes?;
            let available = self.known("MIN_MEMORY", available_memory(&self.root))?;
            let (available_mib, least_mib) = (available >> 20, least >> 20);
            (available < least).then(|| {
                format!("{available_mib} MiB of memory are available, below MIN_MEMORY, {least_mib} MiB")
            })
        };
        let temperature = || {
            let most = max_temperature_celsius?;
            let celsius = self.known("MAX_TEMPERATURE", temperature(&self.root))?;
            (celsius > f64::from(most))
                .then(|| format!("the host has {celsius:.1} degrees Celsius, above MAX_TEMPERATURE, {most}"))
        };
        let pressure = || {
            let most = max_pressure_percent?;
            let (percent, what) = self.known("MAX_PRESSURE", pressure(&self.root))?;
            (percent > f64::from(most)).then(|| {
                format!(
                    "in {percent:.1} % of the time something waits for {what}, above MAX_PRESSURE, {most} %"
                )
            })
        };
        load.or_else(memory).or_else(temperature).or_else(pressure)
    }

    fn known<T>(&self, setting: &'static str, found: Option<T>) -> Option<T> {
        if found.is_none()
            && let Some(times) = self.unknown.count()
        {
            event!(
                Warn,
                "a bound of the host cannot be looked at, and counts as kept",
                setting = setting,
                times = times
            );
        }
        found
    }
}

/// Bytes that programs can still have.
fn available_memory(root: &Path) -> Option<u64> {
    sensors::available_bytes(&fs::read_to_string(root.join("proc/meminfo")).ok()?)
}

/// Degrees Celsius of the hottest thermal zone.
fn temperature(root: &Path) -> Option<f64> {
    let thousandths = sensors::temperatures(root).into_iter().map(|(_, thousandths)| thousandths).max()?;
    i32::try_from(thousandths).ok().map(|thousandths| f64::from(thousandths) / 1000.0)
}

/// The highest of the three shares of the last ten seconds, in percent, in which something waited, and for what (PSI, Linux 4.20,
/// Documentation/accounting/psi.rst).
fn pressure(root: &Path) -> Option<(f64, &'static str)> {
    let shares = [("cpu", "a CPU"), ("memory", "memory"), ("io", "I/O")].map(|(file, what)| {
        let text = fs::read_to_string(root.join("proc/pressure").join(file)).ok()?;
        let some = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
        Some((some.split(' ').next()?.parse().ok()?, what))
    });
    shares.into_iter().flatten().max_by(|(a, _): &(f64, _), (b, _)| a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn stand_in() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        write(
            root.path(),
            "proc/meminfo",
            "MemTotal:        8000000 kB\nMemFree:          100 kB\nMemAvailable:    1048576 kB\n",
        );
        for (zone, millidegrees) in
            [("thermal_zone0", "48312\n"), ("thermal_zone1", "61500\n"), ("cooling_device0", "99000\n")]
        {
            write(root.path(), &format!("sys/class/thermal/{zone}/temp"), millidegrees);
            write(root.path(), &format!("sys/class/thermal/{zone}/type"), "cpu-thermal\n");
        }
        for (file, percent) in [("cpu", "12.50"), ("memory", "0.00"), ("io", "31.25")] {
            let text = format!(
                "some avg10={percent} avg60=99.00 avg300=99.00 total=5\nfull avg10=98.00 avg60=0.00 avg300=0.00 total=0\n"
            );
            write(root.path(), &format!("proc/pressure/{file}"), &text);
        }
        root
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        let root = stand_in();
        assert_eq!(available_memory(root.path()), Some(1 << 30));
        assert_eq!(temperature(root.path()), Some(61.5));
        assert_eq!(pressure(root.path()), Some((31.25, "I/O")));
        // Sensors that are off, or below zero.
        write(root.path(), "sys/class/thermal/thermal_zone1/temp", "");
        assert_eq!(temperature(root.path()), Some(48.312));
        write(root.path(), "sys/class/thermal/thermal_zone0/temp", "-12000\n");
        assert_eq!(temperature(root.path()), Some(-12.0));
    }

    #[test]
    fn each_bound_is_told_by_its_name_and_both_values() {
        let root = stand_in();
        let load = Load::fixed(45.2);
        let reason = |bounds| {
            let strain =
                Strain { bounds, load: load.clone(), root: root.path().to_owned(), unknown: Seldom::new() };
            strain.reason()
        };
        let none = Bounds::default();
        assert_eq!(reason(none), None);
        for (over, kept, told) in [
            (
                Bounds { max_load_percent: Some(45), ..none },
                Bounds { max_load_percent: Some(46), ..none },
                "the CPUs are used at 45.2 %, above MAX_LOAD, 45 %",
            ),
            (
                Bounds { min_memory_bytes: Some((1 << 30) + 1), ..none },
                Bounds { min_memory_bytes: Some(1 << 30), ..none },
                "1024 MiB of memory are available, below MIN_MEMORY, 1024 MiB",
            ),
            (
                Bounds { max_temperature_celsius: Some(61), ..none },
                Bounds { max_temperature_celsius: Some(62), ..none },
                "the host has 61.5 degrees Celsius, above MAX_TEMPERATURE, 61",
            ),
            (
                Bounds { max_pressure_percent: Some(31), ..none },
                Bounds { max_pressure_percent: Some(32), ..none },
                "in 31.2 % of the time something waits for I/O, above MAX_PRESSURE, 31 %",
            ),
        ] {
            assert_eq!(reason(over).as_deref(), Some(told));
            assert_eq!(reason(kept), None, "{kept:?}");
        }
    }

    #[test]
    fn what_the_host_does_not_tell_counts_as_kept() {
        let root = tempfile::tempdir().expect("a directory");
        let bounds = Bounds {
            max_load_percent: None,
            min_memory_bytes: Some(u64::MAX),
            max_temperature_celsius: Some(1),
            max_pressure_percent: Some(1),
        };
        let strain = |root: &Path| Strain {
            bounds,
            load: Load::fixed(0.0),
            root: root.to_owned(),
            unknown: Seldom::new(),
        };
        assert_eq!(strain(root.path()).reason(), None);
        write(root.path(), "proc/meminfo", "MemTotal: 1 kB\n");
        write(root.path(), "proc/pressure/cpu", "nothing\n");
        fs::create_dir_all(root.path().join("sys/class/thermal")).expect("a directory");
        assert_eq!(strain(root.path()).reason(), None);
    }
}
