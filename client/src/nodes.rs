//! The nodes of a cluster as a client sees them: where they are, which one answered last, and the walk from one to
//! the next. It repeats whatever it is given, so it must only be given what may be repeated.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::call::Route;
use crate::error::{Answered, ClientError, Delay, Failure, Verdict};
use matins_proto::v1::error::Reason;

/// How long a client tries.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection to be made.
    pub connect_max: Duration,
    /// For one node to answer; it is counted anew at the next one.
    pub attempt_max: Duration,
    /// For all attempts together. A watch counts from the last message it heard.
    pub total_max: Duration,
    /// How long a stream may be silent. Nodes send something every 5 s.
    pub silence_max: Duration,
}

impl Default for Limits {
    /// A change of leader takes 5 s at worst (PROTOCOL 2.5); these outlast some in a row.
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(2),
            attempt_max: Duration::from_secs(10),
            total_max: Duration::from_secs(30),
            silence_max: Duration::from_secs(15),
        }
    }
}

/// All nodes that a client may ask.
#[derive(Debug)]
pub(crate) struct Nodes {
    all: Vec<Node>,
    /// Position of the one that answered last; the first one before any did.
    preferred: AtomicUsize,
    pub(crate) limits: Limits,
    /// Who is told of a walk that takes long.
    listener: OnceLock<Listener>,
}

/// Hears of walks that had no answer for some time.
struct Listener {
    after: Duration,
    tell: Box<dyn Fn(&Delay) + Send + Sync>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("after", &self.after).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Node {
    endpoint: String,
    channel: Channel,
}

/// Which of the nodes, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeAt(usize);

impl Nodes {
    /// Reads `host:port`, several with commas; `http://` may stand before each. Connects to none yet.
    pub(crate) fn new(endpoints: &str, limits: Limits) -> Result<Self, ClientError> {
        let all: Result<Vec<_>, _> =
            endpoints.split(',').map(|text| Node::new(text.trim(), limits)).collect();
        Ok(Self { all: all?, preferred: AtomicUsize::new(0), limits, listener: OnceLock::new() })
    }

    /// From now on tells of each walk that had no answer for so long, once.
    pub(crate) fn tell_of_delays(&self, after: Duration, tell: Box<dyn Fn(&Delay) + Send + Sync>) {
        // Whoever listens already goes on listening.
        let _ = self.listener.set(Listener { after, tell });
    }

    /// Asks node after node until one answers, the one that answered last first.
    ///
    /// After a whole round without an answer it pauses, a little longer each time. Gives the answer and who gave it.
    ///
    /// A node at work on the request has `patience` longer to answer. Nodes that know of no leader are not at work, and are
    /// not waited for any longer than without it.
    pub(crate) async fn ask<T, F, A>(
        &self,
        route: Route,
        patience: Duration,
        attempt: F,
    ) -> Result<(T, NodeAt), ClientError>
    where
        F: Fn(Channel) -> A,
        A: Future<Output = Result<T, Status>>,
    {
        let mut round = Round::new(self, route, patience);
        while let Some((at, node, left)) = round.next().await {
            let (attempt_max, began) = (left.min(self.limits.attempt_max) + round.patience, Instant::now());
            let answer = timeout(attempt_max, attempt(node.channel.clone())).await;
            match answer {
                Ok(Ok(answer)) => {
                    self.preferred.store(at.0, Ordering::Relaxed);
                    return Ok((answer, at));
                }
                Ok(Err(status)) => round.failed(at, &status, began.elapsed())?,
                Err(_) => round.silent(at, attempt_max)?,
            }
        }
        Err(round.given_up())
    }

    /// Prefers another node than this one from now on, unless some call has found a better one already.
    pub(crate) fn leave(&self, at: NodeAt) {
        let next = (at.0 + 1) % self.all.len();
        let _ = self.preferred.compare_exchange(at.0, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What the user called that node.
    pub(crate) fn endpoint(&self, at: NodeAt) -> &str {
        &self.all[at.0].endpoint
    }
}

impl Node {
    fn new(text: &str, limits: Limits) -> Result<Self, ClientError> {
        let bad = |why| ClientError::Endpoint { text: text.to_owned(), why };
        if text.starts_with("https://") {
            return Err(bad("TLS is not part of this release"));
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("it has no port"))?;
        if host.is_empty() {
            return Err(bad("it has no host"));
        }
        port.parse::<u16>().map_err(|_| bad("its port is not a number up to 65535"))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| bad("it is not a host and a port"))?;
        let channel = endpoint
            .connect_timeout(limits.connect_max)
            .tcp_nodelay(true)
            // A node that is gone without a word is noticed within 5 s, also by a silent watch.
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self { endpoint: address.to_owned(), channel })
    }
}

/// The state of one walk.
struct Round<'a> {
    nodes: &'a Nodes,
    route: Route,
    began: Instant,
    deadline: Instant,
    /// How much longer nodes at work may take.
    patience: Duration,
    is_told: bool,
    next: usize,
    /// Of each node that failed so far the last failure, in the order in which they were first tried.
    failures: Vec<(usize, Answered)>,
    /// Failures since the last pause.
    in_a_row: usize,
    backoff: Backoff,
    /// The next attempt is not made before.
    not_before: Option<Instant>,
    /// The last answer, if it may pass by itself: it stands if it does not.
    refusal: Option<(usize, Answered)>,
}

