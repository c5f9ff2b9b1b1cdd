//! The address of the server: free, or a server of ours is there and ready.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use super::Finding;
use crate::config::Listen;
use crate::probe;
use crate::store::folder;

const CHECK: &str = "server";

/// The part of a response of `/health/ready` that is shown.
#[derive(Deserialize)]
struct Health {
    ok: Option<bool>,
    error: Option<String>,
    message: Option<String>,
}

/// The finding about the server: whether one runs, or could listen.
pub fn finding(listen: &Listen, root: &Path) -> Finding {
    let holder = holder(root);
    let addresses = match listen.addresses() {
        Ok(addresses) => addresses,
        Err(error) => {
            return Finding::fails(
                CHECK,
                format!("--listen {listen}: {error}"),
                "The server does not start. Use an address of this machine.",
            );
        }
    };
    for address in addresses {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return in_use(address, holder.as_deref());
            }
            // The machine may lack one kind of addresses.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Finding::fails(
                    CHECK,
                    format!("may not listen on {address}"),
                    "Use a port above 1023 behind a reverse proxy, or allow it with AmbientCapabilities=.",
                );
            }
            _ => {}
        }
    }
    match holder {
        Some(holder) => Finding::ok(CHECK, format!("the data folder is in use by {holder}")),
        None => Finding::ok(CHECK, format!("none runs, and {listen} is free")),
    }
}

fn in_use(address: SocketAddr, holder: Option<&str>) -> Finding {
    let Some(health) = ask(address) else {
        return Finding::fails(
            CHECK,
            format!("another program listens on {address}"),
            "The server does not start there. Stop that program, or choose another --listen.",
        );
    };
    match (health.ok, holder) {
        (Some(true), Some(_)) => Finding::ok(CHECK, format!("a server on {address} is ready")),
        (Some(true), None) => Finding::warning(
            CHECK,
            format!("a server on {address} is ready, and does not use this data folder"),
            "A second server needs another --listen.",
        ),
        _ => Finding::fails(
            CHECK,
            format!(
                "a server on {address} is not ready: {}",
                health.error.unwrap_or_default()
            ),
            health.message.unwrap_or_default(),
        ),
    }
}

/// Asks a server whether it is ready; none if it is not one of ours.
fn ask(address: SocketAddr) -> Option<Health> {
    let response = probe::get([address], "/health/ready").ok()?;
    let health: Health = serde_json::from_str(&response.body).ok()?;
    (health.ok.is_some() || health.error.is_some()).then_some(health)
}

/// The process that has the data folder locked, as it describes itself.
fn holder(root: &Path) -> Option<String> {
    let inode = std::fs::metadata(root).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    is_locked(&locks, inode).then(|| folder::holder(root))
}

/// True if `/proc/locks` has a lock on a file with this inode. Taking the lock to find out would
/// keep a server from starting meanwhile.
fn is_locked(locks: &str, inode: u64) -> bool {
    let of_inode = format!(":{inode}");
    locks.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.any(|field| field == "FLOCK") && fields.any(|field| field.ends_with(&of_inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_by_its_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 08:01:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 4242 00:2d:1234567 0 EOF\n";
        assert!(is_locked(locks, 1_234_567));
        assert!(!is_locked(locks, 77) && !is_locked(locks, 4_567) && !is_locked("", 1));
    }
}
