//! The file system of the data folder: its type, its free space, and the operations that the store
//! needs, each of which is tried in a temporary folder.

use std::fs::{self, File};
use std::io::{Error as IoError, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FsWord, RenameFlags, renameat_with, statfs, statvfs};

use super::folder::Folder;
use super::{Finding, shown_bytes};
use crate::store::files;
use crate::store::inspect::RESERVED_BYTES;

/// The folder of unfinished files in a data folder, which each start empties.
const TEMP_DIR: &str = ".echopilot-tmp";
/// Bytes of a probe: a small write group.
const PROBE_BYTES: usize = 64 << 10;
/// Syncs that are measured.
const SYNCS: usize = 5;
/// A sync that takes longer is slow: each acknowledgement of an event waits for one.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// Least number of files that can still be created: a busy day of segments and states.
const FEW_FILES: u64 = 1_000;

/// File systems whose names are shown, by the number that the kernel gives them (`statfs(2)`).
const TYPES: [(FsWord, &str, Kind); 18] = [
    (0xEF53, "ext4", Kind::Disk),
    (0x5846_5342, "xfs", Kind::Disk),
    (0x9123_683E, "btrfs", Kind::Disk),
    (0x2FC1_2FC1, "zfs", Kind::Disk),
    (0xF2F5_2010, "f2fs", Kind::Disk),
    (0xCA45_1A4E, "bcachefs", Kind::Disk),
    (0x794C_7630, "overlay", Kind::Container),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58F6, "ramfs", Kind::Memory),
    (0x6969, "nfs", Kind::Network),
    (0xFF53_4D42, "cifs", Kind::Network),
    (0xFE53_4D42, "smb2", Kind::Network),
    (0x517B, "smb", Kind::Network),
    (0x0102_1997, "9p", Kind::Network),
    (0x00C3_6400, "ceph", Kind::Network),
    (0x5346_414F, "afs", Kind::Network),
    (0x6573_5546, "fuse", Kind::Network),
    (0x4D44, "vfat", Kind::Disk),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    /// The writable layer of a container.
    Container,
    Memory,
    Network,
}

/// The findings about the file system.
pub fn findings(root: &Path, folder: &Folder) -> Vec<Finding> {
    // A missing folder will be created in this one.
    let Some(place) = root.ancestors().find(|dir| dir.is_dir()) else {
        let place = Path::new(".");
        return examine(place, root, folder);
    };
    let place = match place.as_os_str().is_empty() {
        true => Path::new("."),
        false => place,
    };
    examine(place, root, folder)
}

fn examine(place: &Path, root: &Path, folder: &Folder) -> Vec<Finding> {
    let mut findings = vec![file_system(place)];
    // Nothing is written to the folder of another program.
    if !matches!(folder, Folder::Fails(_)) {
        findings.extend(Probe::new(place, root).map_or_else(
            |error| {
                vec![Finding::fails(
                    "write and sync",
                    format!("cannot create a file in {}: {error}", place.display()),
                    "No event can be stored. Change the owner or the modes, or free some space.",
                )]
            },
            |probe| probe.findings(),
        ));
    }
    findings.extend(free_space(place, folder));
    findings
}

fn file_system(place: &Path) -> Finding {
    const CHECK: &str = "file system";
    let found = match statfs(place) {
        Ok(found) => found.f_type,
        Err(error) => {
            return Finding::warning(
                CHECK,
                format!("unknown: {error}"),
                "It is not checked further.",
            );
        }
    };
    let known = TYPES.iter().find(|(number, _, _)| *number == found);
    match known {
        None => Finding::ok(CHECK, format!("type {found:#x}")),
        Some((_, name, Kind::Disk)) => Finding::ok(CHECK, *name),
        Some((_, name, Kind::Container)) => Finding::warning(
            CHECK,
            format!("{name}, the writable layer of a container"),
            "The data is lost with the container. Mount a volume at the data folder.",
        ),
        Some((_, name, Kind::Memory)) => Finding::warning(
            CHECK,
            format!("{name}, which is in memory"),
            "The data is lost when the machine restarts. Choose a folder on a disk with --data-dir.",
        ),
        Some((_, name, Kind::Network)) => Finding::warning(
            CHECK,
            format!("{name}, which may be on another machine"),
            "Whether a synced event survives, and whether two servers keep out of one folder, depends on that \
             machine. Use a local disk, and back it up.",
        ),
    }
}

/// A temporary folder, removed when it is dropped.
struct Probe {
    dir: PathBuf,
    /// The folder of unfinished files, if the probe created it.
    created: Option<PathBuf>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next start.
        let _ = fs::remove_dir_all(&self.dir);
        if let Some(created) = &self.created {
            let _ = fs::remove_dir(created);
        }
    }
}