impl<'a> Round<'a> {
    fn new(nodes: &'a Nodes, route: Route, patience: Duration) -> Self {
        let next = match route {
            Route::Any => nodes.preferred.load(Ordering::Relaxed),
            Route::First => 0,
        };
        let began = Instant::now();
        Self {
            nodes,
            route,
            began,
            deadline: began + nodes.limits.total_max,
            patience,
            is_told: false,
            next,
            failures: Vec::new(),
            in_a_row: 0,
            backoff: Backoff::default(),
            not_before: None,
            refusal: None,
        }
    }

    /// How many nodes there are to walk.
    fn length(&self) -> usize {
        match self.route {
            Route::Any => self.nodes.all.len(),
            Route::First => 1,
        }
    }

    /// Who is to be asked next, and how much time is left; `None` when there is none.
    async fn next(&mut self) -> Option<(NodeAt, &'a Node, Duration)> {
        if let Some(instant) = self.not_before.take() {
            if instant >= self.deadline {
                return None;
            }
            self.tell();
            sleep_until(instant).await;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let at = self.next;
        (!left.is_zero()).then(|| (NodeAt(at), &self.nodes.all[at], left))
    }

    /// Tells whoever listens, if it has taken long, and was not told yet.
    fn tell(&mut self) {
        let Some(listener) = self.nodes.listener.get() else { return };
        if self.is_told || self.began.elapsed() < listener.after {
            return;
        }
        self.is_told = true;
        let said = self.refusal.as_ref().map_or(&self.failures[..], std::slice::from_ref);
        let left = self.deadline.saturating_duration_since(Instant::now());
        (listener.tell)(&Delay { failures: self.named(said), left });
    }

    /// The same with the names of the nodes.
    fn named(&self, said: &[(usize, Answered)]) -> Vec<Failure> {
        let failure = |(at, answered): &(usize, Answered)| {
            let Answered { code, reason, message, .. } = answered.clone();
            Failure { endpoint: self.nodes.all[*at].endpoint.clone(), code, reason, message }
        };
        said.iter().map(failure).collect()
    }

    /// Gives what a node took for its work, as far as there is patience for it, to those that are asked next.
    fn prolong(&mut self, took: Duration) {
        let prolonged = took.min(self.patience);
        self.patience -= prolonged;
        self.deadline += prolonged;
    }

    /// Notes a failure and decides what it means: a final answer, or who is next, and when.
    fn failed(&mut self, NodeAt(at): NodeAt, status: &Status, took: Duration) -> Result<(), ClientError> {
        let endpoint = &self.nodes.all[at].endpoint;
        tracing::debug!(endpoint, code = ?status.code(), message = status.message(), "no answer");
        let answered = Answered::from(status);
        match Verdict::of(status) {
            Verdict::Final => return Err(ClientError::Answered(Box::new(answered))),
            Verdict::Later(delay) => {
                // Not before that, and not in step with all others who heard the same. Another node may have room.
                self.not_before = Some(Instant::now() + delay.mul_f64(rand::random_range(1.0..1.5)));
                self.next = (at + 1) % self.length();
                self.refusal = Some((at, answered));
            }
            Verdict::Elsewhere => {
                self.refusal = None;
                if !answered.is_without_leader() {
                    self.prolong(took);
                }
                match self.failures.iter_mut().find(|(node, _)| *node == at) {
                    Some((_, last)) => *last = answered,
                    None => self.failures.push((at, answered)),
                }
                self.walk_on(at)?;
            }
        }
        Ok(())
    }

    /// Notes that a node gave no answer in time. What it said earlier tells more.
    fn silent(&mut self, NodeAt(at): NodeAt, within: Duration) -> Result<(), ClientError> {
        self.refusal = None;
        self.prolong(within);
        if !self.failures.iter().any(|(node, _)| *node == at) {
            let status = Status::deadline_exceeded(format!("no answer within {within:.1?}"));
            self.failures.push((at, Answered::from(&status)));
        }
        self.walk_on(at)
    }

    /// Goes to the next node, and pauses after a whole round.
    fn walk_on(&mut self, at: usize) -> Result<(), ClientError> {
        self.next = (at + 1) % self.length();
        self.in_a_row += 1;
        if self.in_a_row < self.length() {
            return Ok(());
        }
        // If every node waits to be told which cluster it is of, nothing will come of asking again.
        if self.failures.iter().all(|(_, answered)| answered.reason == Reason::NotInitialized)
            && let Some((_, answered)) = self.failures.pop()
        {
            return Err(ClientError::Answered(Box::new(answered)));
        }
        self.in_a_row = 0;
        self.not_before = Some(Instant::now() + self.backoff.pause());
        Ok(())
    }

    fn given_up(self) -> ClientError {
        let (within, failures) = (self.deadline - self.began, self.named(&self.failures));
        match self.refusal {
            Some((_, answered)) => ClientError::Answered(Box::new(answered)),
            None => ClientError::NoAnswer { within, failures, request_id: None },
        }
    }
}

/// Pauses that grow from 50 ms to 1 s, each drawn from the half around it, so that clients do not come in step.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    pauses: u32,
}

impl Backoff {
    /// How long the next pause is.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = Duration::from_millis(50 << self.pauses.min(5)).min(Duration::from_secs(1));
        self.pauses += 1;
        pause.mul_f64(rand::random_range(0.75..1.25))
    }
}
