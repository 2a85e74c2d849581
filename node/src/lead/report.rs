//! What an executor's report means in the words of the core (PROTOCOL 5.8, 6.7). Pure; says what it does not take.

use matins_core::command::Finish;
use matins_core::id::{Digest, Fence};
use matins_core::state::{AttemptOutcome, LostReason, Output};
use matins_core::time::Timestamp;
use matins_proto::v1;
use serde_json::Value as Json;

/// An output up to this size lies in the state (DESIGN 5).
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The end of an attempt as its executor reports it. Never an error: what makes no sense fails the attempt and says so.
pub(crate) fn finish_of(report: v1::AttemptReport) -> Finish {
    let fence = Fence(report.fence);
    let reported = outcome_of(&report);
    // Only a success has outputs that count (LANGUAGE 1.13).
    let (outcome, output) = if reported == AttemptOutcome::Success {
        output_of(report.outputs)
            .map_or_else(|why| (AttemptOutcome::Error(why), None), |output| (AttemptOutcome::Success, output))
    } else {
        (reported, None)
    };
    let started_at = (report.started_at > 0).then(|| Timestamp::from_millis(report.started_at));
    Finish { fence, outcome, output, started_at, log_bytes: report.log_bytes }
}

fn outcome_of(report: &v1::AttemptReport) -> AttemptOutcome {
    use v1::attempt_report::Outcome;
    match &report.outcome {
        Some(Outcome::ExitCode(0)) if report.output_fault.is_empty() => AttemptOutcome::Success,
        Some(Outcome::ExitCode(0)) => AttemptOutcome::Error(report.output_fault.clone()),
        Some(Outcome::ExitCode(code)) => AttemptOutcome::Exit(*code),
        Some(Outcome::Signal(signal)) => AttemptOutcome::Signal(*signal),
        Some(Outcome::CouldNotStart(why)) => AttemptOutcome::Error(why.clone()),
        Some(Outcome::Lost(_)) => AttemptOutcome::Lost(LostReason::NotHeld),
        None => AttemptOutcome::Error("the executor reported no outcome".into()),
    }
}

fn output_of(outputs: Option<v1::attempt_report::Outputs>) -> Result<Option<Output>, String> {
    use v1::attempt_report::Outputs;
    match outputs {
        None => Ok(None),
        Some(Outputs::OutputsJson(text)) if text.len() > INLINE_BYTES_MAX => {
            Err(format!("the executor reported {} bytes of output, more than {INLINE_BYTES_MAX}", text.len()))
        }
        Some(Outputs::OutputsJson(text)) => match serde_json::from_str(&text) {
            Ok(Json::Object(_)) => Ok(Some(Output::Inline(text.into()))),
            Ok(_) | Err(_) => Err("the executor reported an output that is no JSON object".into()),
        },
        Some(Outputs::OutputsBlob(blob)) => match <[u8; 32]>::try_from(&blob.digest[..]) {
            Ok(digest) => Ok(Some(Output::Blob { digest: Digest(digest), bytes: blob.size })),
            Err(_) => Err("the executor reported an output without a digest".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use v1::attempt_report::{Outcome, Outputs};

    use super::*;

    fn outcome(outcome: Option<Outcome>, fault: &str, outputs: Option<Outputs>) -> AttemptOutcome {
        let report = v1::AttemptReport {
            fence: 1,
            outcome,
            output_fault: fault.into(),
            outputs,
            ..Default::default()
        };
        finish_of(report).outcome
    }

    #[test]
    fn only_exit_code_0_with_a_readable_output_is_success() {
        let json = |text: &str| Some(Outputs::OutputsJson(text.into()));
        assert_eq!(outcome(Some(Outcome::ExitCode(0)), "", json("{}")), AttemptOutcome::Success);
        assert_eq!(outcome(Some(Outcome::ExitCode(0)), "", None), AttemptOutcome::Success);
        assert_eq!(outcome(Some(Outcome::ExitCode(3)), "", json("{}")), AttemptOutcome::Exit(3));
        assert_eq!(outcome(Some(Outcome::Signal(9)), "", None), AttemptOutcome::Signal(9));
        for report in [
            outcome(Some(Outcome::ExitCode(0)), "no `=` in line 1", None),
            outcome(Some(Outcome::ExitCode(0)), "", json("[1]")),
            outcome(Some(Outcome::ExitCode(0)), "", json(&format!("{{\"a\":\"{}\"}}", "x".repeat(70_000)))),
            outcome(None, "", None),
        ] {
            assert!(matches!(report, AttemptOutcome::Error(_)), "{report:?}");
        }
    }

    proptest! {
        #[test]
        fn a_report_of_any_bytes_becomes_an_end(bytes in prop::collection::vec(any::<u8>(), 0..120), text in ".{0,40}") {
            if let Ok(report) = v1::AttemptReport::decode(&bytes[..]) {
                finish_of(report);
            }
            let outputs = Some(Outputs::OutputsJson(text));
            let outcome = Some(Outcome::ExitCode(0));
            let finish = finish_of(v1::AttemptReport { outcome, outputs, ..v1::AttemptReport::default() });
            prop_assert!(finish.output.is_none() || finish.outcome == AttemptOutcome::Success);
        }
    }
}
