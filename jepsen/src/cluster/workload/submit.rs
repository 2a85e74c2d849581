//! **submit**: what was acknowledged exists once, what was refused never, and what was not answered at most once.
//!
//! Clients send each command to a node drawn at random, repeat it under its request id where no answer came, and
//! sometimes where one did. Start at [`Submit`]; [`broken`] is the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matins_client::Answered;
use matins_proto::Json;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{
    ApplyWorkflowsRequest, ListPoolsRequest, ListWorkflowsRequest, Run, SetPoolRequest, Source,
    StartRunRequest, SubmitRunRequest,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::report::Report;

use super::call::Call;
use super::doors::{Doors, Heard};
use super::{Site, Trouble, Until, Workload, runs};

const NAME: &str = "submit";

/// Clients that send at the same time.
const CLIENTS: u64 = 6;

/// How often a command is sent before its client gives up, which makes it a "maybe".
const SENDS_MAX: u32 = 6;

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A run of a workflow that is there.
    Start,
    /// A run of a workflow that takes one run at a time: some are refused, by the state.
    Gated,
    /// A run of a text.
    Submit,
    /// A pool.
    Pool,
    /// A workflow.
    Workflow,
    /// A run whose parameters do not fit.
    BadParams,
    /// A run of a workflow that is not there.
    Unknown,
    /// A run, under the request id of a command that was acknowledged.
    Reused,
}

/// What its client knows of a command in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Refused,
    Maybe,
}

/// One command, with all that was heard of it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) kind: Kind,
    /// Its own: what it makes can be told by it.
    pub(crate) key: String,
    pub(crate) fate: Fate,
    /// What the answers say was made: one thing, however often it was asked for.
    pub(crate) made: BTreeSet<String>,
    /// Why it was refused.
    pub(crate) refused: Vec<String>,
    pub(crate) sends: u32,
}

/// Everything that was sent, and what there is in the end: by key, the ids of things with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) sent: Vec<Sent>,
    pub(crate) there: BTreeMap<String, Vec<String>>,
}

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Submit {
    sent: Vec<Sent>,
}

#[tonic::async_trait]
impl Workload for Submit {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let hold = Call::hold(150).run(site, NAME)?;
        let params = "params: { key: string, count: { type: int, default: 1 } }\n";
        let text = format!(
            "workflow: cheap\n{params}tasks:\n  never: {{ when: 'false', run: [\"true\"] }}\n---\n\
             workflow: gated\nconcurrency: {{ max_active_runs: 1, on_full: skip }}\n{params}\
             tasks:\n  work: {{ run: {hold} }}\n"
        );
        runs::apply(&Doors::open(site)?, NAME, text.replace("key: string", "key: { type: string }")).await
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let mut client = Client {
                doors: Doors::open(site)?,
                random: StdRng::seed_from_u64(site.seed ^ (client << 32)),
                name: format!("c{}-{client}", site.seed),
                sent: Vec::new(),
            };
            let until = until.clone();
            clients.spawn(async move { client.work(&until).await.map(|()| client.sent) });
        }
        while let Some(ended) = clients.join_next().await {
            self.sent.extend(ended.map_err(|error| Trouble(format!("a client: {error}")))??);
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        // What was not answered may still be on its way; a node gives a command up after some seconds.
        sleep(Duration::from_secs(3)).await;
        runs::settle(site, NAME, within, report).await
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let history = History { sent: self.sent.clone(), there: there(&Doors::open(site)?).await? };
        let count = |fate| history.sent.iter().filter(|it| it.fate == fate).count() as u64;
        report.needs("submit: commands acknowledged", count(Fate::Done), 100);
        report.needs("submit: commands refused", count(Fate::Refused), 10);
        report.figure("submit: commands that remained unknown", count(Fate::Maybe));
        let repeats: u64 = history.sent.iter().map(|it| u64::from(it.sends.saturating_sub(1))).sum();
        report.needs("submit: repeats", repeats, 10);
        site.report(NAME, broken(&history), report);
        Ok(())
    }
}

