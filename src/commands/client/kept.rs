//! Owns a connection for small requests, one after the other: it is opened when it is needed.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};

use super::connection::{Client, Connection};

/// One connection, which is opened again after it was closed.
#[derive(Debug)]
pub(in crate::commands) struct KeptConnection {
    client: Client,
    connection: Option<Connection<Full<Bytes>>>,
}

impl KeptConnection {
    pub(in crate::commands) fn new(client: Client) -> Self {
        Self { client, connection: None }
    }

    pub(in crate::commands) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends a GET and reads the whole response.
    pub(in crate::commands) async fn get(&mut self, target: &str) -> anyhow::Result<Response<Bytes>> {
        let request = self.client.request(Method::GET, target).body(Full::default())?;
        self.send(request).await
    }

    /// Sends a request and reads the whole response. Dropping the future closes the connection.
    pub(in crate::commands) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut connection = match Connection::if_open(self.connection.take()).await {
            Some(connection) => connection,
            None => self.client.connect().await?,
        };
        let silent = || format!("{} has not answered", self.client.url());
        let (head, body) = connection.send(request).await.with_context(silent)?.into_parts();
        let body = body.collect().await.with_context(silent)?.to_bytes();
        self.connection = Some(connection);
        Ok(Response::from_parts(head, body))
    }
}
