//! PROTOCOL 3, by scripts. Times are UTC.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Command as Line, Context};
use matins_core::ir::{Catchup, CatchupPolicy};
use matins_core::{Answer, Refusal};
use matins_workflow::calendar::parse_duration;

use super::*;
use crate::lead::testing::{Cluster, Echo, instant, schedule, schedule_id, shown, workflow};

/// A cluster, and a leader that proposes what the planner says.
struct Script {
    cluster: Cluster,
    calendars: Calendars,
    /// The last Fire, which `late` proposes again.
    last: Option<Command>,
}

impl Script {
    fn new() -> Self {
        let start = instant("2026-01-01").expect("a time");
        Self { cluster: Cluster::new(start), calendars: Calendars::default(), last: None }
    }

    /// Adds workflow `etl/NAME` with one schedule.
    fn add(&mut self, line: &Line) -> Result<String, Box<dyn Error>> {
        let mut args = line.consume_args();
        let name = args.next_pos().ok_or("which name?")?;
        let mut spec = schedule(args.take_key("cron").unwrap_or("0 * * * *"));
        let policy = match args.take_key("catchup").unwrap_or("latest") {
            "none" => CatchupPolicy::None,
            "latest" => CatchupPolicy::Latest,
            "all" => CatchupPolicy::All,
            other => return Err(format!("no policy {other}").into()),
        };
        let window = parse_duration(args.take_key("window").unwrap_or("7d"))?;
        let limit = args.take_key("limit").unwrap_or("100").parse()?;
        spec.catchup = Catchup { policy, window, limit };
        spec.timezone = args.take_key("zone").unwrap_or("UTC").into();
        if let Some(param) = args.take_key("param") {
            spec.params.insert(param.parse()?, "null".into());
        }
        args.reject_next()?;
        let mut definition = workflow(name);
        definition.schedules.push(spec);
        Ok(answer(self.cluster.define(definition).map(|()| Answer::Done)))
    }

    /// Proposes what is due until nothing is, in order of what is due.
    fn due(&mut self) -> String {
        let mut out = String::new();
        loop {
            let now = self.cluster.at;
            let due = self.cluster.state.due.range(..=(now, schedule_id("zzz")));
            let due: Vec<ScheduleId> = due.map(|((_, id), ())| id.clone()).collect();
            let Some(id) = due.first() else { return out };
            let Some(command) = self.plan(id) else { return out + "nothing\n" };
            out += &show(&command);
            self.last = Some(command.clone());
            if let Err(refusal) = self.cluster.ask(command) {
                return out + &answer(Err(refusal));
            }
        }
    }

    fn plan(&mut self, id: &ScheduleId) -> Option<Command> {
        let mut tools = TickTools { calendars: &mut self.calendars, resolve: &Echo };
        decide_due(&self.cluster.state, self.cluster.at, id, &mut tools)
    }
}

fn answer(result: Result<Answer, Refusal>) -> String {
    match result {
        Ok(_) => String::new(),
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

/// A Fire in a few lines: long rows of runs by their ends.
fn show(command: &Command) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "planners of ticks make only these")]
    match command {
        Command::Fire(fire) => {
            let next = fire.next.map_or("never".into(), shown);
            let mut out =
                format!("Fire {} mark={} next={next}\n", fire.schedule.workflow.name, shown(fire.to_mark));
            let mut runs = Vec::new();
            for decision in &fire.decisions {
                match decision {
                    Decision::Run(tick) => runs.push(tick),
                    Decision::Skip { from, to, count, reason } => {
                        show_runs(&mut out, &std::mem::take(&mut runs));
                        let (from, to, reason) = (shown(*from), shown(*to), reason.as_str());
                        writeln!(out, "  skip {count} {from}..{to}: {reason}").expect("text grows");
                    }
                }
            }
            show_runs(&mut out, &runs);
            out
        }
        Command::Quarantine { schedule, reason, .. } => format!("Quarantine {schedule}: {reason}\n"),
        other => format!("{other:?}\n"),
    }
}

