//! An append of 4 KiB and an fdatasync, on the file system that the nodes are measured on.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::figure::{Figure, median, percentile};
use crate::trouble::Trouble;
use crate::workload::{Stage, Workload};

pub(crate) struct Disk;

#[tonic::async_trait(?Send)]
impl Workload for Disk {
    fn name(&self) -> &'static str {
        "floor-disk"
    }

    fn about(&self) -> &'static str {
        "append of 4 KiB and fdatasync, on the nodes' file system"
    }

    fn nodes(&self) -> &'static [usize] {
        &[]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let (path, count) = (stage.folder.path().join("append"), stage.size.of(2_000, 50));
        let spans = tokio::task::spawn_blocking(move || append(&path, count)).await??;
        Ok(vec![
            Figure::micros("median", median(&spans)),
            Figure::micros("99 of 100", percentile(&spans, 0.99)),
        ])
    }
}

fn append(path: &std::path::Path, count: usize) -> Result<Vec<Duration>, Trouble> {
    let mut file = File::options().create_new(true).append(true).open(path)?;
    let block = [7_u8; 4096];
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        spans.push(began.elapsed());
    }
    Ok(spans)
}
