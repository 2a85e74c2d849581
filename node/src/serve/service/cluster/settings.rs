//! The rules of the cluster as people read and write them: a key, and a value with its unit.

use matins_core::state::Settings;
use matins_core::state::settings::Change;
use matins_core::time::Millis;
use matins_proto::v1::Setting;
use matins_workflow::calendar::{parse_duration, parse_size};

use crate::serve::error::ApiError;

/// A rule that can be changed.
struct Rule {
    key: &'static str,
    description: &'static str,
    kind: Kind,
}

/// What a rule is made of: how it is read from the settings, and how a change is made.
enum Kind {
    Span(fn(&Settings) -> Millis, fn(Millis) -> Change),
    Bytes(fn(&Settings) -> u64, fn(u64) -> Change),
    Count(fn(&Settings) -> u64, fn(u64) -> Change),
}

/// Every rule that can be changed, by key.
const RULES: [Rule; 7] = [
    Rule {
        key: "grace",
        description: "A jump of leader time beyond this is an outage, whose ticks the catch-up policy decides.",
        kind: Kind::Span(|settings| settings.grace, Change::Grace),
    },
    Rule {
        key: "retention.history-bytes",
        description: "History with its large outputs takes so much of each node's disk; the oldest goes first.",
        kind: Kind::Bytes(|settings| settings.retention.history_bytes_max, Change::HistoryBytesMax),
    },
    Rule {
        key: "retention.logs",
        description: "Logs stay so long after their run has ended, unless its workflow says otherwise.",
        kind: Kind::Span(|settings| settings.retention.logs_age, Change::LogsAge),
    },
    Rule {
        key: "retention.logs-bytes",
        description: "Logs take so much of each node's disk; the oldest go first.",
        kind: Kind::Bytes(|settings| settings.retention.logs_bytes_max, Change::LogsBytesMax),
    },
    Rule {
        key: "retention.runs",
        description: "Finished runs stay so long after they have ended, unless their workflow says otherwise.",
        kind: Kind::Span(|settings| settings.retention.runs_age, Change::RunsAge),
    },
    Rule {
        key: "retention.runs-max",
        description: "So many finished runs stay; the oldest go first.",
        kind: Kind::Count(|settings| settings.retention.runs_max, Change::RunsMax),
    },
    Rule {
        key: "state-bytes",
        description: "What is live takes so much memory; above 80 % of it no new runs are made.",
        kind: Kind::Bytes(|settings| settings.state_bytes_max, Change::StateBytesMax),
    },
];

/// The rules as they are.
pub(crate) fn all(settings: &Settings) -> Vec<Setting> {
    let usual = Settings::default();
    let told = |rule: &Rule| Setting {
        key: rule.key.to_owned(),
        value: rule.kind.value(settings),
        usual: rule.kind.value(&usual),
        description: rule.description.to_owned(),
    };
    RULES.iter().map(told).collect()
}

/// A change of one rule, from the words of a person.
pub(crate) fn change(key: &str, value: &str) -> Result<Change, ApiError> {
    let Some(rule) = RULES.iter().find(|rule| rule.key == key) else {
        let keys: Vec<&str> = RULES.iter().map(|rule| rule.key).collect();
        return Err(ApiError::bad_field("settings", format!("there is no setting `{key}`"))
            .hint(format!("there are {}", keys.join(", "))));
    };
    rule.kind.change(value).map_err(|why| ApiError::bad_field("settings", format!("`{key}`: {why}")))
}

impl Kind {
    fn value(&self, settings: &Settings) -> String {
        match self {
            Self::Span(get, _) => get(settings).to_string(),
            Self::Bytes(get, _) => bytes(get(settings)),
            Self::Count(get, _) => get(settings).to_string(),
        }
    }

    fn change(&self, value: &str) -> Result<Change, String> {
        match self {
            Self::Span(_, make) => parse_duration(value).map(make).map_err(|fault| fault.to_string()),
            Self::Bytes(_, make) => parse_size(value).map(make).map_err(|fault| fault.to_string()),
            Self::Count(_, make) => value.parse().map(make).map_err(|_| format!("`{value}` is no number")),
        }
    }
}

const UNITS: [(&str, u32); 4] = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

/// In the largest unit that gives it exactly; what no unit does is told in the least one, and said so.
fn bytes(bytes: u64) -> String {
    let exact = UNITS.iter().find(|(_, shift)| bytes.is_multiple_of(1 << shift));
    exact.map_or_else(|| format!("{bytes} bytes"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_can_be_said() {
        for Setting { key, value, usual, .. } in all(&Settings::default()) {
            assert_eq!(value, usual);
            let settings = Settings::default().with(change(&key, &value).expect(&key));
            assert_eq!(settings, Settings::default(), "{key} {value}");
        }
        assert!(RULES.is_sorted_by_key(|rule| rule.key));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (key, value) in [
            ("retention.runs", "400"),
            ("retention.logs-bytes", "20GB"),
            ("retention.runs-max", "-1"),
            ("nonsense", "1"),
        ] {
            assert!(change(key, value).is_err(), "{key}={value}");
        }
    }
}
