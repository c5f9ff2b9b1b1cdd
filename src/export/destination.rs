//! Where an export goes: a folder, or a bucket of object storage. Both get whole files alone: a file is made beside, and gets
//! its name when it is all there and durable.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
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

use crate::error::{Error, Result};
use crate::store::folder;

/// The folder of unfinished files, in the export folder.
const TEMP_DIR: &str = "tmp";
/// A part of an upload: above the 5 MiB that S3 asks for, and small beside the memory of an export.
const UPLOAD_PART_BYTES: u64 = 8 << 20;
/// Parts of a file that are on their way at once.
const UPLOADS: usize = 4;
/// A request may take so long: a part over a slow line.
const REQUEST_TIMEOUT: &str = "300s";
/// A request that fails by the server's or the network's fault is made so many times more, with growing pauses.
const RETRIES: usize = 6;

/// Where an export goes.
#[derive(Debug)]
pub enum Destination {
    /// A folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(Bucket),
}

/// A bucket of object storage, or a part of one.
#[derive(Debug)]
pub struct Bucket {
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
    pub fn open(to: &str, temp: PathBuf) -> Result<Self> {
        match to.split_once("://") {
            None => Ok(Self::Folder(to.into())),
            Some((scheme, _)) => Ok(Self::Bucket(Bucket::open(scheme, to, temp)?)),
        }
    }

    /// The bytes of a small file; none if there is no such file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(root) => {
                let path = root.join(name);
                match fs::read(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    read => read.map(Some).map_err(Error::io("read", &path)),
                }
            }
            Self::Bucket(bucket) => bucket.read(name),
        }
    }

    /// Writes a small file, whole or not at all.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(&name.replace('/', "-"))?;
        folder::write_synced(&temp, content)?;
        self.publish(&temp, name)
    }

    /// The path of an unfinished file, outside of what others load.
    pub(super) fn temp(&self, name: &str) -> Result<PathBuf> {
        let dir = self.temp_dir();
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir.join(name))
    }

    /// Gives a finished file its name, in place of the one that has it.
    pub(super) fn publish(&self, temp: &Path, name: &str) -> Result<()> {
        match self {
            Self::Folder(root) => {
                let path = root.join(name);
                let dir = path.parent().unwrap_or(root);
                fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
                folder::publish(temp, &path)?;
                folder::sync_parent(dir)
            }
            Self::Bucket(bucket) => {
                bucket.upload(temp, name)?;
                folder::remove(temp)
            }
        }
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match self {
            Self::Folder(root) => folder::remove(&root.join(name)),
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// The files in the folders of a folder, and their bytes.
    pub(super) fn list(&self, dir: &str) -> Result<BTreeMap<String, u64>> {
        let root = match self {
            Self::Folder(root) => root,
            Self::Bucket(bucket) => return bucket.list(dir),
        };
        let mut found = BTreeMap::new();
        for inner in folder::list(&root.join(dir))? {
            for path in folder::list(&inner)? {
                let bytes = fs::metadata(&path).map_err(Error::io("look at", &path))?;
                if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
                    found.insert(name.to_owned(), bytes.len());
                }
            }
        }
        Ok(found)
    }

    /// Removes the folders in a folder that have no file. Object storage has no folders.
    pub(super) fn remove_empty(&self, dir: &str) -> Result<()> {
        if let Self::Folder(root) = self {
            for inner in folder::list(&root.join(dir))? {
                if folder::list(&inner)?.is_empty() {
                    fs::remove_dir(&inner).map_err(Error::io("remove", &inner))?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left of unfinished files.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear_temp(&self) -> Result<()> {
        folder::remove_all(&self.temp_dir())
    }

    fn temp_dir(&self) -> PathBuf {
        match self {
            Self::Folder(root) => root.join(TEMP_DIR),
            Self::Bucket(bucket) => bucket.temp.clone(),
        }
    }
}

impl Bucket {
    fn open(scheme: &str, url: &str, temp: PathBuf) -> Result<Self> {
        let wrong = |message: String| Error::bad_input("bad_target", format!("{url}: {message}"));
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