impl Probe {
    fn new(place: &Path, root: &Path) -> Result<Self, IoError> {
        let name = format!("doctor-{}", std::process::id());
        if place != root {
            let dir = place.join(format!("{TEMP_DIR}-{name}"));
            fs::create_dir(&dir)?;
            return Ok(Self { dir, created: None });
        }
        let temp = place.join(TEMP_DIR);
        let is_new = !temp.exists();
        files::make_private(&temp)?;
        let probe = Self {
            dir: temp.join(name),
            created: is_new.then_some(temp),
        };
        fs::create_dir(&probe.dir)?;
        Ok(probe)
    }

    fn findings(&self) -> Vec<Finding> {
        vec![self.sync(), self.links(), self.exchange(), self.lock()]
    }

    fn sync(&self) -> Finding {
        const CHECK: &str = "write and sync";
        let mut took = Vec::new();
        let mut write = || {
            let mut file = File::create(self.dir.join("synced"))?;
            for _ in 0..SYNCS {
                let started = Instant::now();
                file.write_all(&[0; PROBE_BYTES])?;
                file.sync_data()?;
                took.push(started.elapsed());
            }
            File::open(&self.dir)?.sync_all()
        };
        if let Err(error) = write() {
            return Finding::fails(
                CHECK,
                error.to_string(),
                "No event can be stored. Free some space, or use another disk.",
            );
        }
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        let longest = took.last().copied().unwrap_or_default();
        let found = format!(
            "{:.1} ms in the median of {SYNCS}, {:.1} ms at most",
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3
        );
        if median <= SLOW_SYNC {
            return Finding::ok(CHECK, found);
        }
        Finding::warning(
            CHECK,
            found,
            "Each acknowledgement of events waits for one sync. Use a faster disk, or --durability os, which loses the \
             last seconds in a power cut.",
        )
    }

    fn links(&self) -> Finding {
        let linked = fs::hard_link(self.dir.join("synced"), self.dir.join("linked"));
        match linked {
            Ok(()) => Finding::ok("hard links", "they work"),
            Err(error) => Finding::fails(
                "hard links",
                error.to_string(),
                "Compaction and erasure fail, because a day keeps its other files by links. Use another file system.",
            ),
        }
    }

    fn exchange(&self) -> Finding {
        let exchange = || {
            let [one, other] = ["one", "other"].map(|name| self.dir.join(name));
            fs::create_dir(&one)?;
            fs::create_dir(&other)?;
            renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)?;
            Ok::<(), IoError>(())
        };
        match exchange() {
            Ok(()) => Finding::ok("exchange", "two folders are exchanged in one step"),
            Err(error) => Finding::fails(
                "exchange",
                error.to_string(),
                "Compaction and erasure fail, because they exchange the folder of a day in one step. Use another file \
                 system (ext4, xfs, btrfs).",
            ),
        }
    }

    fn lock(&self) -> Finding {
        let locked = File::open(&self.dir).map(|dir| dir.try_lock());
        match locked {
            Ok(Ok(())) => Finding::ok("locks", "they work"),
            Ok(Err(error)) => Finding::fails(
                "locks",
                error.to_string(),
                "The server does not start, because it cannot keep other processes out. Use another file system.",
            ),
            Err(error) => Finding::fails("locks", error.to_string(), "The server does not start."),
        }
    }
}

fn free_space(place: &Path, folder: &Folder) -> Vec<Finding> {
    const CHECK: &str = "free space";
    let Ok(found) = statvfs(place) else {
        return Vec::new();
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let inspected = folder.inspected();
    let to_seal = inspected.map_or(0, |found| found.log_bytes);
    let to_compact = inspected.map_or(0, |found| found.largest_day_bytes);
    let wanted = to_seal + to_compact + RESERVED_BYTES;
    let shown = format!("{} are free", shown_bytes(free));
    let space = if free <= to_seal {
        Finding::fails(
            CHECK,
            format!("{shown}, and the logs have {}", shown_bytes(to_seal)),
            "Events cannot be sealed, and soon none is accepted (507). Free some space.",
        )
    } else if free < wanted {
        Finding::warning(
            CHECK,
            shown,
            format!(
                "Compaction, erasure and columns wait for up to {}: {} for the logs, {} for the largest day, and {} that \
                 are left for seals.",
                shown_bytes(wanted),
                shown_bytes(to_seal),
                shown_bytes(to_compact),
                shown_bytes(RESERVED_BYTES)
            ),
        )
    } else {
        Finding::ok(
            CHECK,
            format!("{shown}, {} are needed", shown_bytes(wanted)),
        )
    };
    let mut findings = vec![space];
    // Some file systems have no such limit and report 0.
    if found.f_files > 0 && found.f_favail < FEW_FILES {
        findings.push(Finding::fails(
            "free inodes",
            format!("{} files can still be created", found.f_favail),
            "Seals fail, and soon no event is accepted (507). Remove files.",
        ));
    }
    findings
}
