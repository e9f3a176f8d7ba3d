// Owns a cluster under test: real brokers on one NATS server, behind a TCP balancer that gives each connection to the next
// broker, whatever is asked on it.
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { Broker, until } from "./broker.mjs";
import { missing, Nats } from "./nats.mjs";

/** Why a test with a cluster is skipped, or false if nats-server is installed. */
export const needsNats = missing;

/** A balancer of TCP connections. A broker that refuses is passed over; ends and resets are passed on as they are. */
class Balancer {
  next = 0;
  counts = [];

  static async start(ports) {
    const balancer = new this();
    balancer.ports = ports;
    balancer.counts = ports.map(() => 0);
    balancer.server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => balancer.relay(client));
    balancer.server.listen(0, "127.0.0.1");
    await once(balancer.server, "listening");
    balancer.url = `http://127.0.0.1:${balancer.server.address().port}`;
    return balancer;
  }

  async relay(client) {
    client.pause();
    const broker = await this.reach();
    if (!broker || client.destroyed) {
      broker?.destroy();
      return client.resetAndDestroy();
    }
    for (const [from, to] of [[client, broker], [broker, client]]) {
      from.on("error", () => to.resetAndDestroy());
      from.on("close", () => to.destroySoon());
      from.pipe(to);
    }
  }

  async reach() {
    for (let tried = 0; tried < this.ports.length; tried++) {
      const number = this.next++ % this.ports.length;
      const socket = connect({ port: this.ports[number], host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
      const reached = await once(socket, "connect").then(() => true, () => false);
      if (!reached) continue;
      this.counts[number]++;
      return socket;
    }
  }

  stop() {
    this.server.close();
  }
}

/** Three brokers behind a balancer, used like one broker. */
export class BalancedCluster {
  static async start(...args) {
    const cluster = new this();
    cluster.nats = await Nats.start();
    const flags = ["--nats", cluster.nats.url, ...args];
    cluster.brokers = await Promise.all([1, 2, 3].map(() => Broker.start(...flags)));
    await cluster.waitForEachOther();
    cluster.balancer = await Balancer.start(cluster.brokers.map(({ port }) => port));
    cluster.url = cluster.balancer.url;
    return cluster;
  }

  async waitForEachOther() {
    const seen = () => Promise.all(this.brokers.map((broker) => broker.metric("pilotlight_cluster_brokers")));
    await until("the brokers see each other", async () => (await seen()).every((count) => count === 2));
  }

  /** Restarts one broker after the other, as a rolling upgrade does. */
  async restart(signal) {
    for (const broker of this.brokers) {
      await broker.restart(signal);
      await this.waitForEachOther();
    }
  }

  async waitForWaiters(count, milliseconds) {
    const waiters = async () => (await Promise.all(this.brokers.map((broker) => broker.waiters()))).reduce((sum, each) => sum + each);
    await until(`${count} waiters`, async () => (await waiters()) === count, milliseconds);
    if (count > 0) await Promise.all(this.brokers.map((broker) => this.waitUntilKnown(broker)));
  }

  /** A broker that knows of a pool anywhere says so to a run of another version, which no controller gets. */
  async waitUntilKnown(broker, deployment = "deployment_1") {
    const probe = () => fetch(`${broker.url}/v1/pools/${deployment}/another/0.5/0.5`, { method: "POST" }).then((answer) => answer.json());
    await until("a broker knows the pool", async () => (await probe()).reason === "wrong_version");
  }

  async retire(deployment) {
    const ops = this.brokers[0].ops;
    const answer = await fetch(`http://127.0.0.1:${ops}/retire?deployment=${deployment}&cluster=true`, { method: "POST" });
    if (!answer.ok) throw new Error(await answer.text());
  }

  /** On a connection of its own, which the balancer gives to the next broker. */
  post(message) {
    return Broker.prototype.post.call(this, message, { connection: "close" });
  }

  async stop() {
    this.balancer.stop();
    await Promise.all(this.brokers.map((broker) => broker.stop()));
    await this.nats.stop();
  }
}
