//! Capture of a data folder: the files that it has at one moment, without its lock, also while a
//! server changes it.
//!
//! A commit gives a name another file: manifest, small files and rollup log are replaced, and a
//! rotation gives the name of the open log to another one. A capture opens the file of every such
//! name, and then checks that each name still has the file that was opened. A file that lost its
//! name never gets it back, so that there was a moment, between the last opening and the first
//! check, at which the folder had exactly these files. It is what a crash at that moment would have
//! left, of which a start makes a valid store.
//!
//! Logs and the quarantine grow in place: of these a capture has the complete lines up to their
//! length at that moment, which are all that were acknowledged before. The files that the manifest
//! names are immutable, and are opened at once, so that they stay readable without their names.
//!
//! Files that follow from others are left out (columns, event ids), and so are files that only the
//! running process needs, keys, and what was damaged.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::dictionary::DictionaryMeta;
use super::files::ownership::{self, Owner, ROLLUP_LOG};
use super::files::rotation::{LogId, RotatedLog, id_of};
use super::files::segment::Segment;
use super::files::shape::{EVENT_LOG_FILE, MANIFEST_FILE, NEXT_LOG_FILE};
use super::version::Manifest;
use crate::error::{Error, ErrorCode, Result};
use crate::store::files;

/// Attempts to see the folder at rest, with pauses: a busy server commits a few times a second.
const ATTEMPTS: usize = 200;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);
/// File descriptors that are left for everything else.
const SPARE_DESCRIPTORS: u64 = 128;
/// Bytes read at a time in search of the last newline: a line is shorter.
const BLOCK_BYTES: u64 = 64 << 10;
/// Our files that a capture leaves out or treats separately.
const NOT_PLAIN: [&str; 4] = [MANIFEST_FILE, EVENT_LOG_FILE, NEXT_LOG_FILE, "holder"];

/// The files of a data folder at one moment.
pub struct Capture {
    manifest: Named,
    /// Id of the store; none for a folder of an earlier version.
    pub store: Option<String>,
    /// The files, with the most short-lived first.
    pub files: Vec<CapturedFile>,
    /// A sentence for each file that the manifest names and the folder does not have.
    pub missing: Vec<String>,
}

/// A file of a capture.
pub struct CapturedFile {
    /// Its path below the data folder.
    pub path: String,
    /// Length of its content in the capture.
    pub bytes: u64,
    /// CRC-32C of its content, if the manifest has it.
    pub crc32c: Option<u32>,
    /// Tells whether it stays as it is for as long as it exists.
    pub growth: Growth,
    on_disk: PathBuf,
    /// The open file, unless there were too few descriptors.
    file: Option<File>,
}

/// Tells whether a file can change after the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// It is immutable.
    Immutable,
    /// It is appended to, or replaced.
    Growing,
}

impl CapturedFile {
    /// The file, whose first bytes are the content; none if it was removed since the capture.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&mut self) -> Result<Option<File>> {
        match self.file.take() {
            Some(file) => Ok(Some(file)),
            None => open(&self.on_disk),
        }
    }

    /// Its path on disk, which another process may remove.
    pub fn on_disk(&self) -> &Path {
        &self.on_disk
    }
}

