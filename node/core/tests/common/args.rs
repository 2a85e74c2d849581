//! The arguments of a line of a script, and what they spell.

use std::collections::BTreeMap;

use goldenscript::{Argument, Command as Line};
use matins_core::command::{
    After, Command, CreateBackfill, Decision, FullDisk, OpenSession, Refound, Retain,
};
use matins_core::id::{Digest, Fence, JournalId, LogIndex, NodeId, ScheduleId, SessionNumber};
use matins_core::state::settings::Change;
use matins_core::state::{LogPlace, Reprocess, SkipReason};
use matins_core::time::{Millis, Timestamp};

use super::Fault;

/// The arguments of a line: words, and `key=value`.
pub(crate) struct Args {
    words: Vec<String>,
    keys: BTreeMap<String, String>,
}

impl Args {
    pub(crate) fn of(line: &Line) -> Self {
        let (mut words, mut keys) = (Vec::new(), BTreeMap::new());
        for arg in &line.args {
            match arg.clone() {
                Argument::KeyValue(key, value) => {
                    keys.insert(key, value);
                }
                word => words.push(word.to_string()),
            }
        }
        Self { words, keys }
    }

    pub(crate) fn from_words(all: impl Iterator<Item = String>) -> Self {
        let (mut words, mut keys) = (Vec::new(), BTreeMap::new());
        for word in all {
            match word.split_once('=') {
                Some((key, value)) => {
                    keys.insert(key.to_owned(), value.to_owned());
                }
                None => words.push(word),
            }
        }
        Self { words, keys }
    }

    pub(crate) fn key(&mut self, name: &str) -> Option<String> {
        self.keys.remove(name)
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<u64>, Fault> {
        Ok(self.key(name).map(|text| text.parse()).transpose()?)
    }

    pub(crate) fn need(&mut self) -> Result<String, Fault> {
        if self.words.is_empty() { Err("a word is missing".into()) } else { Ok(self.words.remove(0)) }
    }

    pub(crate) fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words)
    }

    pub(crate) fn end(self) -> Result<(), Fault> {
        if self.words.is_empty() && self.keys.is_empty() {
            Ok(())
        } else {
            Err(format!("not understood: {:?} {:?}", self.words, self.keys).into())
        }
    }
}

pub(crate) fn seconds(text: &str) -> Result<Timestamp, Fault> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no time"))?;
    Ok(Timestamp::from_millis((seconds * 1000.0).round() as i64))
}

pub(crate) fn node(text: &str) -> Result<NodeId, Fault> {
    Ok(text.parse()?)
}

/// `w@s` is schedule `s` of workflow `test/w`.
pub(crate) fn schedule(text: &str) -> Result<ScheduleId, Fault> {
    let (workflow, schedule) = text.split_once('@').ok_or("a schedule is written w@s")?;
    Ok(ScheduleId { workflow: format!("test/{workflow}").parse()?, schedule: schedule.parse()? })
}

pub(crate) fn open_session(args: &mut Args) -> Result<Command, Fault> {
    let executor = node(&args.need()?)?;
    let session = SessionNumber(args.need()?.parse()?);
    let held = args.key("held").unwrap_or_default();
    let held = held.split('/').filter(|text| !text.is_empty()).map(|text| text.parse().map(Fence));
    let labels = args.key("labels").unwrap_or_default();
    let labels = labels.split('/').filter_map(|label| label.split_once('@'));
    Ok(Command::OpenSession(OpenSession {
        executor,
        session,
        boot: args.key("boot").unwrap_or_else(|| "boot".into()),
        journal: JournalId(args.number("journal")?.unwrap_or(1)),
        held: held.collect::<Result<_, _>>()?,
        name: executor.to_string(),
        slots: u32::try_from(args.number("slots")?.unwrap_or(2))?,
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        address: String::new(),
    }))
}

pub(crate) fn create_backfill(args: &mut Args) -> Result<Command, Fault> {
    let reprocess = match args.key("reprocess").as_deref() {
        None | Some("missing") => Reprocess::Missing,
        Some("failed") => Reprocess::Failed,
        Some(_) => Reprocess::All,
    };
    Ok(Command::CreateBackfill(CreateBackfill {
        schedule: schedule(&args.need()?)?,
        from: seconds(&args.need()?)?,
        to: seconds(&args.need()?)?,
        reprocess,
        active_max: u32::try_from(args.number("active")?.unwrap_or(1))?,
        newest_first: args.key("newest_first").is_some(),
        params: "{}".into(),
    }))
}

pub(crate) fn skip_decision(text: &str) -> Result<Decision, Fault> {
    let (range, reason) = text.split_once('@').ok_or("skip@FROM-TO@REASON")?;
    let (from, to) = range.split_once('-').ok_or("skip@FROM-TO@REASON")?;
    let reason = match reason {
        "paused" => SkipReason::Paused,
        "policy" => SkipReason::CatchupPolicy,
        "window" => SkipReason::CatchupWindow,
        _ => SkipReason::CatchupLimit,
    };
    Ok(Decision::Skip { from: seconds(from)?, to: seconds(to)?, count: 1, reason })
}

pub(crate) fn logs(args: &mut Args) -> Result<Vec<(Fence, LogPlace)>, Fault> {
    let place = |text: &str| match text {
        "lost" => LogPlace::Lost,
        pack => LogPlace::Pack { digest: Digest::of(pack.as_bytes()), offset: 0, bytes: 1 },
    };
    let logs = args.rest();
    let logs = logs.iter().map(|text| {
        let (fence, pack) = text.split_once('@').ok_or("logs FENCE@PACK")?;
        Ok((Fence(fence.parse()?), place(pack)))
    });
    logs.collect()
}

/// `refound 9`, and what goes on: `runs=on schedules=on executors=on`.
pub(crate) fn refound(args: &mut Args) -> Result<Command, Fault> {
    let cluster = args.need()?.parse()?;
    let mut after = |key: &str| if args.key(key).is_some() { After::GoesOn } else { After::Ends };
    let (schedules, runs, executors) = (after("schedules"), after("runs"), after("executors"));
    let last = LogIndex(args.number("last")?.unwrap_or(0));
    Ok(Command::Refound(Refound { cluster, last, schedules, runs, executors }))
}

/// `retain 1 2 logs=3/4`
pub(crate) fn retain(args: &mut Args) -> Result<Command, Fault> {
    let blocks = args.rest().iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let logs = args.key("logs").unwrap_or_default();
    let logs = logs.split('/').filter(|text| !text.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Command::Retain(Retain { blocks, logs }))
}

/// `disks` or `disks node-1 960`
pub(crate) fn disks(args: &mut Args) -> Result<Command, Fault> {
    let Ok(full) = args.need() else { return Ok(Command::Disks(None)) };
    let used_permille = args.need()?.parse()?;
    Ok(Command::Disks(Some(FullDisk {
        node: node(&full)?,
        path: "/data".into(),
        used_permille,
        limit_permille: 950,
    })))
}

/// `change runs=3600 logs=3600 runs_max=5`, ages in seconds.
pub(crate) fn change_settings(args: &mut Args) -> Result<Command, Fault> {
    let mut changes = Vec::new();
    changes.extend(args.number("runs")?.map(|age| Change::RunsAge(Millis::from_secs(age))));
    changes.extend(args.number("logs")?.map(|age| Change::LogsAge(Millis::from_secs(age))));
    changes.extend(args.number("runs_max")?.map(Change::RunsMax));
    Ok(Command::ChangeSettings(changes))
}
