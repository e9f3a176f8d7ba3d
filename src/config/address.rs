//! Owns the addresses of listeners: how they are written, what a name stands for here, and which two are one.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;

/// The longest path of a Unix socket, in bytes; the system wants a NUL behind it.
const LONGEST_PATH: usize = 107;

/// A place where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a TCP port; 0 lets the system choose one.
    Ip(SocketAddr),
    /// A Unix socket: the permissions of its file say who may connect, and its clients count as 127.0.0.1.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The address, if it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether a socket here takes what is meant for the other one, which is of the same family.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ip(one), Self::Ip(other)) => {
                one.port() == other.port()
                    && one.port() != 0
                    && one.is_ipv4() == other.is_ipv4()
                    && (one.ip() == other.ip() || one.ip().is_unspecified())
            }
            (one, other) => one == other,
        }
    }

    /// Whether two listeners cannot have these. Alone, [::] takes IPv4 as well.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let takes_both = |one: &Self, other: &Self| {
            matches!((one, other), (Self::Ip(one), Self::Ip(other))
                if one.port() == other.port() && one.port() != 0 && one.is_ipv6() && one.ip().is_unspecified())
        };
        [(self, other), (other, self)].iter().any(|(one, other)| one.covers(other) || takes_both(one, other))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address as a setting has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// Nothing has to be found out about it.
    Exact(Endpoint),
    /// This port on every address of the machine.
    Every(u16),
    /// This port on the addresses that a name stands for.
    Named(String, u16),
}

impl ListenAddress {
    /// What it stands for on this machine, now. The error says why that is nothing.
    fn endpoints(&self) -> Result<Vec<Endpoint>, String> {
        match self {
            Self::Exact(endpoint) => Ok(vec![endpoint.clone()]),
            Self::Every(port) => {
                // One socket takes both families, if there are two.
                let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
                let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
                Ok(vec![Endpoint::Ip(if is_here(both) { both } else { ipv4 })])
            }
            Self::Named(name, port) => {
                let found = resolved(name, *port).map_err(|error| format!("cannot be resolved: {error}"))?;
                // [::1] is often written down also where there is no IPv6.
                let here: Vec<_> = found.iter().filter(|address| is_here(**address)).collect();
                if here.is_empty() {
                    let found: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
                    return Err(format!("stands for {}: no address of this machine", found.join(", ")));
                }
                Ok(here.into_iter().map(|address| Endpoint::Ip(*address)).collect())
            }
        }
    }
}

impl From<Endpoint> for ListenAddress {
    fn from(endpoint: Endpoint) -> Self {
        Self::Exact(endpoint)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(endpoint) => endpoint.fmt(f),
            Self::Every(port) => write!(f, ":{port}"),
            Self::Named(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Every place that one listener's addresses stand for, each once. The error says which stands for none, and why.
pub(super) fn endpoints(addresses: &[ListenAddress]) -> Result<Vec<Endpoint>, String> {
    let mut all: Vec<Endpoint> = Vec::new();
    for address in addresses {
        for endpoint in address.endpoints().map_err(|why| format!("{address} {why}"))? {
            if !all.iter().any(|other| other.covers(&endpoint)) {
                all.retain(|other| !endpoint.covers(other));
                all.push(endpoint);
            }
        }
    }
    Ok(all)
}

fn resolved(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name.eq_ignore_ascii_case("localhost") {
        // Always both, whatever a file of hosts has of them (RFC 6761).
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    (name, port).to_socket_addrs().map(Iterator::collect)
}

/// Whether the machine has this address. A datagram socket finds out, and nobody notices it.
fn is_here(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

/// Reads what stands in a setting.
pub(super) fn parse(text: &str) -> Result<ListenAddress, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_socket(path);
    }
    if text.contains("://") {
        return Err("is a URL; it takes an address and a port alone, such as 127.0.0.1:7070".to_owned());
    }
    if let Ok(SocketAddr::V6(address)) = text.parse()
        && let Some(mapped) = address.ip().to_ipv4_mapped()
    {
        return Ok(Endpoint::Ip((mapped, address.port()).into()).into());
    }
    if let Ok(address) = text.parse() {
        return Ok(Endpoint::Ip(address).into());
    }
    let wrong = || {
        "not an address and a port, such as 127.0.0.1:7070, [::1]:7070, localhost:7070, :7070 (all addresses) or \
         unix:/run/pilotlight.sock"
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = port.and_then(|port| port.parse().ok()).ok_or_else(wrong)?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match host {
        "" | "*" => Ok(ListenAddress::Every(port)),
        name if is_name(name) => Ok(ListenAddress::Named(name.to_owned(), port)),
        // The system knows which number [fe80::1%eth0] has.
        scoped if scoped.starts_with("[fe80:") && scoped.ends_with(']') && scoped.contains('%') => {
            Ok(ListenAddress::Named(scoped.trim_matches(['[', ']']).to_owned(), port))
        }
        ipv6 if ipv6.contains(':') && !ipv6.contains(['[', ']']) => {
            Err("an IPv6 address stands in brackets before its port, such as [::1]:7070".to_owned())
        }
        _ => Err(wrong()),
    }
}

fn unix_socket(path: &str) -> Result<ListenAddress, String> {
    // `unix:///run/x` is the same as `unix:/run/x`.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('@') {
        return Err("an abstract socket has no permissions that would guard it; name a file".to_owned());
    }
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("a Unix socket is a file by its whole path, such as unix:/run/pilotlight.sock".to_owned());
    }
    if path.len() > LONGEST_PATH || path.contains('\0') {
        return Err(format!("the path of a Unix socket has at most {LONGEST_PATH} bytes"));
    }
    Ok(Endpoint::Unix(path.into()).into())
}