/// Everything there is, by key.
async fn there(doors: &Doors) -> Result<BTreeMap<String, Vec<String>>, Trouble> {
    let mut there: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for run in runs::list(doors, NAME, &[]).await? {
        there.entry(key_of(&run)?).or_default().push(run.id);
    }
    let mut ask = ListPoolsRequest { page_size: 1_000, ..ListPoolsRequest::default() };
    loop {
        let answer = doors.surely(ask.clone()).await?;
        for pool in answer.pools.into_iter().filter(|pool| pool.name.starts_with("submit-")) {
            there.entry(pool.name.trim_start_matches("submit-").to_owned()).or_default().push(pool.name);
        }
        if answer.next_page_token.is_empty() {
            break;
        }
        ask.page_token = answer.next_page_token;
    }
    let mut ask = ListWorkflowsRequest { namespace: NAME.into(), page_size: 1_000, ..Default::default() };
    loop {
        let answer = doors.surely(ask.clone()).await?;
        for workflow in answer.workflows {
            if let Some(key) = workflow.name.strip_prefix("submit/made-") {
                // The number of its version tells how often it was made: the text is always another.
                let made = (0..workflow.version).map(|_| workflow.name.clone());
                there.entry(key.to_owned()).or_default().extend(made);
            }
        }
        if answer.next_page_token.is_empty() {
            return Ok(there);
        }
        ask.page_token = answer.next_page_token;
    }
}

fn key_of(run: &Run) -> Result<String, Trouble> {
    let params = run.params.as_ref().and_then(|params| params.value().ok());
    let key = params.as_ref().and_then(|params| params["key"].as_str()).map(str::to_owned);
    key.ok_or_else(|| Trouble(format!("{} has no key", run.id)))
}

/// One client.
struct Client {
    doors: Doors,
    random: StdRng,
    name: String,
    sent: Vec<Sent>,
}

impl Client {
    async fn work(&mut self, until: &Until) -> Result<(), Trouble> {
        let mut number = 0_u32;
        let mut acknowledged: Option<String> = None;
        while !until.is_over() {
            sleep(Duration::from_millis(self.random.random_range(40..160))).await;
            number += 1;
            let kind = match self.random.random_range(0..20) {
                0..9 => Kind::Start,
                9..12 => Kind::Gated,
                12 | 13 => Kind::Submit,
                14 | 15 => Kind::Pool,
                16 => Kind::Workflow,
                17 => Kind::BadParams,
                18 => Kind::Unknown,
                _ if acknowledged.is_some() => Kind::Reused,
                _ => Kind::Start,
            };
            let key = format!("{}-{number}", self.name);
            let request_id = match (kind, &acknowledged) {
                (Kind::Reused, Some(id)) => id.clone(),
                _ => format!("request-{key}"),
            };
            let sent = self.send(kind, key, &request_id, until).await?;
            if kind == Kind::Start && sent.fate == Fate::Done {
                acknowledged = Some(request_id);
            }
            self.sent.push(sent);
        }
        Ok(())
    }

    /// Sends until there is an answer, and once more now and then.
    async fn send(&mut self, kind: Kind, key: String, id: &str, until: &Until) -> Result<Sent, Trouble> {
        let (made, refused) = (BTreeSet::new(), Vec::new());
        let mut sent = Sent { kind, key, fate: Fate::Maybe, made, refused, sends: 0 };
        while sent.sends < SENDS_MAX {
            sent.sends += 1;
            let node = self.doors.any(&mut self.random);
            match self.once(kind, &sent.key, id, node).await? {
                Heard::Done(made) => {
                    sent.made.insert(made);
                    sent.fate = Fate::Done;
                    if self.random.random_bool(0.7) {
                        break;
                    }
                }
                // A node whose disk is full, say, answers for itself: another one may have done it, or will.
                Heard::Refused(answered) if answered.reason == Reason::Fault => {}
                Heard::Refused(answered) => {
                    sent.refused.push(answered.message.clone());
                    // After an acknowledgement it is noted, and the checker finds it.
                    if sent.fate == Fate::Maybe && is_final(&answered) {
                        sent.fate = Fate::Refused;
                    }
                    if sent.fate != Fate::Maybe {
                        break;
                    }
                }
                Heard::Maybe => {}
            }
            if until.is_over() {
                break;
            }
        }
        Ok(sent)
    }

