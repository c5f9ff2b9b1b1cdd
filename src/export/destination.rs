//! The destination of an export: a folder, or a bucket of object storage.
//!
//! Readers see complete files only: a file is written under a temporary name and published when it
//! is durable. All files of an export are written before the first of them is published (`stage`,
//! `publish_staged`), so that the time in which a reader that lists the folder finds old and new
//! files together is as short as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientConfigKey, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use super::layout::RunId;
use crate::checksum;
use crate::error::{Error, ErrorCode, Result, first_chars};
use crate::store::files;

/// The folder of unfinished files, in the export folder or bucket.
const TEMP_DIR: &str = ".echopilot-tmp";
/// File mode of exports in the data folder: readable by the owner alone.
const PRIVATE_FILE: u32 = 0o600;
/// Size of a part of an upload: above the 5 MiB minimum of S3, and small compared to the memory of
/// an export.
const UPLOAD_PART_BYTES: u64 = 8 << 20;
/// Parts of a file that are uploaded concurrently.
const UPLOADS: usize = 4;
/// Objects that are published concurrently.
const COPIES: usize = 16;
/// Time limit of a request, long enough for a part over a slow connection.
const REQUEST_TIMEOUT: &str = "300s";
/// Time in which the machine of a bucket must give credentials where no variable has them.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// Retries of a request that failed because of the server or the network, with growing pauses.
const RETRIES: usize = 6;

/// Most characters of the reason that a request failed.
const MAX_REASON_CHARS: usize = 200;

/// The destination of an export.
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
    /// The users who may read the files.
    pub readers: Readers,
}

/// The outcome of the creation of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file has this content now.
    Yes,
    /// There was a file with this name.
    Taken,
}

/// The users who may read an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// As the umask allows: an export is for other programs.
    ByUmask,
    /// The owner alone, as for all files in the data folder.
    Owner,
}

/// A bucket of object storage, or a part of one.
#[derive(Debug)]
pub struct Bucket {
    /// The address, without credentials.
    url: String,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    temp: PathBuf,
    /// The variables that would have credentials, if none is set.
    unset: Option<&'static str>,
}

impl Destination {
    /// Opens the destination that `--to` names: `s3://`, `gs://` and `az://` are buckets, whose
    /// credentials come from the environment; anything else is a folder. Files for a bucket are
    /// written to `temp` first.
    ///
    /// # Errors
    /// [`Error::BadInput`] if the address has another scheme, or settings of the bucket are
    /// missing.
    pub fn open(to: &str, temp: PathBuf, readers: Readers) -> Result<Self> {
        match to.split_once("://") {
            None => Ok(Self::Folder(Root {
                path: to.into(),
                readers,
            })),
            Some((scheme, _)) => Ok(Self::Bucket(Bucket::open(scheme, to, temp)?)),
        }
    }

