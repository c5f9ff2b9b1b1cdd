//! Writing of a Parquet file: buffered, with its checksum, and synced at the end.
//!
//! Polars turns a failed write into an error that is only a message. The error of the operating
//! system is kept here, so that a full disk can be told from an invalid table.

use std::fs::File;
use std::io::{BufWriter, Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::checksum::Summing;
use crate::error::{Error, Result};

/// Bytes that are written together; Polars itself writes a few at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A new file that is written sequentially.
pub struct Output {
    path: PathBuf,
    buffer: BufWriter<Summing<Recorder>>,
}

/// Size and checksum of a file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
}

/// A file that records the first error of its writes.
struct Recorder {
    file: File,
    failed: Option<IoError>,
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            // The caller retries an interrupted write.
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

    /// Lets `work` write the file, and then makes it durable.
    ///
    /// # Errors
    /// The error of a failed write, if there was one; else the error of `work`.
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
    fn a_full_disk_is_told_from_an_invalid_table() {
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
        // Longer than the buffer, so that Polars itself gets the error.
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
