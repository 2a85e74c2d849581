//! The executor's stream to the leader: finding the leader, opening a stream, opening it again (PROTOCOL 5.4).
//!
//! It knows nothing of sessions: it hands over each stream that opens, what comes in on it, and its end.

use std::time::Duration;

use matins_proto::v1::executor_link_client::ExecutorLinkClient;
use matins_proto::v1::leader_message::Message;
use matins_proto::v1::{ExecutorMessage, LeaderMessage};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::system;

/// Messages on their way to the leader. A start or a report is one; renewals are ten per session length.
const QUEUE_MAX: usize = 4_096;
/// A start message carries a rendered job: at most an entry's worth of text and some.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long to wait before the next attempt, first and at most: together with it reconnection stays below 0.5 s.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// Where a leader is, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAddress {
    /// Its cluster port, `host:port`.
    pub address: String,
    /// Its cluster; 0 if that is not known. Another cluster may answer at this address by now, and takes no stream of ours.
    pub cluster: u64,
}

/// What the leader's side tells the executor.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A stream to a leader of this cluster is open; closing it is `close`.
    Opened { to_leader: mpsc::Sender<ExecutorMessage>, close: CancellationToken, cluster: u64 },
    /// On the newest stream.
    Message(LeaderMessage),
    /// The newest stream is gone.
    Closed,
}

/// Keeps a stream open to whoever leads, until the receiver of `heard` is gone.
pub(crate) async fn keep(mut leader: watch::Receiver<Option<LeaderAddress>>, heard: mpsc::Sender<Heard>) {
    let mut wait = RETRY.0;
    let mut hint: Option<LeaderAddress> = None;
    loop {
        let known = leader.borrow_and_update().clone();
        let Some(address) = hint.take().or(known) else {
            if leader.changed().await.is_err() {
                return;
            }
            continue;
        };
        let ending = tokio::select! {
            ending = session(&address, &heard) => ending,
            // Another leader is known here: the old one may be cut off without any stream having broken.
            changed = other_leader(&mut leader, &address) => {
                if changed.is_err() {
                    return;
                }
                Ending::Moved
            }
        };
        tracing::debug!(leader = address.address, ?ending, "a stream to the leader ended");
        if !matches!(ending, Ending::Unreachable) && heard.send(Heard::Closed).await.is_err() {
            return;
        }
        wait =
            if matches!(ending, Ending::WasOpen | Ending::Moved) { RETRY.0 } else { (wait * 2).min(RETRY.1) };
        if let Ending::NotLeader(other) = ending {
            hint = other.filter(|other| *other != address);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = leader.changed() => {}
            () = heard.closed() => return,
        }
    }
}

#[derive(Debug)]
enum Ending {
    Unreachable,
    /// It was another node's turn, and perhaps it said whose.
    NotLeader(Option<LeaderAddress>),
    WasOpen,
    Moved,
}

async fn other_leader(
    leader: &mut watch::Receiver<Option<LeaderAddress>>,
    present: &LeaderAddress,
) -> Result<(), watch::error::RecvError> {
    loop {
        leader.changed().await?;
        if leader.borrow_and_update().as_ref().is_some_and(|other| other != present) {
            return Ok(());
        }
    }
}

/// One stream, from opening to end.
async fn session(address: &LeaderAddress, heard: &mpsc::Sender<Heard>) -> Ending {
    let Ok(channel) = connect(address).await else { return Ending::Unreachable };
    let (to_leader, messages) = mpsc::channel(QUEUE_MAX);
    let mut client = ExecutorLinkClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    // The answer's headers may come only with its first message, and that only after our first one: so the executor
    // hears of the stream before they are there.
    let close = CancellationToken::new();
    let cluster = address.cluster;
    if heard.send(Heard::Opened { to_leader, close: close.clone(), cluster }).await.is_err() {
        return Ending::WasOpen;
    }
    let receive = async {
        let Ok(answer) = client.session(ReceiverStream::new(messages)).await else {
            return Ending::NotLeader(None);
        };
        let mut answers = answer.into_inner();
        // A leader that does not take this executor ends the stream without a word.
        let mut ending = Ending::NotLeader(None);
        while let Ok(Some(message)) = answers.message().await {
            if let Some(Message::NotLeader(not_leader)) = &message.message {
                let named = !not_leader.leader.is_empty();
                let other = || LeaderAddress { address: not_leader.leader.clone(), cluster };
                return Ending::NotLeader(named.then(other));
            }
            ending = Ending::WasOpen;
            if heard.send(Heard::Message(message)).await.is_err() {
                break;
            }
        }
        ending
    };
    tokio::select! {
        ending = receive => ending,
        () = close.cancelled() => Ending::WasOpen,
    }
}

async fn connect(address: &LeaderAddress) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{}", address.address))?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    system::connect(&endpoint).await
}