fn show_runs(out: &mut String, runs: &[&Tick]) {
    let line = |tick: &Tick| {
        let times = format!("{} (from {})", shown(tick.logical_time), shown(tick.interval_start));
        match &tick.params {
            Ok(_) => times,
            Err(error) => format!("{times} fails: {error}"),
        }
    };
    match runs {
        [] => {}
        [first, .., last] if runs.len() > 3 => {
            writeln!(out, "  run {} {} .. {}", runs.len(), line(first), line(last)).expect("text grows");
        }
        few => few.iter().for_each(|tick| writeln!(out, "  run {}", line(tick)).expect("text grows")),
    }
}

impl goldenscript::Runner for Script {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = line.consume_args();
        let argument = args.next_pos();
        let is_time = matches!(line.name.as_str(), "wait" | "outage");
        let id = argument.filter(|_| !is_time).map(schedule_id);
        let cluster = &mut self.cluster;
        match (line.name.as_str(), id) {
            ("schedule", _) => self.add(line),
            ("due", None) => Ok(self.due()),
            // Time goes on in steps of a minute, as a leader that lives writes it; nobody decides ticks meanwhile.
            ("wait", None) => {
                let until = instant(argument.ok_or("until when?")?)?;
                while cluster.at < until {
                    cluster.time(until.min(cluster.at + Millis::from_mins(1)));
                }
                Ok(String::new())
            }
            // Nobody leads until then.
            ("outage", None) => {
                cluster.time(instant(argument.ok_or("until when?")?)?);
                Ok(String::new())
            }
            ("pause", Some(id)) => Ok(answer(cluster.ask(Command::PauseSchedule(id)))),
            ("resume", Some(id)) => Ok(answer(cluster.ask(Command::ResumeSchedule(id)))),
            ("delete", Some(id)) => Ok(answer(cluster.ask(Command::DeleteWorkflow(id.workflow)))),
            // The last Fire comes once more, from a leader that did not see what happened since.
            ("late", None) => Ok(answer(cluster.ask(self.last.clone().ok_or("no Fire yet")?))),
            ("plan", Some(id)) => Ok(self.plan(&id).map_or("nothing\n".into(), |command| {
                let text = show(&command);
                self.last = Some(command);
                text
            })),
            ("counts", Some(id)) => {
                let row = cluster.state.schedules.get(&id).ok_or("no such schedule")?;
                let next = row.next.due_at().map_or("never".into(), shown);
                let (runs, skips, mark) = (row.counts.runs, row.counts.skips, shown(row.mark));
                Ok(format!("mark={mark} next={next} runs={runs} skips={skips:?}\n"))
            }
            ("tables", None) => {
                let command = recalculate(&cluster.state, &mut self.calendars, "next year's");
                let Some(command) = command else { return Ok("the same\n".into()) };
                Ok(show(&command) + &answer(cluster.ask(command)))
            }
            (name, _) => Err(format!("there is no command {name}").into()),
        }
    }
}

#[test]
fn scripts() -> Result<(), Box<dyn Error>> {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lead/ticks/scripts");
    for entry in std::fs::read_dir(scripts)? {
        goldenscript::run(&mut Script::new(), entry?.path())?;
    }
    Ok(())
}

#[test]
fn a_leap_of_years_is_decided_in_bounded_slices() {
    let mut script = Script::new();
    let mut definition = workflow("seconds");
    definition.schedules.push(schedule("* * * * * *"));
    script.cluster.define(definition).expect("a workflow");
    script.due();
    script.cluster.time(instant("2026-01-11").expect("a time"));
    let (mut slices, mut skipped, mut runs) = (0, 0, 0);
    let id = schedule_id("seconds");
    // The ticks of the last ten minutes are not missed.
    while script.cluster.state.schedules.get(&id).expect("it is there").mark
        < script.cluster.at - Millis::from_mins(10) - Millis(1)
    {
        let Some(Command::Fire(fire)) = script.plan(&id) else { panic!("a Fire is due") };
        for decision in &fire.decisions {
            match decision {
                Decision::Run(_) => runs += 1,
                Decision::Skip { count, .. } => skipped += count,
            }
        }
        assert!(fire.decisions.len() <= RUNS_PER_FIRE + 2);
        script.cluster.ask(Command::Fire(fire)).expect("nothing has moved on");
        slices += 1;
    }
    // Of 863,399 missed ticks the newest runs.
    assert_eq!((skipped, slices), (863_398, 18));
    assert!(runs >= 1, "the newest missed one runs");
}
