//! What this machine grants: memory and threads. The only place that asks the operating system.

use std::fs;
use std::num::NonZero;
use std::thread;

/// Bytes this process may still take: free memory of the machine, or of its container if that is less.
/// `None` where the system does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    let machine = meminfo_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(container_available().map_or(machine, |container| machine.min(container)))
}

fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The memory controller of control groups, version 2: what a container's limit leaves.
fn container_available() -> Option<u64> {
    let number = |name| {
        fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok()
    };
    // Without a limit the file says "max", which is no number.
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// Threads the machine grants this process, affinity and container limits included.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_its_line() {
        let meminfo = "MemTotal:       24610424 kB\nMemFree:  1 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(meminfo_available(meminfo), Some(23_000_000 * 1024));
        assert_eq!(meminfo_available("MemTotal: 5 kB\n"), None);
        assert_eq!(meminfo_available("MemAvailable: many kB\n"), None);
    }
}