impl Capture {
    /// Captures a data folder.
    ///
    /// # Errors
    /// `no_data` if there is no data folder at this path, [`Error::Damaged`] if the manifest or the
    /// mark is damaged or of a newer program, [`Error::Busy`] if the folder is never at rest.
    pub fn take(root: &Path) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(capture) = Self::attempt(root)? {
                return Ok(capture);
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::Busy("the data folder changes all the time"))
    }

    /// True if no commit followed, so that the files of the manifest still have their names.
    ///
    /// # Errors
    /// If the manifest cannot be inspected.
    pub fn is_current(&self) -> Result<bool> {
        self.manifest.is_in_place()
    }

    /// Captures the folder unless it changes meanwhile.
    fn attempt(root: &Path) -> Result<Option<Self>> {
        let store = store_of(root)?;
        let Some(opened) = Opened::open(root)? else {
            return Ok(None);
        };
        let files = opened.captured()?;
        // After the lengths are known: nothing that is opened later must be of the same moment.
        if !opened.is_in_place(root)? {
            return Ok(None);
        }
        opened.check_dictionary()?;
        let Opened {
            manifest, version, ..
        } = opened;
        let mut capture = Self {
            manifest,
            store,
            files,
            missing: Vec::new(),
        };
        capture.open_immutable(root, &version)?;
        match capture.missing.is_empty() || capture.is_current()? {
            true => Ok(Some(capture)),
            // The next commit has removed them.
            false => Ok(None),
        }
    }

    /// Opens the files that the manifest names, as far as there are descriptors: the newest first,
    /// because states are replaced by each seal and old segments rarely.
    fn open_immutable(&mut self, root: &Path, manifest: &Manifest) -> Result<()> {
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
        let mut descriptors = descriptors
            .saturating_sub(SPARE_DESCRIPTORS)
            .saturating_sub(self.files.len() as u64);
        let of_zones = manifest.zones.iter().flat_map(|zone| &zone.states);
        let states = of_zones.chain(&manifest.states).rev();
        let states = states.map(|state| (&state.path, state.bytes, state.crc32c, None));
        let segments = manifest.segments.iter().rev().map(|meta| {
            let segment = Segment::new(root, meta.clone());
            (&meta.path, meta.bytes, meta.crc32c, Some(segment))
        });
        let links = manifest.links.iter();
        let links = links.map(|links| (&links.path, links.bytes, links.crc32c, None));
        let mut immutable = Vec::new();
        for (path, bytes, crc32c, segment) in links.chain(states).chain(segments) {
            let on_disk = root.join(path);
            let mut file = None;
            if descriptors > 0 {
                descriptors -= 1;
                file = match segment {
                    None => open(&on_disk)?,
                    Some(segment) => match segment.open() {
                        Err(Error::Damaged { .. }) => None,
                        opened => Some(opened?),
                    },
                };
                if file.is_none() {
                    self.missing
                        .push(format!("{} is missing", on_disk.display()));
                    continue;
                }
            }
            immutable.push(CapturedFile {
                path: path.clone(),
                bytes,
                crc32c: Some(crc32c),
                growth: Growth::Immutable,
                on_disk,
                file,
            });
        }
        self.files.extend(immutable);
        Ok(())
    }
}

/// The id of the store whose data folder this is.
fn store_of(root: &Path) -> Result<Option<String>> {
    let none = || {
        let message = format!("{} is not a data folder of EchoPilot", root.display());
        Error::bad_input(ErrorCode::NoData, message)
    };
    if !root.is_dir() {
        return Err(none());
    }
    match ownership::look(root)? {
        Owner::Marked(mark) => Ok(Some(mark.store)),
        Owner::Unmarked => Ok(None),
        Owner::Empty => Err(none()),
    }
}

/// Opens a file for reading; none if it does not exist.
fn open(path: &Path) -> Result<Option<File>> {
    match files::open(path) {
        Err(Error::Io { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// The part of a file that belongs to a capture.
#[derive(Debug, Clone, Copy)]
enum Part {
    Whole,
    /// Up to the last newline: the rest is a write in progress.
    CompleteLines,
}

/// A name, and the file that it had when it was opened, if any.
struct Named {
    path: PathBuf,
    file: Option<File>,
}

impl Named {
    fn open(path: PathBuf) -> Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file })
    }

    /// True if the name still has the file that was opened.
    fn is_in_place(&self) -> Result<bool> {
        let named = match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            found => Some(found.map_err(Error::io("inspect", &self.path))?),
        };
        let named = named.map(|found| (found.dev(), found.ino()));
        Ok(named == self.id()?)
    }

    fn id(&self) -> Result<Option<LogId>> {
        self.file.as_ref().map(id_of).transpose()
    }

    fn length(&self) -> Result<u64> {
        let Some(file) = &self.file else {
            return Ok(0);
        };
        let found = file.metadata().map_err(Error::io("inspect", &self.path))?;
        Ok(found.len())
    }

    /// The manifest with this name.
    fn parse(&self) -> Result<Manifest> {
        let Some(mut file) = self.file.as_ref() else {
            return Ok(Manifest::default());
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text)
            .map_err(Error::io("read", &self.path))?;
        Manifest::parse(&text, &self.path)
    }

    /// The part of it in a capture, under a path in the data folder; none if it has no file.
    fn captured(&self, path: String, part: Part) -> Result<Option<CapturedFile>> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let length = self.length()?;
        let bytes = match part {
            Part::Whole => length,
            Part::CompleteLines => {
                end_of_last_line(file, length).map_err(Error::io("read", &self.path))?
            }
        };
        Ok(Some(CapturedFile {
            path,
            bytes,
            crc32c: None,
            growth: Growth::Growing,
            on_disk: self.path.clone(),
            file: Some(file.try_clone().map_err(Error::io("open", &self.path))?),
        }))
    }

    /// The dictionary with this name, up to the length in the manifest.
    fn of_dictionary(&self, meta: DictionaryMeta) -> Result<Option<CapturedFile>> {
        let captured = self.captured(meta.file_name(), Part::Whole)?;
        Ok(captured
            .filter(|_| meta.users > 0)
            .map(|file| CapturedFile {
                bytes: meta.bytes,
                crc32c: Some(meta.crc32c),
                ..file
            }))
    }
}

