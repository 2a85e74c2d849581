//! Walks the pages of a list up to a limit, and says when it was cut. Shows it once, or as it changes.

use std::ops::AsyncFnMut;

use clap::Args;
use matins_proto::v1::ReadAt;

use crate::context::{Context, Outcome, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::live::watch;
use crate::output::Row;

/// The most that one page may have.
const PAGE_MAX: usize = 1_000;

/// Lists without a `--limit` end here: nobody reads more, and a program asks for what it needs.
pub(crate) const LIST_MAX: usize = 10_000;

/// One page of a list, as every list of the API gives it.
pub(crate) struct Page<R> {
    pub(crate) rows: Vec<R>,
    /// Empty: it is the last.
    pub(crate) next: String,
    pub(crate) read_at: Option<ReadAt>,
}

/// The flag of lists that can go on.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watching {
    /// Go on showing what changes
    #[arg(short, long)]
    watch: bool,
}

/// Shows a list of up to `limit` rows, once or as it changes. `fetch` is given the page's size and token.
pub(crate) async fn show<R: Row + PartialEq>(
    context: &Context,
    (limit, watching): (usize, Watching),
    mut fetch: impl AsyncFnMut(u32, String) -> Result<Page<R>, Fault>,
) -> Outcome {
    if watching.watch {
        let work = watch(context, async || Ok(collect(limit, &mut fetch).await?.rows));
        return until_interrupted(work, || "stopped watching".into()).await;
    }
    let rows = gather(context, limit, fetch).await?;
    context.list(&rows)?;
    Ok(Exit::Done)
}

/// What came of walking through pages.
struct Collected<R> {
    rows: Vec<R>,
    is_incomplete: bool,
    is_cut: bool,
}

/// Gathers up to `limit` rows, and tells when some are missing. `fetch` is given the page's size and token.
pub(crate) async fn gather<R>(
    context: &Context,
    limit: usize,
    mut fetch: impl AsyncFnMut(u32, String) -> Result<Page<R>, Fault>,
) -> Result<Vec<R>, Fault> {
    let Collected { rows, is_incomplete, is_cut } = collect(limit, &mut fetch).await?;
    if is_incomplete {
        context.say("note: this node still fetches old history, finished runs may be missing");
    }
    if is_cut {
        context.say(format!("note: only the first {limit} are shown, there are more: see --limit"));
    }
    Ok(rows)
}

async fn collect<R>(
    limit: usize,
    fetch: &mut impl AsyncFnMut(u32, String) -> Result<Page<R>, Fault>,
) -> Result<Collected<R>, Fault> {
    let (mut rows, mut token) = (Vec::new(), String::new());
    let mut is_incomplete = false;
    loop {
        let size = (limit - rows.len()).min(PAGE_MAX) as u32;
        let page = fetch(size, token).await?;
        is_incomplete |= page.read_at.is_some_and(|read_at| read_at.incomplete);
        rows.extend(page.rows);
        token = page.next;
        if token.is_empty() || rows.len() >= limit {
            break;
        }
    }
    rows.truncate(limit);
    Ok(Collected { rows, is_incomplete, is_cut: !token.is_empty() })
}