    /// Sends once. A repeat is the same to the letter.
    async fn once(&self, kind: Kind, key: &str, id: &str, node: usize) -> Result<Heard<String>, Trouble> {
        let request_id = id.to_owned();
        let params = |count| Some(Json::from(serde_json::json!({ "key": key, "count": count })));
        let start = |workflow: &str, params| StartRunRequest {
            request_id: request_id.clone(),
            workflow: workflow.to_owned(),
            params,
            ..StartRunRequest::default()
        };
        let source = || {
            let path = format!("{key}.matins.yaml");
            let text = format!(
                "workflow: made-{key}\nparams: {{ key: {key} }}\ntasks:\n  never: {{ when: 'false', run: [\"true\"] }}\n"
            );
            Source { path, text, files: Vec::new() }
        };
        let ask = match kind {
            Kind::Start | Kind::Reused => start("submit/cheap", params(1.into())),
            Kind::Gated => start("submit/gated", params(1.into())),
            Kind::BadParams => start("submit/cheap", params(serde_json::json!("many"))),
            Kind::Unknown => start("submit/nowhere", params(1.into())),
            Kind::Submit => {
                let (source, namespace) = (Some(source()), NAME.to_owned());
                let ask = SubmitRunRequest { request_id, source, namespace, ..SubmitRunRequest::default() };
                return Ok(told(self.doors.at(node, ask).await?, |answer| answer.run_id));
            }
            Kind::Pool => {
                let ask = SetPoolRequest {
                    request_id,
                    name: format!("submit-{key}"),
                    slots: 1,
                    description: None,
                    not_after: None,
                };
                return Ok(told(self.doors.at(node, ask).await?, |answer| {
                    answer.pool.unwrap_or_default().name
                }));
            }
            Kind::Workflow => {
                let (sources, namespace) = (vec![source()], NAME.to_owned());
                let ask = ApplyWorkflowsRequest { request_id, sources, namespace, ..Default::default() };
                let name = |answer: matins_proto::v1::ApplyWorkflowsResponse| {
                    answer.documents.into_iter().map(|document| document.name).collect()
                };
                return Ok(told(self.doors.at(node, ask).await?, name));
            }
        };
        Ok(told(self.doors.at(node, ask).await?, |answer| answer.run_id))
    }
}

fn told<T>(heard: Heard<T>, made: impl FnOnce(T) -> String) -> Heard<String> {
    match heard {
        Heard::Done(answer) => Heard::Done(made(answer)),
        Heard::Refused(answered) => Heard::Refused(answered),
        Heard::Maybe => Heard::Maybe,
    }
}

/// Whether a refusal holds for good. Others say nothing about an earlier sending that was not answered.
fn is_final(answered: &Answered) -> bool {
    [
        Reason::Conflict,
        Reason::ParamsInvalid,
        Reason::WorkflowNotFound,
        Reason::RequestIdReused,
        Reason::DefinitionInvalid,
        Reason::BadArgument,
        Reason::NotInThisRelease,
    ]
    .contains(&answered.reason)
}