/// Offset after the last newline of a file of this length.
fn end_of_last_line(file: &File, length: u64) -> std::io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; (end - start) as usize];
        file.read_exact_at(&mut block, start)?;
        if let Some(newline) = memchr::memrchr(b'\n', &block) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The files whose names get other files, or that grow.
struct Opened {
    manifest: Named,
    /// The content of the manifest.
    version: Manifest,
    plain: Vec<(&'static str, Named)>,
    users: Named,
    logs: Logs,
}

impl Opened {
    /// Opens the files; none if one of them disappears meanwhile.
    fn open(root: &Path) -> Result<Option<Self>> {
        let manifest = Named::open(root.join(MANIFEST_FILE))?;
        let version = manifest.parse()?;
        let mut plain = Vec::new();
        for name in ownership::FILES {
            if !NOT_PLAIN.contains(&name) {
                plain.push((name, Named::open(root.join(name))?));
            }
        }
        let users = Named::open(root.join(version.dictionary.file_name()))?;
        let logs = Logs::open(root, version.sealed_through)?;
        Ok(logs.map(|logs| Self {
            manifest,
            version,
            plain,
            users,
            logs,
        }))
    }

    /// Their parts in a capture.
    fn captured(&self) -> Result<Vec<CapturedFile>> {
        let mut captured = Vec::new();
        captured.extend(self.manifest.captured(MANIFEST_FILE.into(), Part::Whole)?);
        for (name, file) in &self.plain {
            // The rollup log is replaced, and may have lines of other programs.
            let part = match name.ends_with(".ndjson") && *name != ROLLUP_LOG {
                true => Part::CompleteLines,
                false => Part::Whole,
            };
            captured.extend(file.captured((*name).into(), part)?);
        }
        captured.extend(self.users.of_dictionary(self.version.dictionary)?);
        captured.extend(self.logs.captured()?);
        Ok(captured)
    }

    /// True if each name still has the file that was opened.
    fn is_in_place(&self, root: &Path) -> Result<bool> {
        let names = self.plain.iter().map(|(_, file)| file);
        for name in names.chain([&self.manifest, &self.users]) {
            if !name.is_in_place()? {
                return Ok(false);
            }
        }
        self.logs.are_in_place(root)
    }

    /// Checks that the dictionary exists if the manifest has users.
    fn check_dictionary(&self) -> Result<()> {
        if self.version.dictionary.users == 0 || self.users.file.is_some() {
            return Ok(());
        }
        Err(Error::Damaged {
            file: self.users.path.clone(),
            message: "it is missing; restore it".into(),
        })
    }
}

/// The event logs whose events are in no segment.
struct Logs {
    sealed_through: u64,
    /// Rotated logs, in order; one of them may be the open log, in the middle of a rotation.
    rotated: Vec<(u64, Named)>,
    open: Named,
    next: Named,
}

impl Logs {
    /// Opens the logs; none if one of them disappears meanwhile.
    fn open(root: &Path, sealed_through: u64) -> Result<Option<Self>> {
        let open = Named::open(root.join(EVENT_LOG_FILE))?;
        let next = Named::open(root.join(NEXT_LOG_FILE))?;
        let mut rotated = Vec::new();
        for log in unsealed(root, sealed_through)? {
            let file = Named::open(log.path)?;
            if file.file.is_none() {
                return Ok(None);
            }
            rotated.push((log.number, file));
        }
        Ok(Some(Self {
            sealed_through,
            rotated,
            open,
            next,
        }))
    }

