//! Owns a cluster under test: its brokers, each of which can be restarted, and their nats-server.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pilotlight_bench::nats::{NatsServer, wait_until_joined};

use crate::broker::{BrokerOptions, RestartableBroker};

/// Brokers that answer as one.
pub(crate) struct Cluster {
    pub(crate) nats: RefCell<NatsServer>,
    pub(crate) brokers: Vec<RefCell<RestartableBroker>>,
}

/// How long the brokers may take to find each other.
const JOIN_TIME: Duration = Duration::from_secs(30);

impl Cluster {
    /// Starts nats-server and so many brokers. With `is_alone`, in a network namespace that nothing else uses, each broker
    /// reaches nats-server at an address of its own, so that it can be cut off.
    pub(crate) fn start(count: usize, options: &BrokerOptions, is_alone: bool) -> anyhow::Result<Self> {
        let listens = if is_alone { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let nats = NatsServer::start(listens)?;
        let brokers = (0..count)
            .map(|broker| {
                let host = if is_alone { nats_address(broker) } else { Ipv4Addr::LOCALHOST };
                let mut options = options.clone();
                options.arguments.extend(["--nats".to_owned(), nats.url(host)]);
                Ok(RestartableBroker::start(options)?.into())
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { nats: nats.into(), brokers })
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.brokers.iter().map(|broker| broker.borrow().address).collect()
    }

    pub(crate) fn ops(&self) -> Vec<SocketAddr> {
        self.brokers.iter().map(|broker| broker.borrow().ops).collect()
    }

    /// Waits until each broker is connected and sees all others.
    pub(crate) async fn wait_until_joined(&self) -> anyhow::Result<()> {
        wait_until_joined(&self.ops(), JOIN_TIME).await
    }
}

/// Where a broker reaches nats-server if each has an address of its own.
pub(crate) fn nats_address(broker: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + u8::try_from(broker).unwrap_or(0))
}