/// What was acknowledged exists once, as it was told; what was refused never; what is unknown at most once.
pub(crate) fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    let mut asked = BTreeSet::new();
    for Sent { kind, key, fate, made, refused, sends } in &history.sent {
        asked.insert(key.as_str());
        let there = history.there.get(key).map_or(&[][..], Vec::as_slice);
        let count = there.len();
        let mut say = |what: String| broken.push(format!("{kind:?} {key}, sent {sends} times: {what}"));
        match fate {
            Fate::Done if count != 1 => {
                say(format!("I10: it was acknowledged, and exists {count} times: {there:?}"));
            }
            Fate::Refused if count > 0 => {
                say(format!("4.6: it was refused ({refused:?}), and exists: {there:?}"));
            }
            Fate::Maybe if count > 1 => say(format!("I3: it exists {count} times: {there:?}")),
            Fate::Done | Fate::Refused | Fate::Maybe => {}
        }
        if made.len() > 1 || (*fate == Fate::Done && count == 1 && made.first() != there.first()) {
            say(format!("4.6: the answers name {made:?}, and there is {there:?}"));
        }
        if *fate == Fate::Done && !refused.is_empty() {
            say(format!("4.6: it was acknowledged and refused: {refused:?}"));
        }
        let may_be_done =
            matches!(kind, Kind::Start | Kind::Gated | Kind::Submit | Kind::Pool | Kind::Workflow);
        let may_be_refused = !matches!(kind, Kind::Start | Kind::Submit | Kind::Pool | Kind::Workflow);
        if !may_be_done && (*fate == Fate::Done || count > 0) {
            say("it was accepted, and had to be refused".to_owned());
        }
        if !may_be_refused && *fate == Fate::Refused {
            say(format!("it was refused without a cause: {refused:?}"));
        }
    }
    for (key, there) in history.there.iter().filter(|(key, _)| !asked.contains(key.as_str())) {
        broken.push(format!("{key} exists and nobody asked for it: {there:?}"));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(kind: Kind, fate: Fate, made: &[&str], there: &[&str]) -> History {
        let owned = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let made = owned(made).into_iter().collect();
        let sent = Sent { kind, key: "k".into(), fate, made, refused: Vec::new(), sends: 2 };
        let there = BTreeMap::from([("k".to_owned(), owned(there))]);
        History { sent: vec![sent], there }
    }

    #[test]
    fn what_may_be_is_right() {
        for history in [
            history(Kind::Start, Fate::Done, &["run-1"], &["run-1"]),
            history(Kind::Start, Fate::Maybe, &[], &[]),
            history(Kind::Start, Fate::Maybe, &[], &["run-1"]),
            history(Kind::Gated, Fate::Refused, &[], &[]),
            history(Kind::BadParams, Fate::Refused, &[], &[]),
        ] {
            assert_eq!(broken(&history), Vec::<String>::new(), "{history:?}");
        }
    }

    #[test]
    fn what_may_not_be_is_found() {
        for (history, what) in [
            (history(Kind::Start, Fate::Done, &["run-1"], &[]), "exists 0 times"),
            (history(Kind::Start, Fate::Done, &["run-1"], &["run-1", "run-2"]), "exists 2 times"),
            (history(Kind::Start, Fate::Done, &["run-1"], &["run-2"]), "the answers name"),
            (history(Kind::Start, Fate::Done, &["run-1", "run-2"], &["run-1"]), "the answers name"),
            (history(Kind::Gated, Fate::Refused, &[], &["run-1"]), "it was refused"),
            (history(Kind::Start, Fate::Maybe, &[], &["run-1", "run-2"]), "exists 2 times"),
            (history(Kind::Start, Fate::Refused, &[], &[]), "without a cause"),
            (history(Kind::Reused, Fate::Done, &["run-1"], &["run-1"]), "had to be refused"),
            (history(Kind::Unknown, Fate::Maybe, &[], &["run-1"]), "had to be refused"),
        ] {
            let found = broken(&history);
            assert!(found.len() == 1 && found[0].contains(what), "{history:?}: {found:?}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_found() {
        let there = BTreeMap::from([("x".to_owned(), vec!["run-1".to_owned()])]);
        assert_eq!(broken(&History { sent: Vec::new(), there }).len(), 1);
    }

    #[test]
    fn an_answer_that_is_taken_back_is_found() {
        let mut history = history(Kind::Start, Fate::Done, &["run-1"], &["run-1"]);
        history.sent[0].refused.push("no".into());
        assert_eq!(broken(&history).len(), 1);
    }
}
