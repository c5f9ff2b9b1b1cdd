//! The process, as Linux reports it. On other systems nothing is known.

use std::fs;

/// Resources of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_descriptors: Option<u64>,
    /// Most file descriptors.
    pub max_descriptors: Option<u64>,
    /// Time on all processors since the start, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

/// Clock ticks of a second in `/proc`: `USER_HZ`, which is 100 on all architectures of Linux.
const TICKS_A_SECOND: f64 = 100.0;

impl Process {
    /// Reads the resources of this process.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            threads: field(&status, "Threads:"),
            cpu_seconds: cpu_seconds(&stat),
            open_descriptors: open_descriptors(),
            max_descriptors: rlimit::Resource::NOFILE.get_soft().ok(),
        }
    }
}

/// The number behind a name in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The user and system time in `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program, in parentheses, may have spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_A_SECOND)
}

fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the length of the folder is the number of descriptors.
    let counted = fs::metadata("/proc/self/fd").ok()?.len();
    if counted > 0 {
        return Some(counted);
    }
    // One is that of the folder itself.
    let listed = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(listed.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_threads_and_descriptors() {
        let before = Process::now();
        let files: Vec<_> = (0..20)
            .map(|_| fs::File::open("/dev/null").expect("a file"))
            .collect();
        let after = Process::now();
        drop(files);
        assert!(before.resident_bytes > Some(1 << 20), "{before:?}");
        assert!(before.threads >= Some(1) && before.cpu_seconds.is_some());
        assert!(after.open_descriptors >= Some(20), "{after:?}");
        assert!(after.max_descriptors >= after.open_descriptors);
    }

    #[test]
    fn the_name_of_a_program_may_have_spaces_and_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 0 0 20 0 1 0 99 1 2";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
