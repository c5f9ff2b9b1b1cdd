//! Where an export goes: a folder, or a bucket of object storage. Both get whole files alone: a file is made beside, and gets
//! its name when it is all there and durable. The files of one export are all made before the first of them gets its name
//! (`stage`, `publish_staged`), so that the time in which a reader that lists the folder finds old
//! and new ones is as short as it can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientConfigKey, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use crate::checksum;
use crate::error::{Error, Result};
use crate::store::files;

/// The folder of unfinished files, in the export folder or bucket.
const TEMP_DIR: &str = ".echopilot-tmp";
/// Mode of what the owner alone may read.
const PRIVATE_FILE: u32 = 0o600;
/// A part of an upload: above the 5 MiB that S3 asks for, and small beside the memory of an export.
const UPLOAD_PART_BYTES: u64 = 8 << 20;
/// Parts of a file that are on their way at once.
const UPLOADS: usize = 4;
/// Objects that get their names at once.
const COPIES: usize = 16;
/// A request may take so long: a part over a slow line.
const REQUEST_TIMEOUT: &str = "300s";
/// A request that fails by the server's or the network's fault is made so many times more, with growing pauses.
const RETRIES: usize = 6;

/// Where an export goes.
#[derive(Debug)]
pub enum Destination {
    /// A folder.
    Folder(Root),
    /// A bucket.
    Bucket(Bucket),
}

/// An export folder.
#[derive(Debug)]
pub struct Root {
    /// Its path.
    pub path: PathBuf,
    /// Who may read what is written.
    pub readers: Readers,
}

/// Who may read an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Those whom the umask lets: an export is made for other programs.
    ByUmask,
    /// The owner alone, as all in the data folder.
    Owner,
}

/// A bucket of object storage, or a part of one.
#[derive(Debug)]
pub struct Bucket {
    /// Without credentials.
    url: String,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    temp: PathBuf,
}

impl Destination {
    /// What `--to` names: `s3://`, `gs://` and `az://` are buckets, whose credentials come from the environment; anything
    /// else is a folder. Files on their way to a bucket are made in `temp`.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the address is of another kind, or what is needed to reach it is missing.
    pub fn open(to: &str, temp: PathBuf, readers: Readers) -> Result<Self> {
        match to.split_once("://") {
            None => Ok(Self::Folder(Root {
                path: to.into(),
                readers,
            })),
            Some((scheme, _)) => Ok(Self::Bucket(Bucket::open(scheme, to, temp)?)),
        }
    }

    /// How a file is named to people.
    pub(super) fn shown(&self, name: &str) -> String {
        match self {
            Self::Folder(root) => root.path.join(name).display().to_string(),
            Self::Bucket(bucket) => format!("{}/{name}", bucket.url),
        }
    }

    /// CRC-32C of a file in a folder; a bucket does not tell.
    pub(super) fn checksum(&self, name: &str) -> Result<Option<u32>> {
        match self {
            Self::Folder(root) => {
                let path = root.path.join(name);
                checksum::of_file(&files::open(&path)?, &path).map(Some)
            }
            Self::Bucket(_) => Ok(None),
        }
    }

