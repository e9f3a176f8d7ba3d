//! Owns the way to another broker of the cluster: which one a token names, where it is reached, and why it is not.

use std::sync::Arc;

use super::peers::PeerError;
use super::problem::Problem;
use super::state::HttpState;
use crate::logging::Throttle;

/// Another broker that can be reached.
pub(super) struct Peer {
    /// Its name for people.
    pub(super) name: Arc<str>,
    pub(super) origin: Arc<str>,
}

/// The broker that a token names, if it is another one than this.
pub(super) fn of_another_broker(state: &HttpState, named: Option<u128>) -> Option<u128> {
    let cluster = state.cluster.as_ref()?;
    named.filter(|&broker| broker != cluster.id())
}

/// Where this broker is reached.
pub(super) fn find_peer(state: &HttpState, broker: u128) -> Result<Peer, Problem> {
    let Some(cluster) = &state.cluster else { return Err(Problem::offer_ended()) };
    let Some(peer) = cluster.contact(broker) else {
        // Who is cut off from the others knows nothing of those that came since.
        let knows_all = cluster.is_connected() && cluster.is_ready();
        return Err(if knows_all { Problem::offer_ended() } else { Problem::unknown_peer() });
    };
    let origin = peer.advertised.ok_or_else(Problem::peer_not_advertised)?;
    Ok(Peer { name: peer.name, origin })
}

/// What a worker is told whose request got no valid response of the broker that it is for, which is logged.
pub(super) fn peer_problem(peer: &Peer, error: &PeerError) -> Problem {
    static LINES: Throttle = Throttle::new();
    if LINES.is_open() {
        let Peer { name, origin } = peer;
        tracing::warn!(broker = %name, advertised = %origin, %error, "a worker's request could not be passed on");
    }
    match error {
        PeerError::Busy => Problem::peer_busy(),
        PeerError::NotSent(_) => Problem::peer_unreachable(),
        PeerError::Broken(_) | PeerError::Unexpected(_) => Problem::peer_broken(),
        PeerError::TimedOut => Problem::peer_too_slow(),
    }
}
