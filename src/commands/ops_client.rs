//! Owns requests to a broker's operators' address: where it is, and what its refusals mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use hyper::StatusCode;

use super::client::{BrokerUrl, Client, ClientOptions, KeptConnection};
use super::text::printable;
use crate::config::{Endpoint, ListenAddress, Settings};

/// The time for a request, from its begin to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which broker to ask, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct OpsOptions {
    /// The broker's address for operators, such as <http://127.0.0.1:7071> or `unix:/run/ops.sock` [default: that of --ops-listen]
    #[arg(value_name = "URL")]
    url: Option<BrokerUrl>,

    #[command(flatten)]
    client: ClientOptions,
}

/// A connection to a broker's operators' address.
pub(super) struct OpsClient {
    connection: KeptConnection,
}

impl OpsClient {
    pub(super) fn new(options: &OpsOptions, settings: &Settings) -> anyhow::Result<Self> {
        let url = options.url.clone().unwrap_or_else(|| ops_url(settings));
        Ok(Self { connection: KeptConnection::new(Client::new(url, &options.client)?) })
    }

    pub(super) fn url(&self) -> &BrokerUrl {
        self.connection.client().url()
    }

    /// Asks for a document. The error says what to do about a refusal.
    pub(super) async fn get(&mut self, target: &str) -> anyhow::Result<Bytes> {
        let asked = tokio::time::timeout(TIMEOUT, self.connection.get(target)).await;
        let url = self.url();
        let Ok(answer) = asked else {
            bail!("{url} has not answered within {}", humantime::format_duration(TIMEOUT));
        };
        let answer = answer?;
        let route = target.split('?').next().unwrap_or_default();
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            StatusCode::NOT_FOUND => bail!(
                "{url} has no {route}: it is not the broker's address for operators, which is that of --ops-listen, by \
                 default http://127.0.0.1:7071"
            ),
            StatusCode::UNAUTHORIZED => {
                bail!(
                    "{url} wants an operator's token: give --token-file FILE, with a token of its --ops-token-file"
                )
            }
            status => bail!("{url} has answered {status}{}", detail(answer.body())),
        }
    }
}

/// Where this machine's broker with these settings serves its operators.
pub(super) fn ops_url(settings: &Settings) -> BrokerUrl {
    let is_tls = settings.tls.ops_tls_cert.is_some();
    let url = match settings.listeners.ops_listen.first() {
        Some(ListenAddress::Exact(Endpoint::Unix(path))) => return BrokerUrl::Unix(path.clone()),
        Some(ListenAddress::Exact(Endpoint::Ip(address))) => reachable(*address).into(),
        Some(ListenAddress::Every(port)) => SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).into(),
        Some(ListenAddress::Named(host, port)) => {
            BrokerUrl::Tcp { is_tls, host: host.clone(), port: Some(*port) }
        }
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 7071)).into(),
    };
    match url {
        BrokerUrl::Tcp { host, port, .. } => BrokerUrl::Tcp { is_tls, host, port },
        BrokerUrl::Unix(path) => BrokerUrl::Unix(path),
    }
}

/// The loopback address in place of the address of all interfaces, which one cannot connect to everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What a problem document says, after a colon; nothing for any other body.
pub(super) fn detail(body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
    detail.map_or_else(String::new, |detail| format!(": {}", printable(detail)))
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    #[test]
    fn the_address_that_a_broker_listens_on_becomes_one_that_can_be_asked() {
        for (arguments, url) in [
            (&[][..], "http://127.0.0.1:7071"),
            (&["--ops-listen=:9000"], "http://127.0.0.1:9000"),
            (&["--ops-listen=0.0.0.0:9000"], "http://127.0.0.1:9000"),
            (&["--ops-listen=[::]:9000"], "http://[::1]:9000"),
            (&["--ops-listen=10.0.0.1:9000,127.0.0.1:9001"], "http://10.0.0.1:9000"),
            (&["--ops-listen=warm.local:9000"], "http://warm.local:9000"),
            (&["--ops-listen=unix:/run/ops.sock"], "unix:/run/ops.sock"),
            (&["--ops-listen=:9000", "--ops-tls-cert=a", "--ops-tls-key=b"], "https://127.0.0.1:9000"),
        ] {
            let command = Settings::augment_args(clap::Command::new("pilotlight"));
            let matches = command.get_matches_from([&["pilotlight"], arguments].concat());
            let settings = Settings::from_arg_matches(&matches).unwrap();
            assert_eq!(ops_url(&settings).to_string(), url, "{arguments:?}");
        }
    }
}