    /// Checks that there are credentials. Nothing is sent where variables have them; else the
    /// machine must have a role, which a request shows.
    ///
    /// # Errors
    /// `bad_target`, which names the variables.
    pub fn check_credentials(&self) -> Result<()> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => bucket.check_credentials(),
        }
    }

    /// The path or address of a file, for messages.
    pub fn shown(&self, name: &str) -> String {
        match self {
            Self::Folder(root) => root.path.join(name).display().to_string(),
            Self::Bucket(bucket) => format!("{}/{name}", bucket.url),
        }
    }

    /// CRC-32C of a file in a folder; unknown for a bucket.
    pub(super) fn checksum(&self, name: &str) -> Result<Option<u32>> {
        match self {
            Self::Folder(root) => {
                let path = root.path.join(name);
                checksum::of_file(&files::open(&path)?, &path).map(Some)
            }
            Self::Bucket(_) => Ok(None),
        }
    }

    /// Reads a small file. `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
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

    /// Writes a small file atomically.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(&name.replace('/', "-"))?;
        files::or_remove(&temp, || write_synced(&temp, content))?;
        self.publish(&temp, name)
    }

    /// The path of an unfinished file, outside of the folders that others load.
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

    /// Publishes a finished file, and replaces the one that has its name.
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

    /// Creates a small file atomically, unless there is a file with its name. After an error it may
    /// exist.
    pub(super) fn create(&self, name: &str, content: &[u8]) -> Result<Created> {
        match self {
            Self::Folder(root) => {
                // It may become a second name of the file, and must not be written again.
                let run = RunId::new()?;
                let temp = self.temp(&format!("{}-{}", staged_name(name), run.as_str()))?;
                files::or_remove(&temp, || write_synced(&temp, content))?;
                let created = root.link(&temp, name);
                files::remove(&temp)?;
                let created = created?;
                root.sync([root.path.join(name)])?;
                Ok(created)
            }
            Self::Bucket(bucket) => bucket.create(name, content),
        }
    }

    /// Adds a file whose name no other file had: `write` gets the path of a temporary file. In a
    /// folder it is durable after [`Destination::sync_added`].
    pub(super) fn add<T>(&self, name: &str, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let temp = self.temp(&staged_name(name))?;
        let written = files::or_remove(&temp, || write(&temp))?;
        let added = match self {
            Self::Folder(root) => root.publish(&temp, name).map(drop),
            Self::Bucket(bucket) => bucket
                .upload(&temp, name)
                .and_then(|()| files::remove(&temp)),
        };
        files::or_remove(&temp, || added)?;
        Ok(written)
    }

    /// Makes added files durable.
    pub(super) fn sync_added(&self, names: &[String]) -> Result<()> {
        match self {
            Self::Folder(root) if !names.is_empty() => {
                root.sync(names.iter().map(|name| root.path.join(name)))
            }
            _ => Ok(()),
        }
    }

    /// A file on this machine: itself in a folder, and a copy of an object of a bucket, which is
    /// deleted when this is dropped.
    ///
    /// # Errors
    /// If there is no such file, or it cannot be copied.
    pub fn local(&self, name: &str) -> Result<Local> {
        match self {
            Self::Folder(root) => Ok(Local {
                path: root.path.join(name),
                is_copy: false,
            }),
            Self::Bucket(bucket) => {
                let local = Local {
                    path: self.temp(&format!("copy-of-{}", staged_name(name)))?,
                    is_copy: true,
                };
                bucket.may_fail("read", name)?;
                let created = File::create(&local.path);
                let mut file = created.map_err(Error::io("create", &local.path))?;
                bucket.download(name, &mut file, &local.path)?;
                Ok(local)
            }
        }
    }

    /// Writes a file that will be published under this name: `write` gets its path, and writes it
    /// durably.
    pub(super) fn stage<T>(&self, name: &str, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let temp = self.staged_path(name)?;
        let written = files::or_remove(&temp, || write(&temp))?;
        if let Self::Bucket(bucket) = self {
            bucket.upload(&temp, &format!("{TEMP_DIR}/{}", staged_name(name)))?;
            files::remove(&temp)?;
        }
        Ok(written)
    }

    /// Writes a small file that will be published under this name.
    pub(super) fn stage_bytes(&self, name: &str, content: &[u8]) -> Result<()> {
        self.stage(name, |temp| write_synced(temp, content))
    }

    /// The path of a file that will be published under this name.
    pub(super) fn staged_path(&self, name: &str) -> Result<PathBuf> {
        self.temp(&staged_name(name))
    }

    /// The staged files of an earlier export, by the name that they will have, with their sizes.
    pub(super) fn staged(&self) -> Result<BTreeMap<String, u64>> {
        let found = self.list(TEMP_DIR)?.into_iter();
        Ok(found
            .filter_map(|(path, bytes)| {
                let name = path.strip_prefix(TEMP_DIR)?.strip_prefix('/')?;
                Some((name.replace(STAGED_SEPARATOR, "/"), bytes))
            })
            .collect())
    }

    /// CRC-32C of a staged file in a folder; unknown for a bucket.
    pub(super) fn staged_checksum(&self, name: &str) -> Result<Option<u32>> {
        self.checksum(&format!("{TEMP_DIR}/{}", staged_name(name)))
    }

    /// Publishes staged files, whose names no other file has, durably. If that fails, none of them
    /// is published.
    pub(super) fn publish_staged(&self, names: &[String]) -> Result<()> {
        let published = match self {
            Self::Folder(root) => root.publish_staged(names),
            Self::Bucket(bucket) => bucket.publish_staged(names),
        };
        published.inspect_err(|_| {
            // The next export removes the files that cannot be removed now.
            let _ = names.iter().try_for_each(|name| self.remove(name));
        })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it cannot be removed; a missing file is not an error.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self {
            Self::Folder(root) => files::remove(&root.path.join(name)),
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// Lists all files in a folder and below it, with their sizes. Symbolic links are not
    /// followed, but are listed themselves.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let mut found = BTreeMap::new();
        match self {
            Self::Folder(root) => root.list(&root.path.join(dir), &mut found)?,
            Self::Bucket(bucket) => found = bucket.list(dir)?,
        }
        Ok(found)
    }

    /// Removes the empty folders of days in a folder. Object storage has no folders.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove_empty(&self, dir: &str) -> Result<()> {
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

    /// Removes unfinished files on this machine.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn clear_temp(&self) -> Result<()> {
        let dir = self.temp_dir();
        if !dir.exists() {
            return Ok(());
        }
        files::remove_all(&dir)?;
        files::sync_parent(&dir)
    }

    /// Removes staged files, on this machine and in the bucket.
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

