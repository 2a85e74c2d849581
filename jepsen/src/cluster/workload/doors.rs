//! How a workload asks the cluster: as users do, through `matins-client`, at one node or at all of them.
//!
//! What has no answer is [`Heard::Maybe`]; nothing here ever decides that it failed. Start at [`Doors`].

use std::time::Duration;

use matins_client::{Answered, Call, Client, ClientError, Limits};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Site, Trouble};

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    Done(T),
    /// A final no. It holds for this request id if the reason is one that the cluster remembers.
    Refused(Box<Answered>),
    /// No answer: it may have been carried out, now or a little later.
    Maybe,
}

/// Clients of all nodes together, and of each alone.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    all: Client,
    each: Vec<Client>,
}

/// While faults come and go: long enough for a healthy node, short enough to try another one soon.
const HURRIED: Limits = Limits {
    connect_max: Duration::from_secs(1),
    attempt_max: Duration::from_secs(3),
    total_max: Duration::from_secs(3),
    silence_max: Duration::from_secs(3),
};

/// On a cluster that was just healed: longer than any recovery.
const PATIENT: Limits = Limits {
    connect_max: Duration::from_secs(2),
    attempt_max: Duration::from_secs(10),
    total_max: Duration::from_secs(90),
    silence_max: Duration::from_secs(15),
};

impl Doors {
    /// Opens them; connects only when something is asked.
    pub(crate) fn open(site: &Site) -> Result<Self, Trouble> {
        let client = |endpoints: &str, limits| {
            Client::new(endpoints, limits).map_err(|error| Trouble(format!("{endpoints}: {error}")))
        };
        let each: Result<_, _> = site.endpoints.split(',').map(|it| client(it.trim(), HURRIED)).collect();
        Ok(Self { all: client(&site.endpoints, PATIENT)?, each: each? })
    }

    /// A node drawn at random.
    pub(crate) fn any(&self, random: &mut StdRng) -> usize {
        random.random_range(0..self.each.len())
    }

    /// Asks a cluster that must answer: before and after the faults. Everything but an answer is trouble.
    pub(crate) async fn surely<C: Call>(&self, ask: C) -> Result<C::Answer, Trouble> {
        let answer = self.all.call(ask).await;
        answer.map_err(|error| Trouble(format!("{}: {error}", C::PATH)))
    }

    /// Asks all nodes in turn, for longer than any recovery takes.
    pub(crate) async fn patiently<C: Call>(&self, ask: C) -> Result<Heard<C::Answer>, Trouble> {
        heard(self.all.call(ask).await)
    }

    /// Asks one node for a short time.
    pub(crate) async fn at<C: Call>(&self, node: usize, ask: C) -> Result<Heard<C::Answer>, Trouble> {
        heard(self.each[node].call(ask).await)
    }
}

fn heard<T>(answer: Result<T, ClientError>) -> Result<Heard<T>, Trouble> {
    match answer {
        Ok(answer) => Ok(Heard::Done(answer)),
        Err(ClientError::Answered(answered)) => Ok(Heard::Refused(answered)),
        Err(ClientError::NoAnswer { .. }) => Ok(Heard::Maybe),
        Err(error @ (ClientError::Endpoint { .. } | ClientError::BadAnswer { .. })) => {
            Err(Trouble(error.to_string()))
        }
    }
}
