//! Spawning `/bin/true` from a small process and waiting for it: what a task costs if nothing else is done for it.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::figure::{Figure, median, percentile};
use crate::trouble::{Trouble, must_be};
use crate::workload::{Stage, Workload};

pub(crate) struct Spawn;

#[tonic::async_trait(?Send)]
impl Workload for Spawn {
    fn name(&self) -> &'static str {
        "floor-spawn"
    }

    fn about(&self) -> &'static str {
        "spawn of /bin/true until it was waited for: one at a time, and on all cores"
    }

    fn nodes(&self) -> &'static [usize] {
        &[]
    }

    async fn measure(&self, stage: &Stage) -> Result<Vec<Figure>, Trouble> {
        let count = stage.size.of(500, 20);
        let spans = tokio::task::spawn_blocking(move || spawn("/bin/true", &[], count)).await??;
        let shells =
            tokio::task::spawn_blocking(move || spawn("/bin/sh", &["-e", "-c", "true"], count)).await??;
        let threads = std::thread::available_parallelism()?.get() * 2;
        let began = Instant::now();
        let all: Vec<_> = (0..threads)
            .map(|_| tokio::task::spawn_blocking(move || spawn("/bin/true", &[], count)))
            .collect();
        for one in all {
            one.await??;
        }
        Ok(vec![
            Figure::micros("median", median(&spans)),
            Figure::micros("99 of 100", percentile(&spans, 0.99)),
            Figure::micros("of a shell that does nothing, median", median(&shells)),
            Figure::per_second("on all cores at once", threads * count, began.elapsed()),
        ])
    }
}

fn spawn(program: &str, arguments: &[&str], count: usize) -> Result<Vec<Duration>, Trouble> {
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        let status = Command::new(program).args(arguments).status()?;
        spans.push(began.elapsed());
        must_be("its exit code", status.code(), Some(0))?;
    }
    Ok(spans)
}