/// A file of a destination on this machine.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    is_copy: bool,
}

impl Local {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.is_copy {
            // Temporary files that stay are removed with their folder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file durably, with the permissions of the umask.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    files::may_fail("write", path).map_err(Error::io("write", path))?;
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// Replacement of `/` in the name of a staged file; no published name contains it.
const STAGED_SEPARATOR: &str = "__";

fn staged_name(name: &str) -> String {
    name.replace('/', STAGED_SEPARATOR)
}

impl Root {
    /// Publishes a finished file. Returns its path, which is durable after [`Root::sync`].
    fn publish(&self, temp: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        self.make(path.parent().unwrap_or(&self.path))?;
        if self.readers == Readers::Owner {
            fs::set_permissions(temp, Permissions::from_mode(PRIVATE_FILE))
                .map_err(Error::io("change", temp))?;
        }
        files::may_fail("rename", &path).map_err(Error::io("rename to", &path))?;
        fs::rename(temp, &path).map_err(Error::io("rename to", &path))?;
        Ok(path)
    }

    /// Gives a finished file a second name, unless another file has it.
    fn link(&self, temp: &Path, name: &str) -> Result<Created> {
        let path = self.path.join(name);
        self.make(path.parent().unwrap_or(&self.path))?;
        files::may_fail("link", &path).map_err(Error::io("create", &path))?;
        match fs::hard_link(temp, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Created::Taken),
            linked => linked
                .map(|()| Created::Yes)
                .map_err(Error::io("create", &path)),
        }
    }

    /// Syncs the folders of files, up to the export folder and its parent.
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

