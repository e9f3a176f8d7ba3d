//! Owns the HTTP client of the commands that talk to a broker.

mod connection;
mod kept;
mod options;
mod url;

pub(super) use connection::{Client, Connection};
pub(super) use kept::KeptConnection;
pub(super) use options::ClientOptions;
pub(super) use url::BrokerUrl;
