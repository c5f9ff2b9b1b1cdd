//! A Parquet file while it is written: buffered, with its checksum, and synced before anybody is told that it is there.
//!
//! The engine turns a failed write into a text. The failure itself is kept here, so that a full disk is told from a
//! damaged table.

use std::fs::File;
use std::io::{BufWriter, Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::checksum::Summing;
use crate::error::{Error, Result};

/// Bytes written at a time: the engine itself writes a few at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A new file that is written from its start to its end.
pub struct Output {
    path: PathBuf,
    buffer: BufWriter<Summing<Recorder>>,
}

/// What was written, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
}

/// A file that keeps the first error of its writes.
struct Recorder {
    file: File,
    failed: Option<IoError>,
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            // One that was interrupted is tried again by the caller.
            if self.failed.is_none() && error.kind() != ErrorKind::Interrupted {
                self.failed = Some(match error.raw_os_error() {
                    Some(code) => IoError::from_raw_os_error(code),
                    None => error.kind().into(),
                });
            }
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Output {
    /// The new file at `path`.
    pub fn new(file: File, path: &Path) -> Self {
        let recorder = Recorder { file, failed: None };
        Self {
            path: path.to_owned(),
            buffer: BufWriter::with_capacity(BUFFER_BYTES, Summing::new(recorder)),
        }
    }

    /// Does the writing, and then makes all of it durable.
    ///
    /// # Errors
    /// The failed write, if one was what made the work fail; else the error of the work.
    pub fn write(mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Written> {
        let path = self.path.clone();
        let written =
            work(&mut self).and_then(|()| self.buffer.flush().map_err(Error::io("write", &path)));
        let summing = self.buffer.get_mut();
        let (bytes, crc32c) = (summing.bytes, summing.checksum);
        let recorder = summing.inner_mut();
        match (recorder.failed.take(), written) {
            (Some(error), _) => Err(Error::io("write", &path)(error)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => {
                let synced = recorder.file.sync_all();
                synced.map_err(Error::io("sync", &path))?;
                Ok(Written { bytes, crc32c })
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.buffer.flush()
    }
}

#[cfg(test)]
mod tests {
    use polars::prelude::*;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_wrong_table() {
        let create = |path: &Path| {
            let file = File::create(path).expect("it can be opened");
            Output::new(file, path)
        };
        let full = || create(Path::new("/dev/full"));
        let table = || df!("a" => [1_i64, 2, 3]).expect("a table");
        let failed = full().write(|out| {
            ParquetWriter::new(out).finish(&mut table())?;
            Ok(())
        });
        assert!(matches!(failed, Err(Error::DiskFull)), "{failed:?}");
        // Longer than the buffer, so that the engine itself sees the failure.
        let numbers: Vec<i64> = (0..1 << 20)
            .map(|n: i64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64))
            .collect();
        let failed = full().write(|out| {
            let mut table = df!("a" => numbers)?;
            ParquetWriter::new(out).finish(&mut table)?;
            Ok(())
        });
        assert!(matches!(failed, Err(Error::DiskFull)), "{failed:?}");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let output = create(&dir.path().join("file"));
        let wrong = output.write(|_| Err(Error::Query("a column is missing".into())));
        assert!(matches!(wrong, Err(Error::Query(_))), "{wrong:?}");
    }
}
