//! The limits of the process: open files and memory.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, shown_bytes};
use crate::config::StoreConfig;

/// Descriptors for files, in addition to those of connections.
const FOR_FILES: u64 = 200;
/// The default of `--limit-connections`.
const CONNECTIONS: u64 = 10_000;
/// With fewer the server may fail to open its files.
const FEWEST_FILES: u64 = 256;
/// Memory without queries, with some reserve.
const BASE_BYTES: u64 = 512 << 20;
/// Bytes from which on a limit of a control group is none.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The findings about limits.
pub fn findings(store: &StoreConfig) -> Vec<Finding> {
    let mut findings = vec![open_files()];
    findings.extend(memory(store));
    findings
}

fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let hard = match rlimit::Resource::NOFILE.get_hard() {
        Ok(hard) => hard,
        Err(error) => {
            return Finding::warning(CHECK, format!("unknown: {error}"), "It is not checked.");
        }
    };
    let found = format!("{hard} are allowed (hard limit)");
    let advice = "Raise it with LimitNOFILE= in systemd, or ulimit -n.";
    if hard < FEWEST_FILES {
        Finding::fails(
            CHECK,
            found,
            format!("Queries and jobs fail to open files. {advice}"),
        )
    } else if hard < CONNECTIONS + FOR_FILES {
        let connections = hard - FOR_FILES.min(hard);
        let advice = format!("The server accepts some {connections} connections. {advice}");
        Finding::warning(CHECK, found, advice)
    } else {
        Finding::ok(CHECK, found)
    }
}

fn memory(store: &StoreConfig) -> Option<Finding> {
    const CHECK: &str = "memory";
    let machine = machine_bytes(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group_limit(&groups, Path::new("/sys/fs/cgroup"));
    let (bytes, of) = match limit.filter(|limit| *limit < machine) {
        Some(limit) => (limit, "limit of the control group"),
        None => (machine, "of the machine"),
    };
    let found = format!("{} ({of})", shown_bytes(bytes));
    let query = u64::from(store.limit_query_mib) << 20;
    if bytes >= BASE_BYTES + query {
        return Some(Finding::ok(CHECK, found));
    }
    Some(Finding::warning(
        CHECK,
        found,
        format!(
            "One query may take {} (--limit-query-mib), and the server some hundred MiB: the kernel may end it. Set a \
             lower --limit-query-mib, or raise the limit.",
            shown_bytes(query)
        ),
    ))
}

/// Memory of the machine, from `/proc/meminfo`.
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// The lowest memory limit of the control groups of this process, from `/proc/self/cgroup` and the
/// files below `root`.
fn group_limit(groups: &str, root: &Path) -> Option<u64> {
    let mut lowest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group: PathBuf = base.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|dir| dir.starts_with(&base));
        for dir in above {
            let limit = fs::read_to_string(dir.join(file)).ok();
            let limit = limit.and_then(|limit| limit.trim().parse::<u64>().ok());
            let limit = limit.filter(|limit| *limit < NO_LIMIT_BYTES);
            lowest = [lowest, limit].into_iter().flatten().min();
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_memory_limit_of_all_groups_above_counts() -> std::io::Result<()> {
        let root = tempfile::tempdir()?;
        let write = |path: &str, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
            fs::write(path, content)
        };
        write("memory.max", "max\n")?;
        write("a/memory.max", "1000\n")?;
        write("a/b/memory.max", "max\n")?;
        write("memory/c/memory.limit_in_bytes", "9223372036854771712\n")?;
        write("memory/c/d/memory.limit_in_bytes", "500\n")?;
        let limit = |groups: &str| group_limit(groups, root.path());
        assert_eq!(limit("0::/a/b\n"), Some(1000));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("12:cpu,memory:/c/d\n3:pids:/x\n"), Some(500));
        assert_eq!(limit("12:memory:/c\n0::/a\n"), Some(1000));
        assert_eq!(limit(""), None);
        Ok(())
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let meminfo = "MemTotal:       16384 kB\nMemFree:         100 kB\n";
        assert_eq!(machine_bytes(meminfo), Some(16 << 20));
        assert_eq!(machine_bytes("MemFree: 1 kB\n"), None);
    }
}
