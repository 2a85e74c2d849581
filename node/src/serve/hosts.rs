//! The names under which plain HTTP is answered, so that no page of the web can read a node through a browser on its network.
//!
//! Whoever owns a name can have it mean 127.0.0.1, or any address that only the reader of his page reaches, and to the browser
//! the node then is the page's own server: it sends no `Origin` and lets the page read every answer (DNS rebinding). What it
//! cannot change is the name itself, which it sends as `Host`. gRPC needs HTTP/2 without TLS, which no browser speaks. Start
//! reading at [`Hosts::check`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, header};
use matins_proto::v1::error::Reason;

use super::error::ApiError;

/// Stands for whatever a name begins with.
const ANY: &str = "*";

/// Names by which a node may be asked, besides `localhost` and all IP addresses. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<BTreeSet<String>>);

impl Hosts {
    /// These, each as [`Hosts::fault`] allows it.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(names.into_iter().map(|name| plain(&name)).collect()))
    }

    /// What is wrong with a name: it is one host, `*.` and what all names below it end with, or `*` for any.
    pub fn fault(name: &str) -> Option<String> {
        let rest = name.strip_prefix("*.").unwrap_or(name);
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&letter);
        let is_name = !rest.is_empty() && !rest.starts_with('.') && rest.chars().all(is_letter);
        (name != ANY && !is_name).then(|| {
            format!("public_hosts: `{name}` is no name of a host; write matins.example.com, *.example.com, or * for any")
        })
    }

    /// The host of `HOST:PORT`.
    pub(crate) fn of_address(address: &str) -> Option<String> {
        let authority: Authority = address.parse().ok()?;
        Some(authority.host().to_owned())
    }

    /// An error unless the request asks for this node. One that names no host is no browser's.
    pub(crate) fn check(&self, request: &Request) -> Result<(), ApiError> {
        let of_target = request.uri().authority().map(|target| target.as_str().as_bytes());
        let of_header = request.headers().get_all(header::HOST).into_iter().map(HeaderValue::as_bytes);
        let mut foreign = of_target.into_iter().chain(of_header).filter(|host| !self.are_ours(host));
        foreign.next().map_or(Ok(()), |host| Err(refusal(&String::from_utf8_lossy(host))))
    }

    fn are_ours(&self, host: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(host) else { return false };
        let host = plain(authority.host());
        let ip = host.trim_matches(['[', ']']).split('%').next().unwrap_or_default();
        host == "localhost" || ip.parse::<IpAddr>().is_ok() || self.has(&host)
    }

    fn has(&self, host: &str) -> bool {
        let mut ends = host.match_indices('.').map(|(at, _)| format!("{ANY}{}", &host[at..]));
        self.0.contains(host) || self.0.contains(ANY) || ends.any(|end| self.0.contains(&end))
    }
}

/// One spelling for each name.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whoever asked meant another server, or was led here.
fn refusal(host: &str) -> ApiError {
    let name = Hosts::of_address(host).unwrap_or_else(|| host.to_owned());
    ApiError::new(
        Reason::Denied,
        format!(
            "`{name}` is no name of this node, and a page of the web might have made it mean this address"
        ),
    )
    .with("action", "ask under a name that is not this node's")
    .with("subject", name.clone())
    .hint(format!("ask by IP address, or name `{name}` in the setting `public_hosts` of the node"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn is_taken(hosts: &Hosts, target: &str, host: &[&str]) -> bool {
        let mut request = Request::get(target);
        for host in host {
            request = request.header(header::HOST, *host);
        }
        hosts.check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn names_are_those_of_the_node_and_addresses_are_all() {
        let hosts =
            Hosts::new(["n1.example".to_owned(), "*.Nodes.example".to_owned(), "10.0.0.1".to_owned()]);
        for host in [
            "localhost",
            "LocalHost:7070",
            "localhost.",
            "127.0.0.1:7070",
            "192.168.1.9",
            "[::1]:7070",
            "[2001:db8::7]",
            "n1.example:7070",
            "N1.EXAMPLE.",
            "a.nodes.example",
            "a.b.nodes.example:80",
        ] {
            assert!(is_taken(&hosts, "/v1/runs", &[host]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:7070",
            "n2.example",
            "nodes.example",
            "xn1.example",
            "evilnodes.example",
            "127.0.0.1@evil.example",
            "",
            "a b",
            "*",
        ] {
            assert!(!is_taken(&hosts, "/v1/runs", &[host]), "{host}");
        }
        assert!(is_taken(&hosts, "/v1/runs", &[]), "a browser always names one");
        assert!(!is_taken(&hosts, "/v1/runs", &["localhost", "evil.example"]));
        // As HTTP/2 names it, and HTTP/1.1 to a proxy.
        assert!(is_taken(&hosts, "http://n1.example:7070/v1/runs", &[]));
        assert!(!is_taken(&hosts, "http://evil.example/v1/runs", &["localhost"]));
        assert!(is_taken(&Hosts::new(["*".to_owned()]), "/v1/runs", &["evil.example"]));
    }

    #[test]
    fn a_name_that_could_never_match_is_a_fault() {
        for name in ["matins.example.com", "*.example.com", "*", "matins", "10.0.0.1"] {
            assert_eq!(Hosts::fault(name), None);
        }
        for name in ["", "*.", "http://a", "a:7070", "a.*.b", ".a", "a b"] {
            assert!(Hosts::fault(name).is_some_and(|fault| fault.contains("public_hosts")), "{name}");
        }
    }
}
