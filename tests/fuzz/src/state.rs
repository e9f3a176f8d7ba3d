//! Owns the brokers that targets send requests to: complete ones, with different rules of access.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use pilotlight::auth::{AuthConfig, Authorizer};
use pilotlight::broker::{Limits, SelectionPolicy};
use pilotlight::config::{FunctionTable, MessageCheck};
use pilotlight::exchange::Exchange;
use pilotlight::http::fuzz::{Handled, RequestFields, handle};
use pilotlight::http::{HttpResponse, HttpState, RequestLimits};
use pilotlight::journal::{self, Journal};
use pilotlight::metrics::Metrics;
use pilotlight::model::Proof;
use tokio::runtime::Runtime;

/// The secret of deployment tokens, and the older one during a rotation.
pub const TOKEN_SECRET: &str = "a secret of the platform";
pub const OLDER_TOKEN_SECRET: &str = "an older secret of it";
pub const SUPERVISORS: &str = "a bearer of supervisors";
pub const OPERATORS: &str = "a bearer of operators";
/// The address of the client.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// Brokers, and the runtime of their dispatches.
pub struct BrokerSet {
    states: Vec<Arc<HttpState>>,
    runtime: Runtime,
}

/// Access that needs a credential everywhere.
pub fn guarded() -> Authorizer {
    let folder = tempfile::tempdir().expect("a folder for secrets");
    let file = |name: &str, text: String| -> Option<PathBuf> {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file of secrets");
        Some(path)
    };
    Authorizer::open(&AuthConfig {
        token_secret_file: file("tokens", format!("{OLDER_TOKEN_SECRET}\n{TOKEN_SECRET}\n")),
        require_token: true,
        dispatch_token_file: file("supervisors", format!("{SUPERVISORS}\n")),
        ops_token_file: file("operators", format!("{OPERATORS}\n")),
        ..AuthConfig::default()
    })
    .expect("the secrets are fine")
}

impl Default for BrokerSet {
    fn default() -> Self {
        let net = |text: &str| vec![text.parse().expect("a network")];
        let listed = AuthConfig {
            allow_poll: net("10.0.0.0/24"),
            allow_dispatch: net("10.0.0.8/29"),
            ..AuthConfig::default()
        };
        let listed = Authorizer::open(&listed).expect("lists need no file");
        // The clock is paused, and advances when every task waits: a run that waits for a controller takes no real time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        Self {
            states: vec![
                http_state(Authorizer::default(), Vec::new(), 4096),
                http_state(guarded(), Vec::new(), 4096),
                http_state(listed, net("10.0.0.9/32"), 4096),
            ],
            runtime: runtime.expect("a runtime"),
        }
    }
}

/// A broker with this limit for bodies, in bytes.
pub fn http_state(access: Authorizer, proxies: Vec<ipnet::IpNet>, body_limit: usize) -> Arc<HttpState> {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let journal =
        Arc::new(Journal::open(&journal::JournalConfig::default(), metrics.clone()).expect("a journal"));
    let core_limits = Limits { waiters: 100, waiters_per_pool: 100, pools: 100 };
    let exchange =
        Arc::new(Exchange::new(core_limits, SelectionPolicy::Newest, metrics.clone(), journal.clone()));
    let limits = RequestLimits {
        connection_timeout: Duration::from_secs(50),
        keepalive: Duration::from_secs(300),
        dispatch_budget: Duration::from_secs(2),
        remember_runs: Duration::from_secs(60),
        body_limit,
        event_limit: body_limit,
        proof: Proof::Written,
        proof_timeout: Duration::from_millis(250),
        proxies,
        proxy_protocol: false,
        message_check: MessageCheck::Strict,
        redirect_to: None,
        public_livez: true,
        max_reply_wait: Duration::from_secs(900),
        reply_idle: Duration::from_secs(300),
        functions: FunctionTable::default(),
        max_posts: 1000,
        max_post_rate: None,
        access,
    };
    Arc::new(HttpState::new(exchange, metrics, journal, limits, false))
}

/// A request of a target.
pub struct TestRequest<'a> {
    /// The broker's index, modulo their number.
    pub broker: u8,
    pub method: Method,
    pub uri: Uri,
    pub fields: &'a [httparse::Header<'a>],
    pub body: &'a [u8],
}

impl BrokerSet {
    /// Handles a request, with its fields in a list (as on the fast path) and in a map (as hyper has them): the results are equal.
    pub fn handle(&self, sent: &TestRequest<'_>) -> Handled {
        let mut request = Request::new(Bytes::copy_from_slice(sent.body));
        *request.method_mut() = sent.method.clone();
        *request.uri_mut() = sent.uri.clone();
        let mut map = HeaderMap::new();
        for field in sent.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a valid name");
            map.append(name, HeaderValue::from_bytes(field.value).expect("a valid value"));
        }
        request.headers_mut().clone_from(&map);
        let state = &self.states[usize::from(sent.broker) % self.states.len()];
        let from_list =
            self.runtime.block_on(handle(state, PEER, &request, RequestFields::List(sent.fields)));
        let from_map = self.runtime.block_on(handle(state, PEER, &request, RequestFields::Map(&map)));
        assert_eq!(shown(&from_list), shown(&from_map), "a list and a map of the same fields");
        if let Handled::Responded(response) = &from_list {
            check(response, sent);
        }
        from_list
    }
}

/// What is equal for equal requests: a run without a name is given a random one.
fn shown(handled: &Handled) -> String {
    let Handled::Responded(response) = handled else { return format!("{handled:?}") };
    let mut body: serde_json::Value = serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&response.body).into_owned().into());
    if let Some(run) = body.get_mut("run")
        && run.as_str().is_some_and(|run| run.starts_with("run_"))
    {
        *run = "run_".into();
    }
    let HttpResponse { status, content_type, extra, close, .. } = response;
    format!("{status} {content_type} {extra:?} {close} {body}")
}

/// No response contains a credential or reports an internal error.
fn check(response: &HttpResponse, sent: &TestRequest<'_>) {
    assert!(response.status.as_u16() < 500 || response.status == 503, "{response:?}");
    let body = String::from_utf8_lossy(&response.body);
    for (number, field) in sent.fields.iter().enumerate() {
        let names = ["authorization", "x-trigger-deployment-id"];
        if !names.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        let value = String::from_utf8_lossy(field.value);
        let secret = value.rsplit(' ').next().unwrap_or_default();
        // If the client sends the same text elsewhere, too, the response may contain it.
        let others = sent.fields.iter().enumerate().filter(|(other, _)| *other != number);
        let is_public =
            others.map(|(_, field)| String::from_utf8_lossy(field.value)).any(|v| v.contains(secret))
                || sent.uri.to_string().contains(secret);
        assert!(
            secret.len() < 24 || is_public || !body.contains(secret),
            "a response contains a credential: {body}"
        );
    }
}
