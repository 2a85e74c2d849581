//! Many callers at once, each asking again as soon as it has its answer.
//!
//! They are tasks of this process, which shares the cores with the nodes; each 64 of them share a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matins_client::{Client, Limits};
use matins_proto::v1;
use tokio::task::JoinSet;

use crate::trouble::Trouble;

/// Callers on one connection.
const CALLERS_EACH: usize = 64;

/// Lets so many callers ask the node at `endpoint` for a span. `ask` is given who asks and how often it has, from 1. How long
/// each answer took, and all of it.
pub(crate) async fn keep_asking<Ask, Answer>(
    endpoint: &str,
    callers: usize,
    span: Duration,
    ask: Ask,
) -> Result<(Vec<Duration>, Duration), Trouble>
where
    Ask: Fn(Client, usize, u32) -> Answer + Clone + Send + 'static,
    Answer: Future<Output = Result<(), Trouble>> + Send,
{
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let mut client = Client::new(endpoint, Limits::default())?;
    let began = Instant::now();
    for caller in 0..callers {
        if caller % CALLERS_EACH == 0 {
            client = Client::new(endpoint, Limits::default())?;
            client.call(v1::ClusterStatusRequest {}).await?;
        }
        let (client, ask, is_over) = (client.clone(), ask.clone(), Arc::clone(&is_over));
        tasks.spawn(async move {
            let mut spans = Vec::new();
            while spans.is_empty() || !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                ask(client.clone(), caller, spans.len() as u32 + 1).await?;
                spans.push(began.elapsed());
            }
            Ok::<_, Trouble>(spans)
        });
    }
    tokio::time::sleep_until((began + span).into()).await;
    is_over.store(true, Ordering::Relaxed);
    let mut spans = Vec::new();
    while let Some(done) = tasks.join_next().await {
        spans.extend(done??);
    }
    Ok((spans, began.elapsed()))
}