    /// Creates a folder of the export.
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
            ErrorCode::BadTarget,
            format!(
                "{} exists and was not written by an export of this store; nothing was changed. Move \
                 it, or choose another folder",
                path.display()
            ),
        )
    }

    fn list(&self, path: &Path, found: &mut BTreeMap<String, u64>) -> Result<()> {
        let here = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            here => here.map_err(Error::io("inspect", path))?,
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

/// Removes the parts of an address that may be secret: user, password, and parameters such as a
/// signature.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// True for a setting that is there, and not a switch that is off.
fn is_set(setting: Option<String>) -> bool {
    setting.is_some_and(|setting| !setting.is_empty() && setting != "false")
}

impl Bucket {
    fn open(scheme: &str, whole_url: &str, temp: PathBuf) -> Result<Self> {
        // No other part of it is ever printed.
        let url = without_secrets(whole_url);
        let wrong =
            |message: String| Error::bad_input(ErrorCode::BadTarget, format!("{url}: {message}"));
        if url != whole_url {
            return Err(wrong(
                "the address has a user, a password or parameters; credentials come from the \
                 environment, see `echopilot export --help`"
                    .into(),
            ));
        }
        let url = url.as_str();
        let retry = RetryConfig {
            max_retries: RETRIES,
            ..RetryConfig::default()
        };
        let timeout = ClientConfigKey::Timeout;
        // The path after the name of the bucket.
        let prefix = url.splitn(4, '/').nth(3).unwrap_or_default();
        let prefix = Key::parse(prefix).map_err(|error| wrong(error.to_string()))?;
        let (store, unset) = match scheme {
            "s3" => {
                let settings = AmazonS3Builder::from_env();
                let is_set = [
                    AmazonS3ConfigKey::AccessKeyId,
                    AmazonS3ConfigKey::WebIdentityTokenFile,
                    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                    AmazonS3ConfigKey::ContainerCredentialsFullUri,
                    AmazonS3ConfigKey::SkipSignature,
                ]
                .iter()
                .any(|key| is_set(settings.get_config_value(key)));
                let store = settings
                    .with_url(url)
                    .with_retry(retry)
                    .with_config(AmazonS3ConfigKey::Client(timeout), REQUEST_TIMEOUT)
                    .build()
                    .map(|store| under(store, prefix));
                let unset = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
                (store, (!is_set).then_some(unset))
            }
            "gs" => {
                let settings = GoogleCloudStorageBuilder::from_env();
                let is_set = [
                    GoogleConfigKey::ServiceAccount,
                    GoogleConfigKey::ServiceAccountKey,
                    GoogleConfigKey::ApplicationCredentials,
                    GoogleConfigKey::SkipSignature,
                ]
                .iter()
                .any(|key| is_set(settings.get_config_value(key)));
                let store = settings
                    .with_url(url)
                    .with_retry(retry)
                    .with_config(GoogleConfigKey::Client(timeout), REQUEST_TIMEOUT)
                    .build()
                    .map(|store| under(store, prefix));
                (store, (!is_set).then_some("GOOGLE_SERVICE_ACCOUNT"))
            }
            "az" => {
                let settings = MicrosoftAzureBuilder::from_env();
                let is_set = [
                    AzureConfigKey::AccessKey,
                    AzureConfigKey::ClientSecret,
                    AzureConfigKey::SasKey,
                    AzureConfigKey::Token,
                    AzureConfigKey::FederatedTokenFile,
                    AzureConfigKey::UseEmulator,
                    AzureConfigKey::UseAzureCli,
                    AzureConfigKey::SkipSignature,
                ]
                .iter()
                .any(|key| is_set(settings.get_config_value(key)));
                let store = settings
                    .with_url(url)
                    .with_retry(retry)
                    .with_config(AzureConfigKey::Client(timeout), REQUEST_TIMEOUT)
                    .build()
                    .map(|store| under(store, prefix));
                (store, (!is_set).then_some("AZURE_STORAGE_ACCOUNT_KEY"))
            }
            other => {
                return Err(wrong(format!(
                    "unknown scheme {other}://; allowed are s3://, gs://, az:// and a folder"
                )));
            }
        };
        let store = store.map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            unset,
            ..Self::over(store, url, temp)?
        })
    }

    /// A bucket over a store; `url` is for messages.
    pub(super) fn over(store: Arc<dyn ObjectStore>, url: &str, temp: PathBuf) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Error::io("start a thread for", Path::new(url)))?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            store,
            runtime,
            temp,
            unset: None,
        })
    }

    fn check_credentials(&self) -> Result<()> {
        let Some(variables) = self.unset else {
            return Ok(());
        };
        let key = Key::from("_delta_log");
        let asked =
            async { tokio::time::timeout(CREDENTIALS_TIMEOUT, self.store.head(&key)).await };
        let reason = match self.runtime.block_on(asked) {
            Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => return Ok(()),
            Ok(Err(error)) => first_chars(&error.to_string(), MAX_REASON_CHARS).to_owned(),
            Err(_) => format!("no response within {} s", CREDENTIALS_TIMEOUT.as_secs()),
        };
        Err(Error::bad_input(
            ErrorCode::BadTarget,
            format!(
                "{}: no credentials are set, and this machine has no role that may read it ({reason}); set {variables}",
                self.url
            ),
        ))
    }

    /// Creates a small object, unless there is one with its name.
    fn create(&self, name: &str, content: &[u8]) -> Result<Created> {
        self.may_fail("create", name)?;
        let content = PutPayload::from(content.to_vec());
        let key = Key::from(name);
        let put = self.store.put_opts(&key, content, PutMode::Create.into());
        match self.runtime.block_on(put) {
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(Created::Taken),
            put => {
                put.map_err(self.failed("create", name))?;
                self.may_fail("response of create", name)?;
                Ok(Created::Yes)
            }
        }
    }

    /// Called before a request, and before its response counts: tests let both fail.
    fn may_fail(&self, request: &'static str, name: &str) -> Result<()> {
        let path = Path::new(&self.url).join(name);
        files::may_fail(request, &path).map_err(Error::io(request, &path))
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
        self.may_fail("read", name)?;
        let read = async { self.store.get(&Key::from(name)).await?.bytes().await };
        match self.runtime.block_on(read) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            read => {
                let bytes = read.map_err(self.failed("read", name))?;
                Ok(Some(bytes.to_vec()))
            }
        }
    }

    /// Uploads a file, in parts if it is large. The object exists when all parts are uploaded.
    fn upload(&self, from: &Path, name: &str) -> Result<()> {
        let file = File::open(from).map_err(Error::io("read", from))?;
        self.may_fail("upload", name)?;
        self.upload_from(file, from, name)?;
        self.may_fail("response of upload", name)
    }

    /// Uploads what a reader has, in parts if it is large. The object exists when all parts are
    /// uploaded. `shown` is for messages.
    ///
    /// # Errors
    /// If it cannot be read or uploaded; then there is no object.
    pub fn upload_from(&self, mut from: impl Read, shown: &Path, name: &str) -> Result<()> {
        let mut next = || {
            let mut part = Vec::new();
            from.by_ref()
                .take(UPLOAD_PART_BYTES)
                .read_to_end(&mut part)
                .map_err(Error::io("read", shown))?;
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
                // The parts of an unfinished upload cost money.
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

    /// Downloads an object to a writer.
    ///
    /// # Errors
    /// If it cannot be downloaded, and the first error of the writer; `shown` is for messages.
    pub fn download(&self, name: &str, to: &mut dyn Write, shown: &Path) -> Result<()> {
        let got = self.runtime.block_on(self.store.get(&Key::from(name)));
        let mut pieces = got.map_err(self.failed("read", name))?.into_stream();
        while let Some(piece) = self.runtime.block_on(pieces.next()) {
            let piece = piece.map_err(self.failed("read", name))?;
            to.write_all(&piece).map_err(Error::io("write", shown))?;
        }
        Ok(())
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
        self.may_fail("remove", name)?;
        match self.runtime.block_on(self.store.delete(&Key::from(name))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            removed => removed.map_err(self.failed("remove", name)),
        }
    }

    fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        self.may_fail("list", dir)?;
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
    fn messages_do_not_contain_secrets_of_an_address() {
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
            let message = opened.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_destination_without_a_scheme_is_a_folder() -> Result<()> {
        for to in ["/tmp/export", "export", "s3:/bucket", "C:\\export"] {
            let opened = Destination::open(to, PathBuf::new(), Readers::ByUmask)?;
            let Destination::Folder(root) = opened else {
                panic!("{to}");
            };
            assert_eq!(root.path, Path::new(to));
        }
        Ok(())
    }

    #[test]
    fn invalid_addresses_are_rejected_and_name_the_allowed_schemes() {
        for (to, says) in [
            ("http://host/x", "allowed are s3://, gs://, az://"),
            ("://bucket", "allowed are s3://, gs://, az://"),
            ("S3://bucket", "allowed are s3://, gs://, az://"),
            ("s3://bucket/a//b", "s3://bucket/a//b"),
            (
                "s3://bucket/x?region=eu",
                "credentials come from the environment",
            ),
        ] {
            match Destination::open(to, PathBuf::new(), Readers::ByUmask) {
                Err(Error::BadInput { code, message }) => {
                    assert_eq!(code, ErrorCode::BadTarget, "{to}");
                    assert!(message.contains(says), "{to}: {message}");
                }
                other => panic!("{to}: {other:?}"),
            }
        }
    }

    #[test]
    fn names_of_staged_files_map_back_to_the_published_names() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io("create", Path::new("a folder")))?;
        let to = Destination::Folder(Root {
            path: dir.path().to_owned(),
            readers: Readers::Owner,
        });
        let names = [
            "events/dt=2026-11-26/part-0.parquet",
            "daily_rollups/part-1.parquet",
        ];
        for name in names {
            to.stage_bytes(name, name.as_bytes())?;
            assert_eq!(to.read(name)?, None, "{name} is not published yet");
        }
        let staged: Vec<String> = to.staged()?.into_keys().collect();
        assert_eq!(staged, [names[1], names[0]]);
        to.publish_staged(&staged)?;
        assert_eq!(to.read(names[0])?.as_deref(), Some(names[0].as_bytes()));
        assert_eq!(to.staged()?, BTreeMap::new());
        Ok(())
    }
}
