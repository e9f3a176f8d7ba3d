//! Owns one HTTP/1.1 connection to a broker, over TCP, TLS or a Unix socket.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, LOCATION};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::options::ClientOptions;
use super::url::BrokerUrl;
use crate::http::client_config;

/// The time for connecting, with the handshake of TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to connect to one broker. A clone is cheap.
#[derive(Clone)]
pub(in crate::commands) struct Client {
    url: BrokerUrl,
    /// The value of the `Host` header.
    host: String,
    authorization: Option<HeaderValue>,
    /// None without TLS.
    tls: Option<TlsConnector>,
}

impl Client {
    /// Reads the files that the options name. Nothing is connected yet.
    pub(in crate::commands) fn new(url: BrokerUrl, options: &ClientOptions) -> anyhow::Result<Self> {
        let authorization = options.authorization()?;
        let authorities = options.authorities()?.map(Arc::new);
        let tls = url.is_tls().then(|| client_config(authorities, Arc::default())).transpose()?;
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        Ok(Self::with_tls(url, authorization, tls))
    }

    /// A client without a token and without TLS.
    pub(in crate::commands) fn plain(url: BrokerUrl) -> Self {
        Self::with_tls(url, None, None)
    }

    /// A client that decides by this configuration of TLS whether the broker is the right one. It sends no token.
    pub(in crate::commands) fn with_tls_config(url: BrokerUrl, config: rustls::ClientConfig) -> Self {
        Self::with_tls(url, None, Some(TlsConnector::from(Arc::new(config))))
    }

    fn with_tls(url: BrokerUrl, authorization: Option<HeaderValue>, tls: Option<TlsConnector>) -> Self {
        Self { host: url.authority(), url, authorization, tls }
    }

    pub(in crate::commands) fn url(&self) -> &BrokerUrl {
        &self.url
    }

    /// A request to this broker, with the token if there is one. The target begins with `/`.
    pub(in crate::commands) fn request(&self, method: Method, target: &str) -> Builder {
        let request = self.request_without_token(method, target);
        match &self.authorization {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        }
    }

    /// A request that proves by its target that it may be sent.
    pub(in crate::commands) fn request_without_token(&self, method: Method, target: &str) -> Builder {
        Request::builder().method(method).uri(target).header(HOST, &self.host)
    }

    /// Where a 307 leads: the broker there, and the target of the request. None for any other response. The broker that
    /// answers is trusted with the token, and so is the one that it names, unless TLS would be lost on the way.
    pub(in crate::commands) fn redirected<B>(
        &self,
        response: &Response<B>,
    ) -> anyhow::Result<Option<(Self, String)>> {
        if response.status() != StatusCode::TEMPORARY_REDIRECT {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).context("the redirect has no location")?;
        let location: Uri = location.as_bytes().try_into().context("the redirect's location is no URL")?;
        let target = location.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let (Some(scheme), Some(authority)) = (location.scheme_str(), location.authority()) else {
            return Ok(Some((self.clone(), target)));
        };
        let url = format!("{scheme}://{authority}").parse::<BrokerUrl>();
        let url = url.map_err(|why| anyhow::anyhow!("the redirect's location {why}"))?;
        if url.is_tls() != self.url.is_tls() {
            bail!("{} redirects to {url}: a redirect must not begin or end TLS", self.url);
        }
        let elsewhere = Self::with_tls(url, self.authorization.clone(), self.tls.clone());
        Ok(Some((elsewhere, target)))
    }

    /// Opens a connection for requests with bodies of this type.
    pub(in crate::commands) async fn connect<B>(&self) -> anyhow::Result<Connection<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        let opened = opened.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("no answer within {}", humantime::format_duration(CONNECT_TIMEOUT)))
        });
        opened.with_context(|| format!("{} cannot be reached", self.url))
    }

    async fn open<B>(&self) -> anyhow::Result<Connection<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let (host, port) = match &self.url {
            BrokerUrl::Unix(path) => return Connection::over(UnixStream::connect(path).await?).await,
            BrokerUrl::Tcp { host, port, is_tls } => (host, port.unwrap_or(if *is_tls { 443 } else { 80 })),
        };
        // A URL has brackets around an IPv6 address, the address itself has none.
        let host = host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Connection::over(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                Connection::over(tls.connect(name, stream).await?).await
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is secret.
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An open connection: one request at a time. Dropping it closes it, in the middle of a request too.
#[derive(Debug)]
pub(in crate::commands) struct Connection<B> {
    sender: SendRequest<B>,
    /// The one task that reads and writes; it ends with the connection.
    driver: JoinSet<hyper::Result<()>>,
}

impl<B> Connection<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> anyhow::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { sender, driver })
    }

    /// Sends a request, and returns the head of the response as soon as it is here, which can be before the request's body
    /// was sent: the rest of that body is sent meanwhile. An error if the connection ends before.
    pub(in crate::commands) async fn send(
        &mut self,
        request: Request<B>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// A kept connection, once it can send a request. None after the broker has closed it.
    pub(in crate::commands) async fn if_open(kept: Option<Self>) -> Option<Self> {
        let mut connection = kept?;
        connection.sender.ready().await.is_ok().then_some(connection)
    }

    /// Waits until the connection has ended, whichever side ended it. Between requests that is a broker that closes it.
    pub(in crate::commands) async fn ended(&mut self) {
        while self.driver.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A body of which nothing comes, and which does not end.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    async fn listener() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::plain(listener.local_addr().unwrap().into());
        (listener, client)
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn an_answer_comes_before_the_request_is_sent_and_the_end_is_seen_from_both_sides() {
        let (listener, client) = listener().await;
        let mut connection = client.connect().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = client.request(Method::POST, "/reply").body(Silent).unwrap();
        let (answer, head) = tokio::join!(connection.send(request), async {
            let head = read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            head
        });
        assert_eq!(answer.unwrap().status(), StatusCode::GONE);
        assert!(head.contains(&format!("host: {}\r\n", client.url.authority())), "{head}");
        drop(stream);
        connection.ended().await;

        let connection = client.connect::<Silent>().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(connection);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[test]
    fn a_redirect_keeps_the_token_and_may_not_leave_tls() {
        let tls = client_config(Some(Arc::new(rustls::RootCertStore::empty())), Arc::default()).unwrap();
        let url = |text: &str| text.parse::<BrokerUrl>().unwrap();
        let redirect = |location: &str| {
            let response = Response::builder().status(307).header(LOCATION, location);
            response.body(()).unwrap()
        };
        let token = HeaderValue::from_static("Bearer token");
        let client =
            Client::with_tls(url("https://one"), Some(token), Some(TlsConnector::from(Arc::new(tls))));
        let (elsewhere, target) = client.redirected(&redirect("https://two:7070/v1?x")).unwrap().unwrap();
        assert_eq!((elsewhere.url.to_string().as_str(), target.as_str()), ("https://two:7070", "/v1?x"));
        let request = elsewhere.request(Method::GET, &target).body(()).unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer token");
        let (here, target) = client.redirected(&redirect("/elsewhere")).unwrap().unwrap();
        assert_eq!((here.url, target.as_str()), (url("https://one"), "/elsewhere"));
        client.redirected(&redirect("http://two/v1")).expect_err("TLS ends");
        let answer = Response::builder().status(200).body(()).unwrap();
        assert!(client.redirected(&answer).unwrap().is_none());
        let plain = Client::plain(SocketAddr::from(([127, 0, 0, 1], 7070)).into());
        plain.redirected(&redirect("https://two")).expect_err("there is no trust to begin TLS with");
    }
}
