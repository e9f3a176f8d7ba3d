//! Owns the lab: network namespaces with cables between them, in which links fail as they do in production.

use std::fs::File;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::client::Client;
use super::{Broker, Pool};

static LABS: AtomicUsize = AtomicUsize::new(0);

/// One namespace for the broker, with a cable to each node. Dropping it removes everything in it.
pub struct Lab {
    name: String,
    nodes: Vec<String>,
}

/// A machine on which controllers run, at the other end of its own cable.
#[derive(Clone)]
pub struct Node {
    namespace: String,
    /// The broker's end of the cable.
    pub cable: String,
    /// The broker's address on this cable.
    pub broker: std::net::Ipv4Addr,
}

/// Runs a test in a lab of its own, or prints why this machine cannot run it.
pub fn in_a_lab<F: Future<Output = ()>>(story: impl FnOnce(Lab) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: namespaces need root");
        return;
    }
    for tool in ["ip", "iptables"] {
        if Command::new(tool).arg("-V").output().is_err() {
            eprintln!("skipped: {tool} is not installed; tests/run installs it");
            return;
        }
    }
    // A thread of its own, because it enters the lab's namespace and never leaves it.
    let thread = std::thread::spawn(|| {
        let lab = Lab::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(lab));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Lab {
    fn new() -> Self {
        let name = format!("lab{}x{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        enter(&name);
        run("ip link set lo up");
        Self { name, nodes: Vec::new() }
    }

    /// Packets to and from this port of the broker's machine are lost.
    pub fn lose_port(&self, port: u16) {
        self.on_the_port("-A", port);
    }

    /// Packets to and from this port arrive again.
    pub fn heal_port(&self, port: u16) {
        self.on_the_port("-D", port);
    }

    fn on_the_port(&self, change: &str, port: u16) {
        for end in ["--dport", "--sport"] {
            run(&format!(
                "ip netns exec {} iptables {change} INPUT -i lo -p tcp {end} {port} -j DROP",
                self.name
            ));
        }
    }

    /// Connects another machine to the broker's.
    pub fn node(&mut self) -> Node {
        let number = self.nodes.len();
        let namespace = format!("{}n{number}", self.name);
        let cable = format!("cable{number}");
        run(&format!("ip netns add {namespace}"));
        run(&format!("ip link add {cable} type veth peer name eth0 netns {namespace}"));
        run(&format!("ip addr add 10.77.{number}.1/24 dev {cable}"));
        run(&format!("ip link set {cable} up"));
        for command in
            [&format!("addr add 10.77.{number}.2/24 dev eth0"), "link set eth0 up", "link set lo up"]
        {
            run(&format!("ip -n {namespace} {command}"));
        }
        self.nodes.push(namespace.clone());
        Node { namespace, cable, broker: [10, 77, u8::try_from(number).unwrap(), 1].into() }
    }
}

/// A broker in this lab, which every node reaches on port 7070.
pub fn broker() -> Broker {
    Broker::listening(&["--listen", "0.0.0.0:7070", "--insecure-no-auth"], "received", &[])
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.nodes.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

impl Node {
    /// Opens a connection from this machine to the broker's port.
    pub fn connect(&self, port: u16) -> Client {
        let (namespace, address) = (self.namespace.clone(), SocketAddr::from((self.broker, port)));
        let connecting = std::thread::spawn(move || {
            enter(&namespace);
            TcpStream::connect(address).unwrap()
        });
        let stream = connecting.join().unwrap();
        stream.set_nonblocking(true).unwrap();
        Client::over(tokio::net::TcpStream::from_std(stream).unwrap())
    }

    /// A stock controller of this machine, held by the broker.
    pub async fn held_poll(&self, broker: &Broker, pool: &Pool, controller: &str) -> Client {
        self.held_poll_as(self, broker, pool, controller).await
    }

    /// The same, but with another machine's name.
    pub async fn held_poll_as(&self, named: &Self, broker: &Broker, pool: &Pool, controller: &str) -> Client {
        let before = broker.waiters("").await;
        let mut client = self.connect(7070);
        let poll = pool
            .poll(controller)
            .replace("instance-name: test", &format!("instance-name: {}", named.namespace));
        client.send(poll).await;
        broker.wait_for_waiters(before + 1).await;
        client
    }

    /// The machine dies silently: no packet goes in or out any more.
    pub fn die(&self) {
        self.on_the_machine("-A");
    }

    /// The machine is back after a pause, with all of its connections.
    pub fn revive(&self) {
        self.on_the_machine("-D");
    }

    fn on_the_machine(&self, change: &str) {
        for rule in ["INPUT ! -i lo", "OUTPUT ! -o lo"] {
            run(&format!("ip netns exec {} iptables {change} {rule} -j DROP", self.namespace));
        }
    }

    /// Packets from this machine are lost; packets to it arrive.
    pub fn lose_the_way_back(&self) {
        run(&format!("iptables -A INPUT -i {} -j DROP", self.cable));
    }

    /// Packets from this machine arrive again.
    pub fn heal(&self) {
        run(&format!("iptables -D INPUT -i {} -j DROP", self.cable));
    }

    /// A router in between answers every packet with a reset.
    pub fn reset_by_router(&self) {
        run(&format!("iptables -A OUTPUT -o {} -p tcp -j REJECT --reject-with tcp-reset", self.cable));
    }

    /// A router in between reports that this machine is unreachable.
    pub fn cut_off_by_router(&self) {
        let reject = "-p tcp -j REJECT --reject-with icmp-host-unreachable";
        run(&format!("iptables -A OUTPUT -o {} {reject}", self.cable));
    }

    /// The cable is unplugged.
    pub fn unplug(&self) {
        run(&format!("ip link set {} down", self.cable));
    }
}
