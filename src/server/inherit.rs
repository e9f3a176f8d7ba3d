//! Owns the sockets that a service manager hands over, so that they outlive this process: found by the names of their flags.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, bail};
use listenfd::ListenFd;

use crate::config::Settings;

/// What sockets are named, as `FileDescriptorName=` of a systemd socket unit.
const NAMES: [&str; 3] = ["listen", "dispatch-listen", "ops-listen"];

/// Listening sockets with their names; usually none.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, TcpListener)>);

impl Inherited {
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
            let socket = handed
                .take_tcp_listener(place)
                .with_context(|| format!("the socket {name} cannot be used"))?;
            sockets.push((name, socket.context("a socket was handed over that is not there")?));
        }
        Ok(Self(sockets))
    }

    /// Where the sockets listen.
    pub fn addresses(&self) -> anyhow::Result<Adopted> {
        let address = |(name, socket): &(String, TcpListener)| {
            let address = socket.local_addr().with_context(|| format!("the socket {name} has no address"))?;
            Ok((name.clone(), address))
        };
        self.0.iter().map(address).collect::<anyhow::Result<_>>().map(Adopted)
    }

    /// The socket of this name. One that is named twice is taken twice, of which the last counts.
    pub(super) fn socket(&mut self, name: &str) -> Option<TcpListener> {
        let place = self.0.iter().rposition(|(of, _)| of == name)?;
        Some(self.0.swap_remove(place).1)
    }
}

/// Addresses that count in the place of those that were set: what is checked is where strangers really come.
#[derive(Debug, Clone, Default)]
pub struct Adopted(Vec<(String, SocketAddr)>);

impl Adopted {
    /// Puts them there.
    pub fn put(&self, settings: &mut Settings) {
        for (name, address) in &self.0 {
            match name.as_str() {
                "listen" => settings.listen = *address,
                "dispatch-listen" => settings.dispatch_listen = Some(*address),
                _ => settings.ops_listen = *address,
            }
        }
    }
}
