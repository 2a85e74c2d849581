//! Measures from outside how long the cluster could not be written to.

use std::time::Duration;

use matins_client::Client;
use matins_proto::v1::SetPoolRequest;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Between two commands.
const PAUSE: Duration = Duration::from_millis(50);

/// A longer time than this between two acknowledged commands counts as time without a leader.
const USUAL_MAX: Duration = Duration::from_millis(500);

/// Writes a cheap command again and again, and notes when it was acknowledged.
pub(super) struct Probe {
    task: JoinHandle<Outage>,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// Time without a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) count: u32,
    pub(super) total: Duration,
    pub(super) longest: Duration,
}

impl Outage {
    /// Takes in the time between two acknowledged commands.
    fn note(&mut self, gap: Duration) {
        if gap > USUAL_MAX {
            self.count += 1;
            self.total += gap;
            self.longest = self.longest.max(gap);
        }
    }
}

impl Probe {
    pub(super) fn start(client: Client) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        Self { task: tokio::spawn(run(client, stopped)), stop }
    }

    /// Ends it, and tells what it saw.
    pub(super) async fn stop(self) -> Outage {
        // It may have ended; then it has said what it saw.
        let _ = self.stop.send(());
        self.task.await.unwrap_or_default()
    }
}

async fn run(client: Client, mut stopped: tokio::sync::oneshot::Receiver<()>) -> Outage {
    let mut outage = Outage::default();
    let mut last: Option<Instant> = None;
    loop {
        let ask = SetPoolRequest { name: "demo-probe".into(), slots: 1, ..SetPoolRequest::default() };
        tokio::select! {
            answer = client.call(ask) => {
                if answer.is_ok() {
                    let now = Instant::now();
                    outage.note(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                }
            }
            _ = &mut stopped => return outage,
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_gaps_count() {
        let mut outage = Outage::default();
        for millis in [10, 400, 1_500, 60, 900] {
            outage.note(Duration::from_millis(millis));
        }
        let expected =
            Outage { count: 2, total: Duration::from_millis(2_400), longest: Duration::from_millis(1_500) };
        assert_eq!(outage, expected);
    }
}
