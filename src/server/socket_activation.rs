//! Owns the sockets that a service manager hands over, so that they outlive this process: found by the names of their flags.

use anyhow::{Context, bail};
use listenfd::ListenFd;

use super::socket::Socket;
use crate::config::{Endpoint, ListenAddress, ListenerSettings, Settings};

/// What sockets are named, as `FileDescriptorName=` of a systemd socket unit.
const NAMES: [&str; 3] = ["listen", "dispatch-listen", "ops-listen"];

/// Listening sockets with their names; usually none.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(String, Socket)>);

impl InheritedSockets {
    /// Takes what was handed to this process. Called once, before anything else opens files.
    pub fn take() -> anyhow::Result<Self> {
        let names: Vec<String> = match sd_notify::listen_fds_with_names() {
            Ok(sockets) => sockets.map(|(_, name)| name).collect(),
            Err(error) => bail!("LISTEN_FDS and its companions are set, and cannot be read: {error}"),
        };
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(names.len());
        let is_alone = names.len() == 1;
        for (place, name) in names.into_iter().enumerate() {
            let name = if is_alone && name == "unknown" { NAMES[0].to_owned() } else { name };
            if !NAMES.contains(&name.as_str()) {
                bail!(
                    "a handed-over socket is named {name:?}; FileDescriptorName= is one of {}",
                    NAMES.join(", ")
                );
            }
            let socket = match handed.take_tcp_listener(place) {
                Ok(socket) => socket.map(Socket::Tcp),
                Err(no_tcp) => {
                    let socket = handed.take_unix_listener(place).map_err(|_| no_tcp);
                    socket.with_context(|| format!("the socket {name} cannot be used"))?.map(Socket::Unix)
                }
            };
            sockets.push((name, socket.context("a socket was handed over that is not there")?));
        }
        Ok(Self(sockets))
    }

    /// Where the sockets listen.
    pub fn addresses(&self) -> anyhow::Result<InheritedAddresses> {
        let endpoint = |(name, socket): &(String, Socket)| {
            let endpoint = socket.endpoint().with_context(|| format!("the socket {name} has no address"))?;
            Ok((name.clone(), endpoint))
        };
        self.0.iter().map(endpoint).collect::<anyhow::Result<_>>().map(InheritedAddresses)
    }

    /// The sockets of this name: one for each of its addresses.
    pub(super) fn sockets(&mut self, name: &str) -> Vec<Socket> {
        let (these, others) = std::mem::take(&mut self.0).into_iter().partition(|(of, _)| of == name);
        self.0 = others;
        let these: Vec<_> = these;
        these.into_iter().map(|(_, socket)| socket).collect()
    }
}

/// Addresses that count in the place of those that were set: what is checked is where strangers really come.
#[derive(Debug, Clone, Default)]
pub struct InheritedAddresses(Vec<(String, Endpoint)>);

impl InheritedAddresses {
    /// Puts them there.
    pub fn apply_to(&self, settings: &mut Settings) {
        let ListenerSettings { listen, dispatch_listen, ops_listen, .. } = &mut settings.listeners;
        let lists = [listen, dispatch_listen, ops_listen];
        for (name, list) in NAMES.into_iter().zip(lists) {
            let these = self.0.iter().filter(|(of, _)| of == name);
            let these: Vec<_> = these.map(|(_, endpoint)| ListenAddress::from(endpoint.clone())).collect();
            if !these.is_empty() {
                *list = these;
            }
        }
    }
}
