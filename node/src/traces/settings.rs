//! Where spans go, by the environment variables that OpenTelemetry names.
//!
//! Only what they mean for spans over gRPC; what cannot be followed is a fault and not passed over in silence.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataKey, MetadataValue};

/// Where spans go.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The receiver, as `http://host:4317`.
    pub endpoint: String,
    /// What is sent along with each request.
    pub headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    /// How long a request may take.
    pub timeout: Duration,
    /// What the spans are said to come from, besides what a node knows of itself.
    pub resource: Vec<(String, String)>,
}

impl TraceSettings {
    /// Reads them. `None`: nothing asks for spans. An error has all faults.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Vec<String>> {
        let variable = |name: &str| variable(name).filter(|text| !text.is_empty());
        // What is said of traces alone goes over what is said of everything.
        let either = |name: &str| {
            let own = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let all = format!("OTEL_EXPORTER_OTLP_{name}");
            variable(&own).map(|text| (own, text)).or_else(|| variable(&all).map(|text| (all, text)))
        };
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|text| text == "none");
        let Some((name, endpoint)) = either("ENDPOINT").filter(|_| !is_off) else { return Ok(None) };
        let mut faults = Vec::new();
        if !endpoint.starts_with("http://") {
            faults.push(format!(
                "{name}: `{endpoint}` does not begin with `http://`; spans go without TLS, to a collector on this machine or network"
            ));
        }
        if let Some((name, protocol)) = either("PROTOCOL").filter(|(_, protocol)| protocol != "grpc") {
            faults.push(format!("{name}: `{protocol}` is not spoken here; use `grpc`, usually at port 4317"));
        }
        let timeout = either("TIMEOUT").map_or(Some(10_000), |(name, text)| {
            text.parse()
                .inspect_err(|_| faults.push(format!("{name}: `{text}` is no number of milliseconds")))
                .ok()
        });
        let mut headers = Vec::new();
        if let Some((name, text)) = either("HEADERS") {
            for (key, value) in pairs(&text) {
                match (key.parse(), value.parse()) {
                    (Ok(key), Ok(value)) => headers.push((key, value)),
                    _ => faults.push(format!("{name}: `{key}` is no header")),
                }
            }
        }
        let mut resource = pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        if let Some(service) = variable("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".into(), service));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let timeout = Duration::from_millis(timeout.unwrap_or(10_000));
        Ok(Some(Self { endpoint, headers, timeout, resource }))
    }
}

/// Reads `key=value,key=value`, with values percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    pairs.map(|(key, value)| (key.trim().to_owned(), decoded(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<TraceSettings>, Vec<String>> {
        TraceSettings::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn without_an_endpoint_nothing_is_sent() {
        assert!(read(&[]).unwrap().is_none());
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        assert!(read(&[endpoint]).unwrap().is_some());
        assert!(read(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
    }

    #[test]
    fn what_is_said_of_traces_goes_over_what_is_said_of_all() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=night%20shift,x-key=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,zone=a"),
            ("OTEL_SERVICE_NAME", "etl"),
        ]);
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.timeout.as_millis()), ("http://b:4317", 500));
        assert_eq!(settings.headers[0].1, "night shift");
        let resource: Vec<_> =
            settings.resource.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(resource, ["zone=a", "service.name=etl"]);
    }

    #[test]
    fn what_cannot_be_followed_is_a_fault() {
        let faults = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ]);
        assert_eq!(faults.unwrap_err().len(), 3);
    }
}
