//! Page tokens: opaque to clients, and good only for the list that gave them.

use matins_core::id::Digest;
use matins_proto::v1::error::Reason;

use super::error::ApiError;

/// Names a list and all that was asked of it: a token of another list must not be taken for one of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query(u64);

impl Query {
    /// `list` with everything that narrows it; the stale flag and the page itself left out.
    pub(crate) fn new(list: &str, asked: &impl std::fmt::Debug) -> Self {
        let digest = Digest::of(format!("{list} {asked:?}").as_bytes());
        let mut head = [0; 8];
        head.copy_from_slice(&digest.0[..8]);
        Self(u64::from_be_bytes(head))
    }

    /// The token of the page behind `last`.
    pub(crate) fn token(self, last: &str) -> String {
        format!("{:016x}.{last}", self.0)
    }

    /// What the page before ended with; `None`: this is the first.
    pub(crate) fn last(self, token: &str) -> Result<Option<&str>, ApiError> {
        if token.is_empty() {
            return Ok(None);
        }
        let own = token.split_once('.').filter(|(query, _)| *query == format!("{:016x}", self.0));
        own.map(|(_, last)| Some(last)).ok_or_else(invalid)
    }
}

/// A token that is of another list or another release.
pub(crate) fn invalid() -> ApiError {
    ApiError::new(Reason::PageTokenInvalid, "the page token is of another list, or of another release")
        .field("page_token", "not of this list")
        .hint("start again with the first page")
}

/// Cuts a page out of `rows`, which begin behind the page before: at most `size`, and the token of the next one.
pub(crate) fn cut<T>(
    rows: impl Iterator<Item = T>,
    size: usize,
    token: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let mut rows = rows.peekable();
    let page: Vec<T> = rows.by_ref().take(size).collect();
    let next = match (page.last(), rows.peek()) {
        (Some(last), Some(_)) => token(last),
        (Some(_) | None, _) => String::new(),
    };
    (page, next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_good_only_for_the_list_that_gave_it() {
        let runs = Query::new("runs", &("warehouse", 1));
        let token = runs.token("run-7");
        assert_eq!(runs.last(&token), Ok(Some("run-7")));
        assert_eq!(runs.last(""), Ok(None));
        for other in [Query::new("runs", &("warehouse", 2)), Query::new("pools", &("warehouse", 1))] {
            assert_eq!(other.last(&token), Err(invalid()));
        }
    }

    #[test]
    fn only_a_page_with_more_behind_it_has_a_token() {
        let cut_at = |size| cut(1..=3, size, ToString::to_string);
        assert_eq!(cut_at(2), (vec![1, 2], "2".to_owned()));
        assert_eq!(cut_at(3), (vec![1, 2, 3], String::new()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_is_refused(text in ".{0,40}", last in ".{0,20}") {
            let query = Query::new("runs", &1);
            let token = query.token(&last);
            prop_assert_eq!(query.last(&token), Ok(Some(last.as_str())));
            drop(query.last(&text));
        }
    }
}
