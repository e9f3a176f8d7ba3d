//! Owns the listening sockets that a service manager passes to this process, named like the flags that they replace.

use anyhow::{Context, bail};
use listenfd::ListenFd;

use super::socket::ListenSocket;
use crate::config::{Endpoint, ListenAddress, ListenerSettings, Settings};

/// The possible names, set by `FileDescriptorName=` in a systemd socket unit.
const NAMES: [&str; 3] = ["listen", "dispatch-listen", "ops-listen"];

/// Inherited listening sockets with their names; usually none.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(String, ListenSocket)>);

impl InheritedSockets {
    /// Takes the sockets that were passed to this process. Call it once, before anything else opens files.
    pub fn take() -> anyhow::Result<Self> {
        let names: Vec<String> = match sd_notify::listen_fds_with_names() {
            Ok(sockets) => sockets.map(|(_, name)| name).collect(),
            Err(error) => bail!("the LISTEN_FDS variables are set, but cannot be read: {error}"),
        };
        let mut inherited = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(names.len());
        let is_only_one = names.len() == 1;
        for (index, name) in names.into_iter().enumerate() {
            let name = if is_only_one && name == "unknown" { NAMES[0].to_owned() } else { name };
            if !NAMES.contains(&name.as_str()) {
                bail!(
                    "an inherited socket is named {name:?}; FileDescriptorName= must be one of {}",
                    NAMES.join(", ")
                );
            }
            let socket = match inherited.take_tcp_listener(index) {
                Ok(socket) => socket.map(ListenSocket::Tcp),
                Err(not_tcp) => {
                    let socket = inherited.take_unix_listener(index).map_err(|_| not_tcp);
                    socket
                        .with_context(|| format!("the socket {name} cannot be used"))?
                        .map(ListenSocket::Unix)
                }
            };
            sockets.push((name, socket.context("LISTEN_FDS counts a socket that is not open")?));
        }
        Ok(Self(sockets))
    }

    /// The addresses of the sockets.
    pub fn addresses(&self) -> anyhow::Result<InheritedAddresses> {
        let endpoint = |(name, socket): &(String, ListenSocket)| {
            let endpoint = socket.endpoint().with_context(|| format!("the socket {name} has no address"))?;
            Ok((name.clone(), endpoint))
        };
        self.0.iter().map(endpoint).collect::<anyhow::Result<_>>().map(InheritedAddresses)
    }

    /// Removes and returns the sockets of this name: one for each address.
    pub(super) fn take_named(&mut self, name: &str) -> Vec<ListenSocket> {
        let (named, others) = std::mem::take(&mut self.0).into_iter().partition(|(other, _)| other == name);
        self.0 = others;
        let named: Vec<_> = named;
        named.into_iter().map(|(_, socket)| socket).collect()
    }
}

/// Addresses of inherited sockets. They replace the addresses in the settings, so that the settings are validated for the
/// addresses that clients really use.
#[derive(Debug, Clone, Default)]
pub struct InheritedAddresses(Vec<(String, Endpoint)>);

impl InheritedAddresses {
    /// Replaces the addresses of the settings.
    pub fn apply_to(&self, settings: &mut Settings) {
        let ListenerSettings { listen, dispatch_listen, ops_listen, .. } = &mut settings.listeners;
        let lists = [listen, dispatch_listen, ops_listen];
        for (name, list) in NAMES.into_iter().zip(lists) {
            let named = self.0.iter().filter(|(other, _)| other == name);
            let named: Vec<_> = named.map(|(_, endpoint)| ListenAddress::from(endpoint.clone())).collect();
            if !named.is_empty() {
                *list = named;
            }
        }
    }
}
