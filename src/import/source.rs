//! The inputs of an import.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::chunks::{Chunk, Chunks};
use crate::error::{Error, Result};
use crate::inflate::inflate;
use crate::progress::Progress;

/// Size of the buffer of a file, for reads of less than a chunk.
const BUFFER_BYTES: usize = 64 << 10;
/// Maximum number of rejections that are described; the rest is counted.
pub const DESCRIBED_REJECTIONS: usize = 20;

/// An input of an import, plain or compressed. The first bytes determine the format, not the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// The name used in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".into(),
        }
    }

    /// Size in bytes, before decompression; unknown for standard input.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::File(path) => path.metadata().ok().map(|metadata| metadata.len()),
            Self::Stdin => None,
        }
    }

    /// Opens it, inflated.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self, progress: &Progress) -> Result<Box<dyn BufRead + Send>> {
        let (reader, path): (Box<dyn Read + Send>, &Path) = match self {
            Self::File(path) => (
                Box::new(File::open(path).map_err(Error::io("open", path))?),
                path,
            ),
            Self::Stdin => (Box::new(std::io::stdin()), Path::new("standard input")),
        };
        let counted = Counted {
            reader,
            progress: progress.clone(),
        };
        inflate(BufReader::with_capacity(BUFFER_BYTES, counted)).map_err(Error::io("read", path))
    }
}

/// A reader that counts the bytes read.
struct Counted<R> {
    reader: R,
    progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

/// The next chunk of a source with this name.
///
/// # Errors
/// If it cannot be read.
pub fn next_chunk<R: BufRead>(chunks: &mut Chunks<R>, name: &str) -> Result<Option<Chunk>> {
    chunks
        .next_chunk()
        .map_err(|error| Error::io("read", name.as_ref())(error))
}
