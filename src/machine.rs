//! What this machine grants: memory and threads. The only place that asks the operating system.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Bytes this process may still take: free memory of the machine, or of its container or service if that is less.
/// `None` where the system does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    if cfg!(target_os = "macos") {
        let told = Command::new("/usr/bin/vm_stat").output().ok()?;
        return vm_stat_available(&String::from_utf8(told.stdout).ok()?);
    }
    let machine = meminfo_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let granted = group_available(Path::new("/sys/fs/cgroup"), &group);
    Some(granted.map_or(machine, |granted| machine.min(granted)))
}

fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Pages that are free or hold what can be read again, by what macOS' `vm_stat` prints.
fn vm_stat_available(told: &str) -> Option<u64> {
    let (_, size) = told.lines().next()?.split_once("page size of ")?;
    let size: u64 = size.split_whitespace().next()?.parse().ok()?;
    let pages = |name: &str| -> Option<u64> {
        let line = told.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches('.').parse().ok()
    };
    let pages = ["Pages free:", "Pages inactive:", "Pages speculative:"].map(pages);
    let sum = pages.into_iter().try_fold(0_u64, |sum, pages| sum.checked_add(pages?))?;
    sum.checked_mul(size)
}

/// How a version of control groups tells of memory.
struct Version {
    /// What the line of `/proc/self/cgroup` begins with, behind its number.
    line: &'static str,
    /// Where the groups are.
    folder: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Lines of `memory.stat`: pages of files.
    files: [&'static str; 2],
}

const VERSIONS: [Version; 2] = [
    Version {
        line: ":",
        folder: "",
        limit: "memory.max",
        used: "memory.current",
        files: ["inactive_file ", "active_file "],
    },
    Version {
        line: "memory:",
        folder: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        files: ["total_inactive_file ", "total_active_file "],
    },
];

/// What the limits of this process's control group, and of those around it, leave; groups are below `root`, and `own` is what
/// `/proc/self/cgroup` says. `None` without a limit.
fn group_available(root: &Path, own: &str) -> Option<u64> {
    let of = |version: &Version| {
        let mut lines = own.lines().filter_map(|line| line.split_once(':'));
        let own = lines.find_map(|(_, line)| line.strip_prefix(version.line));
        let own = own.unwrap_or_default().trim_start_matches('/').to_owned();
        let root = root.join(version.folder);
        let group = root.join(own);
        let around = group.ancestors().take_while(|group| group.starts_with(&root));
        around.filter_map(|group| left_of(group, version)).min()
    };
    VERSIONS.iter().filter_map(of).min()
}

/// What the limit of one control group leaves. Pages of files are given back when somebody needs memory, so they count as free.
fn left_of(group: &Path, version: &Version) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    // Without a limit the file says "max", which is no number, or a number beyond all memory.
    let limit: u64 = read(version.limit)?.trim().parse().ok()?;
    let used: u64 = read(version.used)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let pages = |name| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let files: u64 = version.files.into_iter().filter_map(pages).fold(0, u64::saturating_add);
    Some(limit.saturating_sub(used.saturating_sub(files)))
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

    #[test]
    fn available_memory_of_a_mac_is_what_is_free_or_inactive() {
        let told = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n\
            Pages free:                               10000.\n\
            Pages active:                            415392.\n\
            Pages inactive:                          400000.\n\
            Pages speculative:                         1000.\n\
            Pages throttled:                              0.\n\
            Pages wired down:                        131029.\n";
        assert_eq!(vm_stat_available(told), Some(411_000 * 16384));
        assert_eq!(vm_stat_available(&told.replace("Pages free", "Pages gone")), None);
        assert_eq!(vm_stat_available(&told.replace("10000.", "99999999999999999999.")), None);
        assert_eq!(vm_stat_available(&told.replace("10000.", "9999999999999999999.")), None);
        assert_eq!(vm_stat_available("no such thing\n"), None);
        assert_eq!(vm_stat_available(""), None);
    }

    #[test]
    fn the_tightest_limit_around_this_process_counts_and_files_in_memory_do_not() {
        let root = std::env::temp_dir().join(format!("folio-groups-{}", std::process::id()));
        let write = |group: &str, name: &str, text: &str| {
            fs::create_dir_all(root.join(group)).expect("a folder");
            fs::write(root.join(group).join(name), text).expect("a file");
        };
        let left = |own: &str| group_available(&root, own);
        assert_eq!(left("0::/\n"), None);
        write("system.slice/folio.service", "memory.max", "max\n");
        write("system.slice/folio.service", "memory.current", "500\n");
        let own = "1:name=systemd:/x\n0::/system.slice/folio.service\n";
        assert_eq!(left(own), None);
        write("system.slice/folio.service", "memory.max", "1000\n");
        assert_eq!(left(own), Some(500));
        let stat = "anon 100\nfile 390\ninactive_file 300\nactive_file 50\ninactive_file_x 7\n";
        write("system.slice/folio.service", "memory.stat", stat);
        assert_eq!(left(own), Some(850));
        // The slice has less, the root has a limit where it is that of a container.
        write("system.slice", "memory.max", "600\n");
        write("system.slice", "memory.current", "590\n");
        assert_eq!(left(own), Some(10));
        write("", "memory.max", "2000\n");
        write("", "memory.current", "2500\n");
        assert_eq!((left("0::/\n"), left(""), left(own)), (Some(0), Some(0), Some(0)));
        write("", "memory.max", "max\n");
        // The older version, where a container sees its own group as the root.
        write("memory", "memory.limit_in_bytes", "100\n");
        write("memory", "memory.usage_in_bytes", "70\n");
        write("memory", "memory.stat", "inactive_file 1\ntotal_inactive_file 20\n");
        assert_eq!(left("4:memory:/docker/abc\n1:cpu:/\n0::/\n"), Some(50));
        fs::remove_dir_all(&root).expect("it was there");
    }
}
