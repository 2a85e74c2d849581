//! Blobs as files of this node, for who needs a path or makes a blob that others copy later.

use std::path::PathBuf;

use bytes::Bytes;
use matins_core::id::Digest;

use super::blobs::put_here;
use super::consensus::Consensus;
use super::error::BlobError;

impl Consensus {
    /// A file with the content of a blob, fetched from a peer if this node lacks it. It is read, never changed.
    pub async fn blob_file(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        if !self.has_blob(&digest) {
            self.get_blob(digest).await?;
        }
        self.inner().holdings.hold(digest, self.state().now);
        Ok(self.inner().blobs.path(&digest))
    }

    /// Stores a blob durably on this node alone; a command may name it only after `put_blob`.
    pub async fn store_blob(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        let digest = put_here(&self.inner().blobs, bytes).await?;
        self.inner().holdings.hold(digest, self.state().now);
        Ok(digest)
    }
}
