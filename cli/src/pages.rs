//! Walks the pages of a list up to a limit, and says when it was cut.

use std::ops::AsyncFnMut;

use matins_proto::v1::ReadAt;

use crate::context::Context;
use crate::fault::Fault;

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

/// Gathers up to `limit` rows. `fetch` is given the page's size and token.
pub(crate) async fn gather<R>(
    context: &Context,
    limit: usize,
    mut fetch: impl AsyncFnMut(u32, String) -> Result<Page<R>, Fault>,
) -> Result<Vec<R>, Fault> {
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
    if is_incomplete {
        context.say("note: this node still fetches old history, finished runs may be missing");
    }
    if !token.is_empty() {
        rows.truncate(limit);
        context.say(format!("note: only the first {limit} are shown, there are more: see --limit"));
    }
    Ok(rows)
}
