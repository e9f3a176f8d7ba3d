//! Owns the addresses of listeners: their syntax, what they resolve to on this machine, and which of them conflict.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;

/// The longest path of a Unix socket, in bytes: `sun_path` has 108, and a NUL ends it.
const MAX_PATH: usize = 107;

/// An address that a socket can be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a TCP port; 0 lets the system choose one.
    Ip(SocketAddr),
    /// A Unix socket: the permissions of its file decide who may connect, and its clients count as 127.0.0.1.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether only processes on this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// The IP address and port, unless it is a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether a socket here receives the connections to the other endpoint, if both are of one address family.
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

    /// Whether two listeners cannot have these endpoints. A socket on `[::]` receives IPv4 as well.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        let covers_both_families = |one: &Self, other: &Self| {
            matches!((one, other), (Self::Ip(one), Self::Ip(other))
                if one.port() == other.port() && one.port() != 0 && one.is_ipv6() && one.ip().is_unspecified())
        };
        [(self, other), (other, self)]
            .iter()
            .any(|(one, other)| one.covers(other) || covers_both_families(one, other))
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

/// An address as it is written in a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// One endpoint, which needs no resolution.
    Exact(Endpoint),
    /// This port on every address of the machine.
    Every(u16),
    /// This port on each address that a host name resolves to.
    Named(String, u16),
}

impl ListenAddress {
    /// The endpoints on this machine, as of now. The error says why there is none.
    fn resolve(&self) -> Result<Vec<Endpoint>, String> {
        match self {
            Self::Exact(endpoint) => Ok(vec![endpoint.clone()]),
            Self::Every(port) => {
                // One IPv6 socket receives both address families, where IPv6 exists.
                let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
                let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port));
                Ok(vec![Endpoint::Ip(if is_bindable(both) { both } else { ipv4 })])
            }
            Self::Named(name, port) => {
                let found = look_up(name, *port).map_err(|error| format!("cannot be resolved: {error}"))?;
                // A hosts file often has [::1] even where IPv6 is missing.
                let bindable: Vec<_> = found.iter().filter(|address| is_bindable(**address)).collect();
                if bindable.is_empty() {
                    let found: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
                    return Err(format!(
                        "resolves to {}, which is no address of this machine",
                        found.join(", ")
                    ));
                }
                Ok(bindable.into_iter().map(|address| Endpoint::Ip(*address)).collect())
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

/// The endpoints of one listener's addresses, without those that another one covers. The error says which address has no
/// endpoint, and why.
pub(super) fn resolve_all(addresses: &[ListenAddress]) -> Result<Vec<Endpoint>, String> {
    let mut all: Vec<Endpoint> = Vec::new();
    for address in addresses {
        for endpoint in address.resolve().map_err(|reason| format!("{address} {reason}"))? {
            if !all.iter().any(|other| other.covers(&endpoint)) {
                all.retain(|other| !endpoint.covers(other));
                all.push(endpoint);
            }
        }
    }
    Ok(all)
}

fn look_up(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name.eq_ignore_ascii_case("localhost") {
        // Both loopback addresses, regardless of the hosts file (RFC 6761).
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    (name, port).to_socket_addrs().map(Iterator::collect)
}

/// Whether the machine has this address. Tried with a datagram socket on any port, which no other program notices.
fn is_bindable(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

/// Parses an address in a setting.
pub(super) fn parse(text: &str) -> Result<ListenAddress, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_socket(path);
    }
    if text.contains("://") {
        return Err("is a URL; give an address and a port only, such as 127.0.0.1:7070".to_owned());
    }
    if let Ok(SocketAddr::V6(address)) = text.parse()
        && let Some(mapped) = address.ip().to_ipv4_mapped()
    {
        return Ok(Endpoint::Ip((mapped, address.port()).into()).into());
    }
    if let Ok(address) = text.parse() {
        return Ok(Endpoint::Ip(address).into());
    }
    let malformed = || {
        "not an address and a port, such as 127.0.0.1:7070, [::1]:7070, localhost:7070, :7070 (all addresses) or \
         unix:/run/pilotlight.sock"
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
    let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let port = port.and_then(|port| port.parse().ok()).ok_or_else(malformed)?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match host {
        "" | "*" => Ok(ListenAddress::Every(port)),
        name if is_name(name) => Ok(ListenAddress::Named(name.to_owned(), port)),
        // The resolver turns the zone of [fe80::1%eth0] into an interface number.
        scoped if scoped.starts_with("[fe80:") && scoped.ends_with(']') && scoped.contains('%') => {
            Ok(ListenAddress::Named(scoped.trim_matches(['[', ']']).to_owned(), port))
        }
        ipv6 if ipv6.contains(':') && !ipv6.contains(['[', ']']) => {
            Err("an IPv6 address needs brackets before its port, such as [::1]:7070".to_owned())
        }
        _ => Err(malformed()),
    }
}

fn unix_socket(path: &str) -> Result<ListenAddress, String> {
    // `unix:///run/x` is the same as `unix:/run/x`.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('@') {
        return Err(
            "an abstract socket has no file permissions to guard it; give the path of a file".to_owned()
        );
    }
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(
            "a Unix socket needs an absolute path to a file, such as unix:/run/pilotlight.sock".to_owned()
        );
    }
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err(format!("the path of a Unix socket must have at most {MAX_PATH} bytes"));
    }
    Ok(Endpoint::Unix(path.into()).into())
}
