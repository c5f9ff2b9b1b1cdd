//! A copy of the file system of this machine, which takes changes in their place.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{folder, printed};
use crate::packages::text;

/// A copy of the file system of this machine, which takes changes in their place; unmounted when
/// dropped.
pub struct Overlay {
    pub root: PathBuf,
    _folder: TempDir,
}

impl Overlay {
    /// The copy with devices, processes and temporary folders, for commands in it; `None` if this
    /// process may not mount.
    pub fn with_devices() -> Option<Self> {
        let overlay = Self::mount()?;
        for (how, source, place) in [
            (&["--bind"][..], "/dev", "dev"),
            (&["-t", "proc"], "proc", "proc"),
            (&["-t", "tmpfs"], "tmpfs", "tmp"),
            (&["-t", "tmpfs"], "tmpfs", "run"),
        ] {
            let mut mount = Command::new("mount");
            mount.args(how).arg(source).arg(overlay.root.join(place));
            assert!(mount.status().unwrap().success(), "{place}");
        }
        Some(overlay)
    }

    /// The copy alone; `None` if this process may not mount.
    pub fn mount() -> Option<Self> {
        let folder = folder();
        let [upper, work, root] = ["upper", "work", "root"].map(|name| folder.path().join(name));
        // The upper layer cannot be in an overlay itself, as in a container.
        let upper_is_mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !upper_is_mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: cannot mount; run as root to test the Debian package");
            return None;
        }
        let overlay = Self {
            root: root.clone(),
            _folder: folder,
        };
        for folder in [&upper, &work, &root] {
            std::fs::create_dir(folder).unwrap();
        }
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "-o", &layers, "overlay"])
            .arg(&root)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: cannot mount an overlay; the Debian package was not installed");
            return None;
        }
        Some(overlay)
    }

    /// A command in the copy.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ECHOPILOT_")) {
            command.env_remove(name);
        }
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a shell script in the copy, which must succeed, and returns what it prints.
    pub fn shell(&self, script: &str) -> String {
        text(printed(self.command("sh").args(["-euc", script])))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let folder = self.root.parent().expect("a folder").to_owned();
        let mounted = [self.root.clone(), folder];
        for place in mounted {
            // Everything that is mounted below it, too.
            let _ = Command::new("umount").arg("-lR").arg(place).status();
        }
    }
}
