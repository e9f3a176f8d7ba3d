//! Owns the brokers that targets ask: whole ones, each let in by other rules.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use pilotlight::auth::{AuthConfig, Authorizer};
use pilotlight::broker::{Limits, SelectionPolicy};
use pilotlight::config::MessageCheck;
use pilotlight::exchange::Exchange;
use pilotlight::http::fuzz::{Listed, Told, answer};
use pilotlight::http::{HttpResponse, HttpState, RequestLimits};
use pilotlight::journal::{self, Journal};
use pilotlight::metrics::Metrics;
use pilotlight::model::Proof;
use tokio::runtime::Runtime;

/// What deployment tokens are signed with; the second of two, as in a rotation.
pub const TOKEN_SECRET: &str = "a secret of the platform";
pub const OLDER_TOKEN_SECRET: &str = "an older secret of it";
pub const SUPERVISORS: &str = "a bearer of supervisors";
pub const OPERATORS: &str = "a bearer of operators";
/// Who asks.
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// A broker and what runs its dispatches.
pub struct Asked {
    fronts: Vec<Arc<HttpState>>,
    runtime: Runtime,
}

/// With every file of secrets.
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

impl Default for Asked {
    fn default() -> Self {
        let net = |text: &str| vec![text.parse().expect("a network")];
        let listed = AuthConfig {
            allow_poll: net("10.0.0.0/24"),
            allow_dispatch: net("10.0.0.8/29"),
            ..AuthConfig::default()
        };
        let listed = Authorizer::open(&listed).expect("lists need no file");
        // Its clock stands still and jumps when everybody waits, so that a run that waits for a controller takes no time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        Self {
            fronts: vec![
                front(Authorizer::default(), Vec::new(), 4096),
                front(guarded(), Vec::new(), 4096),
                front(listed, net("10.0.0.9/32"), 4096),
            ],
            runtime: runtime.expect("a runtime"),
        }
    }
}

/// A broker that takes bodies up to this limit, in bytes.
pub fn front(access: Authorizer, proxies: Vec<ipnet::IpNet>, body_limit: usize) -> Arc<HttpState> {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let journal =
        Arc::new(Journal::open(&journal::JournalConfig::default(), metrics.clone()).expect("a journal"));
    let limits = Limits { waiters: 100, waiters_per_pool: 100, pools: 100 };
    let exchange = Arc::new(Exchange::new(limits, SelectionPolicy::Newest, metrics.clone(), journal.clone()));
    let terms = RequestLimits {
        connection_timeout: Duration::from_secs(50),
        keepalive: Duration::from_secs(300),
        dispatch_budget: Duration::from_secs(2),
        remember_runs: Duration::from_secs(60),
        body_limit,
        proof: Proof::Written,
        proof_timeout: Duration::from_millis(250),
        proxies,
        proxy_protocol: false,
        message_check: MessageCheck::Strict,
        public_livez: true,
        max_posts: 1000,
        max_post_rate: None,
        access,
    };
    Arc::new(HttpState::new(exchange, metrics, journal, terms, false))
}

/// A request as a target makes it up.
pub struct Made<'a> {
    /// Which broker is asked, modulo their number.
    pub front: u8,
    pub method: Method,
    pub uri: Uri,
    pub fields: &'a [httparse::Header<'a>],
    pub body: &'a [u8],
}

impl Asked {
    /// What becomes of it. Fields in a list, as the quick way has them, and in a map, as hyper has them, mean the same.
    pub fn ask(&self, made: &Made<'_>) -> Told {
        let mut request = Request::new(Bytes::copy_from_slice(made.body));
        *request.method_mut() = made.method.clone();
        *request.uri_mut() = made.uri.clone();
        let mut map = HeaderMap::new();
        for field in made.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a name is a name to hyper");
            map.append(name, HeaderValue::from_bytes(field.value).expect("a value is a value to hyper"));
        }
        let front = &self.fronts[usize::from(made.front) % self.fronts.len()];
        let of_list = self.runtime.block_on(answer(front, PEER, &request, Listed::List(made.fields)));
        let of_map = self.runtime.block_on(answer(front, PEER, &request, Listed::Map(&map)));
        assert_eq!(shown(&of_list), shown(&of_map), "a list and a map of the same fields");
        if let Told::HttpResponse(reply) = &of_list {
            check(reply, made);
        }
        of_list
    }
}

/// What must be the same whenever the same is asked: a run without a name is given one at random.
fn shown(told: &Told) -> String {
    let Told::HttpResponse(reply) = told else { return format!("{told:?}") };
    let mut body: serde_json::Value = serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&reply.body).into_owned().into());
    if let Some(run) = body.get_mut("run")
        && run.as_str().is_some_and(|run| run.starts_with("run_"))
    {
        *run = "run_".into();
    }
    format!("{} {} {:?} {} {body}", reply.status, reply.content_type, reply.extra, reply.close)
}

/// No answer shows a credential, and none says that something is wrong here.
fn check(reply: &HttpResponse, made: &Made<'_>) {
    assert!(reply.status.as_u16() < 500 || reply.status == 503, "{reply:?}");
    let body = String::from_utf8_lossy(&reply.body);
    for (number, field) in made.fields.iter().enumerate() {
        let names = ["authorization", "x-trigger-deployment-id"];
        if !names.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        let value = String::from_utf8_lossy(field.value);
        let secret = value.rsplit(' ').next().unwrap_or_default();
        // Who writes it elsewhere, too, makes no secret of it.
        let others = made.fields.iter().enumerate().filter(|(other, _)| *other != number);
        let is_said =
            others.map(|(_, field)| String::from_utf8_lossy(field.value)).any(|v| v.contains(secret))
                || made.uri.to_string().contains(secret);
        assert!(
            secret.len() < 24 || is_said || !body.contains(secret),
            "an answer shows a credential: {body}"
        );
    }
}
