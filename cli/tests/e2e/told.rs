//! What processes tell by plain HTTP, asked with curl, and read as a scraper reads it.

use std::process::Command;

use prometheus_parse::{Sample, Scrape, Value};

/// Asks by HTTP at `host:port`; gives the status and the body. Status 0: nobody answers.
pub(crate) fn http(endpoint: &str, path: &str) -> (u16, String) {
    let url = format!("http://{endpoint}{path}");
    let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}", &url]).output();
    let output = output.expect("curl is installed, as CONTRIBUTING says");
    let text = String::from_utf8(output.stdout).expect("the answer is text");
    let (body, status) = text.rsplit_once('\n').expect("the status comes last");
    (status.parse().unwrap_or(0), body.to_owned())
}

/// All that a process tells of itself.
pub(crate) struct Told(Vec<Sample>);

impl Told {
    pub(crate) fn at(endpoint: &str) -> Self {
        let (status, text) = http(endpoint, "/metrics");
        assert_eq!(status, 200);
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        Self(Scrape::parse(lines).expect("a scraper can read it").samples)
    }

    /// The sum of all series of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, ("", "")).unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The sum of those with this label; `None`: there are none.
    pub(crate) fn sum_where(&self, name: &str, (label, text): (&str, &str)) -> Option<f64> {
        let named = self.0.iter().filter(|sample| sample.metric == name);
        let found = named.filter(|sample| label.is_empty() || sample.labels.get(label) == Some(text));
        let value = |sample: &Sample| match &sample.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => *value,
            Value::Histogram(_) | Value::Summary(_) => panic!("{name} is no number"),
        };
        found.map(value).reduce(|sum, value| sum + value)
    }
}
