//! Owns `GET /brokers`: this broker and the others of its cluster, as this one sees them.

use serde_json::{Value, json};

use super::response::json as json_response;
use crate::cluster::{Cluster, PeerSummary};
use crate::http::{HttpResponse, HttpState};

pub(super) fn brokers(state: &HttpState) -> HttpResponse {
    let Some(cluster) = &state.cluster else {
        return json_response(&json!({ "cluster": null, "broker": null, "brokers": [] }));
    };
    let is_connected = cluster.is_connected();
    let own = json!({
        "name": cluster.name(), "id": hex(cluster.id()), "advertised": cluster.advertised(), "connected": is_connected,
    });
    json_response(&json!({
        "cluster": cluster.cluster_name(), "broker": own, "brokers": others(cluster, is_connected),
    }))
}

fn others(cluster: &Cluster, is_connected: bool) -> Vec<Value> {
    let row = |peer: &PeerSummary| {
        json!({
            "name": &*peer.name, "id": hex(peer.id), "advertised": peer.advertised.as_deref(), "silent_seconds": peer.silent_for.as_secs_f64(),
            "reachable": is_connected && peer.is_visible, "pools": peer.pools,
        })
    };
    cluster.peers().iter().map(row).collect()
}

/// An id as it is in the names of NATS subjects.
fn hex(id: u128) -> String {
    format!("{id:032x}")
}