    /// True if the same logs have the same names.
    fn are_in_place(&self, root: &Path) -> Result<bool> {
        let found = unsealed(root, self.sealed_through)?;
        let found = found.iter().map(|log| log.number);
        if !found.eq(self.rotated.iter().map(|(number, _)| *number)) {
            return Ok(false);
        }
        let rotated = self.rotated.iter().map(|(_, log)| log);
        for log in rotated.chain([&self.open, &self.next]) {
            if !log.is_in_place()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The logs, each once. In the middle of a rotation the open log has two names; a copy under
    /// both would have its events twice.
    fn captured(&self) -> Result<Vec<CapturedFile>> {
        let open = self.open.id()?;
        let next_bytes = self.next.length()?;
        let mut has_two_names = false;
        let mut captured = Vec::new();
        for (number, log) in &self.rotated {
            if open.is_some() && log.id()? == open {
                has_two_names = true;
                // With events in the next log, only the last step of the rotation is missing.
                if next_bytes == 0 {
                    continue;
                }
            }
            captured.extend(log.captured(RotatedLog::name(*number), Part::CompleteLines)?);
        }
        let (open, next) = match has_two_names && next_bytes > 0 {
            true => (&self.next, None),
            false => (&self.open, Some(&self.next)),
        };
        captured.extend(open.captured(EVENT_LOG_FILE.into(), Part::CompleteLines)?);
        if let Some(next) = next.filter(|_| next_bytes > 0) {
            captured.extend(next.captured(NEXT_LOG_FILE.into(), Part::CompleteLines)?);
        }
        Ok(captured)
    }
}

/// The rotated logs with events that are in no segment.
fn unsealed(root: &Path, sealed_through: u64) -> Result<Vec<RotatedLog>> {
    let mut logs = RotatedLog::all(root)?;
    logs.retain(|log| log.number > sealed_through);
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::files::folder::Folder;

    /// The contents of a capture, without the mark.
    fn contents(root: &Path) -> Result<BTreeMap<String, String>> {
        let mut found = BTreeMap::new();
        for mut file in Capture::take(root)?.files {
            let open = file.open()?.expect("it is open");
            let mut bytes = vec![0; file.bytes as usize];
            open.read_exact_at(&mut bytes, 0).expect("it is that long");
            if file.path != ownership::MARK_FILE {
                let text = String::from_utf8(bytes).expect("UTF-8");
                found.insert(file.path, text);
            }
        }
        Ok(found)
    }

    fn write(path: &Path, content: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    #[test]
    fn each_log_is_captured_once_up_to_its_last_complete_line() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path();
        drop(Folder::take(root, "a test")?);
        let [open, next] = [EVENT_LOG_FILE, NEXT_LOG_FILE].map(|name| root.join(name));
        let rotated = root.join(RotatedLog::name(7));
        let captured = |expected: &[(&str, &str)]| {
            let expected = expected.iter();
            let expected = expected.map(|(path, text)| ((*path).into(), (*text).into()));
            assert_eq!(contents(root)?, expected.collect::<BTreeMap<_, _>>());
            Ok::<(), Error>(())
        };
        captured(&[])?;
        write(&open, "one\ntwo\nthr");
        captured(&[(EVENT_LOG_FILE, "one\ntwo\n")])?;
        // A rotation has begun: the open log has two names, and the next one is empty.
        std::fs::create_dir_all(root.join("sealing")).expect("made");
        std::fs::hard_link(&open, &rotated).expect("linked");
        write(&next, "");
        captured(&[(EVENT_LOG_FILE, "one\ntwo\n")])?;
        // Its last step was undone by a power cut.
        write(&next, "four\n");
        let name = RotatedLog::name(7);
        captured(&[(&name, "one\ntwo\n"), (EVENT_LOG_FILE, "four\n")])?;
        // It is done.
        std::fs::rename(&next, &open).expect("renamed");
        captured(&[(&name, "one\ntwo\n"), (EVENT_LOG_FILE, "four\n")])?;
        // A copy of a folder has made two files of the two names.
        write(&next, "five\n");
        captured(&[
            (&name, "one\ntwo\n"),
            (EVENT_LOG_FILE, "four\n"),
            (NEXT_LOG_FILE, "five\n"),
        ])
    }

    #[test]
    fn a_log_whose_events_are_in_segments_is_left_out() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        for number in [7, 8] {
            write(&dir.path().join(RotatedLog::name(number)), "line\n");
        }
        let mut manifest = Manifest::default();
        manifest.sealed_through = 7;
        manifest.commit(&folder)?;
        let names: Vec<String> = contents(dir.path())?.into_keys().collect();
        assert_eq!(names, [MANIFEST_FILE.to_owned(), RotatedLog::name(8)]);
        Ok(())
    }

    #[test]
    fn every_step_of_a_commit_and_of_a_rotation_is_noticed() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path();
        let folder = Folder::take(root, "a test")?;
        write(&root.join(EVENT_LOG_FILE), "one\n");
        let next = root.join(NEXT_LOG_FILE);
        let rotated = root.join(RotatedLog::name(1));
        type Step<'a> = &'a dyn Fn() -> Result<()>;
        let done = |done: std::io::Result<()>| done.map_err(Error::io("change", root));
        let steps: [(&str, Step<'_>); 9] = [
            ("the first manifest", &|| {
                Manifest::default().commit(&folder)
            }),
            ("the next manifest", &|| Manifest::default().commit(&folder)),
            ("a small file", &|| folder.replace("cohorts.json", b"[]")),
            ("an erasure", &|| folder.replace("erasures.json", b"{}")),
            ("the rollup log", &|| folder.replace(ROLLUP_LOG, b"")),
            ("the next log", &|| {
                write(&next, "");
                Ok(())
            }),
            ("the second name of the open log", &|| {
                std::fs::create_dir_all(root.join("sealing")).expect("made");
                done(std::fs::hard_link(root.join(EVENT_LOG_FILE), &rotated))
            }),
            ("the last step of a rotation", &|| {
                done(std::fs::rename(&next, root.join(EVENT_LOG_FILE)))
            }),
            ("the end of a seal", &|| {
                done(std::fs::remove_file(&rotated))
            }),
        ];
        for (name, step) in steps {
            let opened = Opened::open(root)?.expect("the folder is at rest");
            assert!(opened.is_in_place(root)?, "before {name}");
            step()?;
            assert!(!opened.is_in_place(root)?, "{name}");
        }
        Ok(())
    }

    #[test]
    fn a_name_with_another_file_is_not_in_place() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("file");
        let absent = Named::open(path.clone())?;
        assert!(absent.is_in_place()?);
        write(&path, "one");
        assert!(!absent.is_in_place()?);
        let named = Named::open(path.clone())?;
        write(&path, "longer");
        assert!(named.is_in_place()?, "it was written in place");
        write(&dir.path().join("other"), "one");
        std::fs::rename(dir.path().join("other"), &path).expect("renamed");
        assert!(!named.is_in_place()?);
        Ok(())
    }

    #[test]
    fn the_end_of_the_last_line_is_found_across_blocks() -> std::io::Result<()> {
        use std::io::Write;
        let mut file = tempfile::tempfile()?;
        file.write_all(b"one\n")?;
        file.write_all(&vec![b'x'; 2 * BLOCK_BYTES as usize])?;
        let length = file.metadata()?.len();
        assert_eq!(end_of_last_line(&file, length)?, 4);
        assert_eq!(end_of_last_line(&file, 4)?, 4);
        assert_eq!(end_of_last_line(&file, 3)?, 0);
        assert_eq!(end_of_last_line(&file, 0)?, 0);
        Ok(())
    }

    #[test]
    fn a_folder_without_data_of_ours_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for root in [dir.path().to_owned(), dir.path().join("missing")] {
            match Capture::take(&root) {
                Err(Error::BadInput { code, .. }) => assert_eq!(code, ErrorCode::NoData),
                _ => panic!("{} was captured", root.display()),
            }
        }
    }
}
