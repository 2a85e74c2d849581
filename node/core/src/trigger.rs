//! Trigger rules: whether the states of a task's upstream tasks let it run (LANGUAGE 1.10).
//!
//! Pure functions of counts. Values and meaning are Airflow's, held by a table measured on it
//! (`tests/trigger_rules.rs`). Never asks who the upstream tasks are: a fan-out counts as one task and a failed
//! `allow_failure` task as a success before it comes here (LANGUAGE 1.11, 1.12). Start reading at [`decide`].

use crate::ir::TriggerRule;

/// How many upstream tasks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ended in `success`, or in `failed` with `allow_failure`.
    pub success: u32,
    /// Ended in `skipped`.
    pub skipped: u32,
    /// Ended in `failed` or `cancelled`.
    pub failed: u32,
    /// Never ran, because something before them failed.
    pub upstream_failed: u32,
    /// Have not ended.
    pub unfinished: u32,
}

impl Counts {
    /// Of how many tasks; zero for a task without `needs`.
    pub const fn total(&self) -> u32 {
        self.success + self.skipped + self.broken() + self.unfinished
    }

    /// How many ended without doing their work.
    const fn broken(&self) -> u32 {
        self.failed + self.upstream_failed
    }
}

/// What a trigger rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule is met, for good: no later state of an upstream task takes it back.
    Run,
    /// Not yet: it depends on upstream tasks that have not ended.
    Wait,
    /// Can no longer be met: the task is skipped.
    Skip,
    /// Can no longer be met, because something failed.
    UpstreamFailed,
}

/// Whether a task under `rule` may run. Without any upstream task every rule is met, as in Airflow.
pub const fn decide(rule: TriggerRule, upstream: &Counts) -> Verdict {
    if upstream.total() == 0 {
        return Verdict::Run;
    }
    let all_ended = upstream.unfinished == 0;
    match rule {
        // A failure is said before a skip, and neither waits for the rest.
        TriggerRule::AllSuccess | TriggerRule::NoneFailed if upstream.broken() > 0 => Verdict::UpstreamFailed,
        TriggerRule::AllSuccess if upstream.skipped > 0 => Verdict::Skip,
        TriggerRule::OneFailed if upstream.broken() > 0 => Verdict::Run,
        TriggerRule::OneSuccess if upstream.success > 0 => Verdict::Run,
        TriggerRule::AllSuccess
        | TriggerRule::AllDone
        | TriggerRule::NoneFailed
        | TriggerRule::OneFailed
        | TriggerRule::OneSuccess
            if !all_ended =>
        {
            Verdict::Wait
        }
        TriggerRule::AllSuccess | TriggerRule::AllDone | TriggerRule::NoneFailed => Verdict::Run,
        // Only where all were skipped is there nobody to blame.
        TriggerRule::OneSuccess if upstream.broken() > 0 => Verdict::UpstreamFailed,
        TriggerRule::OneFailed | TriggerRule::OneSuccess => Verdict::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_upstream_tasks_every_rule_is_met() {
        for rule in [
            TriggerRule::AllSuccess,
            TriggerRule::AllDone,
            TriggerRule::NoneFailed,
            TriggerRule::OneFailed,
            TriggerRule::OneSuccess,
        ] {
            assert_eq!(decide(rule, &Counts::default()), Verdict::Run, "{rule:?}");
        }
    }
}