    /// The bytes of a small file; none if there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(root) => {
                let path = root.path.join(name);
                match fs::symlink_metadata(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    found if found.as_ref().is_ok_and(|found| !found.is_file()) => {
                        Err(root.in_the_way(&path))
                    }
                    _ => fs::read(&path).map(Some).map_err(Error::io("read", &path)),
                }
            }
            Self::Bucket(bucket) => bucket.read(name),
        }
    }

    /// Writes a small file, whole or not at all.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(&name.replace('/', "-"))?;
        files::or_remove(&temp, || write_synced(&temp, content))?;
        self.publish(&temp, name)
    }

    /// The path of an unfinished file, outside of what others load.
    fn temp(&self, name: &str) -> Result<PathBuf> {
        let dir = self.temp_dir();
        let found = fs::symlink_metadata(&dir);
        match self {
            Self::Folder(root) if found.is_ok_and(|found| !found.is_dir()) => {
                return Err(root.in_the_way(&dir));
            }
            Self::Folder(root) => root.make(&dir)?,
            Self::Bucket(_) => files::make_private(&dir).map_err(Error::io("create", &dir))?,
        }
        Ok(dir.join(name))
    }

    /// Gives a finished file its name, in place of the one that has it.
    fn publish(&self, temp: &Path, name: &str) -> Result<()> {
        match self {
            Self::Folder(root) => {
                let path = root.publish(temp, name)?;
                root.sync([path])
            }
            Self::Bucket(bucket) => {
                bucket.upload(temp, name)?;
                files::remove(temp)
            }
        }
    }

    /// Makes a file that will have this name: `write` writes it to the path that it gets, durably.
    pub(super) fn stage<T>(&self, name: &str, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let temp = self.staged_path(name)?;
        let written = files::or_remove(&temp, || write(&temp))?;
        if let Self::Bucket(bucket) = self {
            bucket.upload(&temp, &format!("{TEMP_DIR}/{}", staged_name(name)))?;
            files::remove(&temp)?;
        }
        Ok(written)
    }

    /// Makes a small file that will have this name.
    pub(super) fn stage_bytes(&self, name: &str, content: &[u8]) -> Result<()> {
        self.stage(name, |temp| write_synced(temp, content))
    }

    /// Where a file is made that will have this name.
    pub(super) fn staged_path(&self, name: &str) -> Result<PathBuf> {
        self.temp(&staged_name(name))
    }

    /// Those of the staged files of an earlier export that are still there, by the name that they will have, with their bytes.
    pub(super) fn staged(&self) -> Result<BTreeMap<String, u64>> {
        let found = self.list(TEMP_DIR)?.into_iter();
        Ok(found
            .filter_map(|(path, bytes)| {
                let name = path.strip_prefix(TEMP_DIR)?.strip_prefix('/')?;
                Some((name.replace(STAGED_SEPARATOR, "/"), bytes))
            })
            .collect())
    }

    /// CRC-32C of a staged file in a folder; a bucket does not tell.
    pub(super) fn staged_checksum(&self, name: &str) -> Result<Option<u32>> {
        self.checksum(&format!("{TEMP_DIR}/{}", staged_name(name)))
    }

    /// Gives staged files their names, which no other file has, durably. If that fails, none of them has one.
    pub(super) fn publish_staged(&self, names: &[String]) -> Result<()> {
        let published = match self {
            Self::Folder(root) => root.publish_staged(names),
            Self::Bucket(bucket) => bucket.publish_staged(names),
        };
        published.inspect_err(|_| {
            // The next export removes those that cannot be removed now.
            let _ = names.iter().try_for_each(|name| self.remove(name));
        })
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self {
            Self::Folder(root) => files::remove(&root.path.join(name)),
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// What is in a folder and in those in it but folders, and their bytes. Symbolic links are not followed: they are in the
    /// list themselves.
    pub(super) fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let mut found = BTreeMap::new();
        match self {
            Self::Folder(root) => root.list(&root.path.join(dir), &mut found)?,
            Self::Bucket(bucket) => found = bucket.list(dir)?,
        }
        Ok(found)
    }

    /// Removes the folders in a folder that have no file. Object storage has no folders.
    pub(super) fn remove_empty(&self, dir: &str) -> Result<()> {
        if let Self::Folder(root) = self {
            let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
            let dir = root.path.join(dir);
            if !is_folder(&dir) {
                return Ok(());
            }
            for inner in files::list(&dir)? {
                let name = inner.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with("dt=") && is_folder(&inner) && files::list(&inner)?.is_empty() {
                    fs::remove_dir(&inner).map_err(Error::io("remove", &inner))?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left of unfinished files on this machine.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear_temp(&self) -> Result<()> {
        let dir = self.temp_dir();
        match dir.exists() {
            true => files::remove_all(&dir).and_then(|()| files::sync_parent(&dir)),
            false => Ok(()),
        }
    }

    /// Removes what is left of staged files, wherever they are.
    pub(super) fn clear_staged(&self) -> Result<()> {
        if let Self::Bucket(bucket) = self {
            for name in bucket.list(TEMP_DIR)?.keys() {
                bucket.remove(name)?;
            }
        }
        self.clear_temp()
    }

    fn temp_dir(&self) -> PathBuf {
        match self {
            Self::Folder(root) => root.path.join(TEMP_DIR),
            Self::Bucket(bucket) => bucket.temp.clone(),
        }
    }
}

/// Writes a file that those may read whom the umask lets.
fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// What stands for a `/` in the name of a staged file; no name has it.
const STAGED_SEPARATOR: &str = "__";

fn staged_name(name: &str) -> String {
    name.replace('/', STAGED_SEPARATOR)
}

impl Root {
    /// Gives a finished file its name. Returns its path, which is durable after [`Root::sync`].
    fn publish(&self, temp: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        self.make(path.parent().unwrap_or(&self.path))?;
        if self.readers == Readers::Owner {
            fs::set_permissions(temp, Permissions::from_mode(PRIVATE_FILE))
                .map_err(Error::io("change", temp))?;
        }
        fs::rename(temp, &path).map_err(Error::io("rename to", &path))?;
        Ok(path)
    }

    /// Makes the names of files durable, and those of the folders that they lie in.
    fn sync(&self, paths: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        let mut folders = BTreeSet::new();
        for path in paths {
            let above = path.ancestors().skip(1);
            let inside = above.take_while(|dir| dir.starts_with(&self.path));
            folders.extend(inside.map(Path::to_owned));
        }
        folders.iter().try_for_each(|dir| files::sync(dir))?;
        files::sync_parent(&self.path)
    }

    fn publish_staged(&self, names: &[String]) -> Result<()> {
        let temp = self.path.join(TEMP_DIR);
        let published = names
            .iter()
            .map(|name| self.publish(&temp.join(staged_name(name)), name));
        self.sync(published.collect::<Result<Vec<_>>>()?)
    }

    /// Makes a folder of the export.
    fn make(&self, dir: &Path) -> Result<()> {
        match (self.readers, dir.parent()) {
            (Readers::Owner, Some(parent)) if !dir.is_dir() => {
                self.make(parent)?;
                files::make_private(dir).map_err(Error::io("create", dir))
            }
            _ => fs::create_dir_all(dir).map_err(Error::io("create", dir)),
        }
    }

    fn in_the_way(&self, path: &Path) -> Error {
        Error::bad_input(
            "bad_target",
            format!(
                "{} is in the way and no export of this store wrote it; nothing was changed. Move it away, or choose another \
                 folder",
                path.display()
            ),
        )
    }

    fn list(&self, path: &Path, found: &mut BTreeMap<String, u64>) -> Result<()> {
        let here = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            here => here.map_err(Error::io("look at", path))?,
        };
        if here.is_dir() {
            let inside = files::list(path)?;
            return inside.iter().try_for_each(|path| self.list(path, found));
        }
        if let Some(name) = path.strip_prefix(&self.path).ok().and_then(Path::to_str) {
            found.insert(name.to_owned(), here.len());
        }
        Ok(())
    }
}

/// An address without what may be secret in it: user and password, and parameters such as a signature.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

impl Bucket {
    fn open(scheme: &str, whole_url: &str, temp: PathBuf) -> Result<Self> {
        // Nothing else of it is ever printed.
        let url = without_secrets(whole_url);
        let wrong = |message: String| Error::bad_input("bad_target", format!("{url}: {message}"));
        if url != whole_url {
            return Err(wrong(
                "the address has a user, a password or parameters; credentials come from the environment, as `echopilot \
                 export --help` says"
                    .into(),
            ));
        }
        let url = url.as_str();
        let retry = RetryConfig {
            max_retries: RETRIES,
            ..RetryConfig::default()
        };
        let timeout = ClientConfigKey::Timeout;
        // After the name of the bucket.
        let prefix = url.splitn(4, '/').nth(3).unwrap_or_default();
        let prefix = Key::parse(prefix).map_err(|error| wrong(error.to_string()))?;
        let store = match scheme {
            "s3" => AmazonS3Builder::from_env()
                .with_url(url)
                .with_retry(retry)
                .with_config(AmazonS3ConfigKey::Client(timeout), REQUEST_TIMEOUT)
                .build()
                .map(|store| under(store, prefix)),
            "gs" => GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_retry(retry)
                .with_config(GoogleConfigKey::Client(timeout), REQUEST_TIMEOUT)
                .build()
                .map(|store| under(store, prefix)),
            "az" => MicrosoftAzureBuilder::from_env()
                .with_url(url)
                .with_retry(retry)
                .with_config(AzureConfigKey::Client(timeout), REQUEST_TIMEOUT)
                .build()
                .map(|store| under(store, prefix)),
            other => {
                return Err(wrong(format!(
                    "no storage is known as {other}://; allowed are s3://, gs://, az:// and a folder"
                )));
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Error::io("start a thread for", Path::new(url)))?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            store: store.map_err(|error| wrong(error.to_string()))?,
            runtime,
            temp,
        })
    }

    fn failed(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(object_store::Error) -> Error {
        let path = PathBuf::from(format!("{}/{name}", self.url));
        move |error| Error::io(action, &path)(error.into())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = async { self.store.get(&Key::from(name)).await?.bytes().await };
        match self.runtime.block_on(read) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            read => {
                let bytes = read.map_err(self.failed("read", name))?;
                Ok(Some(bytes.to_vec()))
            }
        }
    }

    /// In parts if it is large. The object is there when all of them are.
    fn upload(&self, from: &Path, name: &str) -> Result<()> {
        let mut file = File::open(from).map_err(Error::io("read", from))?;
        let mut next = || {
            let mut part = Vec::new();
            (&mut file)
                .take(UPLOAD_PART_BYTES)
                .read_to_end(&mut part)
                .map_err(Error::io("read", from))?;
            Ok::<_, Error>(PutPayload::from(part))
        };
        let key = Key::from(name);
        let first = next()?;
        self.runtime.block_on(async {
            if (first.content_length() as u64) < UPLOAD_PART_BYTES {
                let put = self.store.put(&key, first).await;
                return put.map(drop).map_err(self.failed("upload", name));
            }
            let upload = self.store.put_multipart(&key).await;
            let mut upload = upload.map_err(self.failed("upload", name))?;
            let sent = self.send_parts(&mut *upload, first, next, name).await;
            if sent.is_err() {
                // Parts of what will not be finished cost money.
                let _ = upload.abort().await;
            }
            sent
        })
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        first: PutPayload,
        mut next: impl FnMut() -> Result<PutPayload>,
        name: &str,
    ) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        let mut part = first;
        while part.content_length() > 0 {
            under_way.push(upload.put_part(part));
            if under_way.len() >= UPLOADS
                && let Some(sent) = under_way.next().await
            {
                sent.map_err(self.failed("upload", name))?;
            }
            part = next()?;
        }
        while let Some(sent) = under_way.next().await {
            sent.map_err(self.failed("upload", name))?;
        }
        let done = upload.complete().await;
        done.map(drop).map_err(self.failed("upload", name))
    }

    fn publish_staged(&self, names: &[String]) -> Result<()> {
        let copy = async |name: &String| {
            let from = Key::from(format!("{TEMP_DIR}/{}", staged_name(name)));
            let copied = self.store.copy(&from, &Key::from(name.as_str())).await;
            copied.map_err(self.failed("copy to", name))
        };
        self.runtime.block_on(
            futures_util::stream::iter(names)
                .map(copy)
                .buffer_unordered(COPIES)
                .try_collect::<()>(),
        )
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.runtime.block_on(self.store.delete(&Key::from(name))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            removed => removed.map_err(self.failed("remove", name)),
        }
    }

    fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let prefix = Key::from(dir);
        let objects: Vec<_> = self
            .runtime
            .block_on(self.store.list(Some(&prefix)).try_collect())
            .map_err(self.failed("list", dir))?;
        let objects = objects.into_iter();
        Ok(objects
            .map(|object| (object.location.into(), object.size))
            .collect())
    }
}

fn under(store: impl ObjectStore, prefix: Key) -> Arc<dyn ObjectStore> {
    Arc::new(PrefixStore::new(store, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_an_address_is_shown() {
        for (url, shown) in [
            ("s3://user:secret@bucket/a/b", "s3://bucket/a/b"),
            ("s3://a:b@c:secret@bucket", "s3://bucket"),
            ("az://container/x?sig=secret", "az://container/x"),
            (
                "s3://bucket/user@example.com/x",
                "s3://bucket/user@example.com/x",
            ),
            ("gs://bucket#secret", "gs://bucket"),
        ] {
            assert_eq!(without_secrets(url), shown);
            let opened = Destination::open(url, PathBuf::new(), Readers::Owner);
            let said = opened.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
