//! Owns a broker that runs in this process, so that this process's allocator serves it.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use pilotlight_bench::server::free_addresses;

/// Its addresses.
pub(crate) struct OwnBroker {
    pub(crate) address: SocketAddr,
    pub(crate) ops: SocketAddr,
}

/// It serves within this time.
const START_TIME: Duration = Duration::from_secs(10);

/// Starts it on a thread of its own, which ends with the process, and returns once it serves.
pub(crate) fn start() -> anyhow::Result<OwnBroker> {
    let [address, ops] = free_addresses()?;
    let arguments = format!(
        "pilotlight serve --listen {address} --ops-listen {ops} --proof written --threads 1 \
         --connection-timeout 299s --max-waiters-per-pool 1000000 --log-format json"
    );
    let arguments: Vec<OsString> = arguments.split(' ').map(OsString::from).collect();
    std::thread::spawn(move || pilotlight::commands::run(arguments));
    let begun = Instant::now();
    while TcpStream::connect(ops).is_err() {
        ensure!(begun.elapsed() < START_TIME, "the broker does not serve");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(OwnBroker { address, ops })
}
