//! Pieces of the quarantine that mention a user: found and removed by access and erasure.

use super::folder::Folder;
use super::shape::QUARANTINE_FILE;
use crate::error::Result;
use crate::event::{self, text};

/// Ids shorter than this are searched with their quotes, because they are part of many strings.
const DISTINCT_BYTES: usize = 6;

/// Removes the pieces that mention one of these users. Returns how many.
///
/// # Errors
/// If the quarantine cannot be replaced.
pub fn remove(folder: &Folder, users: &[&str]) -> Result<usize> {
    let Ok(lines) = std::fs::read(folder.path().join(QUARANTINE_FILE)) else {
        return Ok(0);
    };
    let mut kept = Vec::with_capacity(lines.len());
    let mut removed = 0;
    for line in event::lines(&lines) {
        if users.iter().any(|user| is_in(line, user)) {
            removed += 1;
        } else {
            kept.extend_from_slice(line);
        }
    }
    if removed > 0 {
        folder.replace(QUARANTINE_FILE, &kept)?;
    }
    Ok(removed)
}

/// True if a piece, a damaged line as a JSON string within JSON, mentions a user.
pub fn is_in(line: &[u8], user: &str) -> bool {
    let mut once = Vec::new();
    text::encode(user, &mut once);
    let inner = String::from_utf8_lossy(&once).into_owned();
    let mut twice = Vec::new();
    text::encode(&inner, &mut twice);
    // Without the quotes of the outer string and, for a distinct id, without its own: they may be
    // damaged.
    let quoted = twice.get(1..twice.len() - 1).unwrap_or_default();
    let bare = quoted
        .get(2..quoted.len().saturating_sub(2))
        .unwrap_or_default();
    let wanted = match user.len() {
        ..DISTINCT_BYTES => quoted,
        _ => bare,
    };
    let is_of_id = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    };
    memchr::memmem::find_iter(line, wanted).any(|start| {
        // Not part of another id.
        let before = start.checked_sub(1).and_then(|before| line.get(before));
        user.len() < DISTINCT_BYTES
            || !(is_of_id(before) || is_of_id(line.get(start + wanted.len())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ids_are_found_without_quotes_and_short_ones_with_them() {
        let line = |id: &str| format!(r#"{{"raw":"{{\"user_id\":\"{id}\",\"x"}}"#).into_bytes();
        assert!(is_in(&line("user-1234"), "user-1234"));
        assert!(is_in(br#"{"raw":"user-1234"}"#, "user-1234"));
        assert!(!is_in(&line("user-12345"), "user-1234"));
        assert!(!is_in(&line("a-user-1234"), "user-1234"));
        assert!(is_in(&line("u1"), "u1"));
        assert!(!is_in(br#"{"raw":"u1"}"#, "u1"));
        assert!(!is_in(&line("u12"), "u1"));
    }

    #[test]
    fn pieces_that_mention_a_user_are_removed() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "the test")?;
        assert_eq!(remove(&folder, &["user-1234"])?, 0, "without a quarantine");
        let path = dir.path().join(QUARANTINE_FILE);
        std::fs::write(&path, "{\"raw\":\"user-1234\"}\n{\"raw\":\"other\"}\n").expect("a file");
        assert_eq!(remove(&folder, &["user-1234"])?, 1);
        assert_eq!(
            std::fs::read(&path).expect("a file"),
            b"{\"raw\":\"other\"}\n"
        );
        Ok(())
    }
}
