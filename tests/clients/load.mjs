// Owns a small load that produces every metric: hits at every level of proof, misses of several reasons, failures, a crowd, and
// runs that find their controllers at another broker, and runs whose callers wait for a reply.
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const HOST = "127.0.0.1";
const MACHINE = "v1/0.5/1";
/** Failing controllers have an address of their own, so that the others do not become suspect. */
const BAD_MACHINE = "127.0.0.2";
/** A controller that resets its connections has a third address: it becomes suspect, and is offered runs last. */
const RUDE_MACHINE = "127.0.0.3";
const STOCK = [
  "x-trigger-deployment-id: stock",
  "x-trigger-deployment-version: v1",
  "x-trigger-machine-cpu: 0.5",
  "x-trigger-machine-memory: 1",
];

/** The counters that the load must have increased before the dashboards are checked. */
export const SHOWN = [
  'pilotlight_dispatches_total{outcome="hit",reason="none"}',
  'pilotlight_dispatches_total{outcome="refused",reason="none"}',
  'pilotlight_dispatches_total{outcome="aborted",reason="none"}',
  ...["no_pool", "wrong_version", "wrong_machine", "all_taken", "not_a_message", "undelivered", "unknown"].map(
    (reason) => `pilotlight_dispatches_total{outcome="miss",reason="${reason}"}`,
  ),
  ...["written", "acked", "received", "hop", "lost", "frozen"].map((verdict) => `pilotlight_offers_total{verdict="${verdict}"}`),
  ...["matched", "client_gone", "expired", "retired"].map((end) => `pilotlight_polls_total{end="${end}"}`),
  "pilotlight_redeliveries_total",
  ...["replied", "worker_error", "reply_timeout", "miss"].map((outcome) => `pilotlight_replies_total{outcome="${outcome}"}`),
  "pilotlight_replies_open",
  "pilotlight_cluster_connected",
  "pilotlight_cluster_brokers",
  'pilotlight_cluster_forwards_total{outcome="delivered"}',
];

export class Load {
  stopped = false;
  sockets = new Set();
  crowd = [];
  posts = 0;
  misses = 0;

  /** The load of a broker; `other` is another one of its cluster. */
  constructor(broker, other) {
    this.broker = broker;
    this.other = other;
    this.begun = Date.now();
    this.tasks = [
      ...Array.from({ length: 24 }, (_, number) => this.controller(`app-${number % 4}`, number % 12 < 4 ? ["via: 1.1 proxy"] : [])),
      ...Array.from({ length: 4 }, () => this.controller("far", [], this.other)),
      ...Array.from({ length: 6 }, () => this.idler()),
      ...Array.from({ length: 8 }, (_, number) => this.worker(number)),
      ...Array.from({ length: 8 }, () => this.forever(20, () => this.caller())),
      this.forever(400, () => this.post(`nobody/${MACHINE}`, "?reply=1s")),
      this.forever(30, () => this.dispatch()),
      this.forever(100, () => this.post(`far/${MACHINE}`)),
      this.forever(250, () => this.miss()),
      this.forever(3_000, () => this.fail()),
      this.forever(2_500, () => this.again()),
      this.forever(1_000, () => this.abort()),
      this.forever(4_000, () => this.retire()),
      this.forever(250, () => this.wave()),
    ];
  }

  async stop() {
    this.stopped = true;
    for (const socket of this.sockets) socket.destroy();
    await Promise.all(this.tasks);
  }

  /** Repeats it with a pause, one call at a time. */
  async forever(milliseconds, act) {
    while (!this.stopped) {
      await act();
      await sleep(milliseconds);
    }
  }

  open(localAddress, broker = this.broker) {
    const socket = connect({ port: broker.port, host: HOST, localAddress }).setNoDelay();
    this.sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => this.sockets.delete(socket));
    return socket;
  }

  /** Sends a request and returns its status, or 0 without a response. Closes the connection as every client does. */
  async ask(socket, request) {
    socket.write(request);
    return new Promise((resolve) => {
      let read = "";
      const finish = (status) => {
        socket.off("data", more).off("close", gone);
        resolve(status);
      };
      const gone = () => finish(0);
      const more = (bytes) => {
        read += bytes.toString("latin1");
        const end = read.indexOf("\r\n\r\n");
        if (end < 0) return;
        const length = Number(/content-length: (\d+)/i.exec(read)?.[1] ?? 0);
        if (read.length < end + 4 + length) return;
        if (/\r\nconnection: close/i.test(read)) socket.destroy();
        finish(Number(read.slice(9, 12)));
      };
      socket.on("data", more).once("close", gone);
    });
  }

  poll(pool, query = "", headers = []) {
    return [`GET /v1/pools/${pool}${query} HTTP/1.1`, "host: b", ...headers, "", ""].join("\r\n");
  }

  async post(pool, query = "", size = 200 + (this.posts % 7) * 900) {
    this.posts += 1;
    const socket = this.open();
    const head = [`POST /v1/pools/${pool}${query} HTTP/1.1`, "host: b", "connection: close", `content-length: ${size}`, "", ""];
    const status = await this.ask(socket, head.join("\r\n") + "x".repeat(size));
    socket.destroy();
    return status;
  }

  /** A controller that reads each run and polls again after 200 ms. */
  async controller(name, headers, broker) {
    while (!this.stopped) {
      const socket = this.open(undefined, broker);
      await this.ask(socket, this.poll(`${name}/${MACHINE}`, "?timeout=20s", headers));
      socket.destroy();
      await sleep(200);
    }
  }

  /** Waits for runs and replies to them, after a while and in two parts. One worker in eight says that the run failed, another nothing. */
  async worker(number) {
    while (!this.stopped) {
      try {
        const run = await fetch(`${this.broker.url}/v1/pools/asks/${MACHINE}?timeout=1s`);
        await run.arrayBuffer();
        const target = run.headers.get("pilotlight-reply");
        if (!target || number === 1) continue;
        await sleep(10 + Math.random() * 40);
        const url = `${this.broker.url}${number === 0 ? target.replace("/reply?", "/error?") : target}`;
        const parts = async function* () {
          yield Buffer.alloc(100);
          await sleep(50 + Math.random() * 150);
          yield Buffer.alloc(Math.round(1_000 + Math.random() * 20_000));
        };
        await (await fetch(url, { method: "POST", body: parts(), duplex: "half" })).arrayBuffer();
      } catch {
        await sleep(50);
      }
    }
  }

  async caller() {
    const answer = fetch(`${this.broker.url}/v1/pools/asks/${MACHINE}?reply=2s&wait=500ms`, { method: "POST", body: "x" });
    await answer.then((answer) => answer.arrayBuffer()).catch(() => {});
  }

  /** A controller that gets no run and polls again on the same connection. */
  async idler() {
    while (!this.stopped) {
      const socket = this.open();
      while (!this.stopped && (await this.ask(socket, this.poll(`quiet/${MACHINE}`, "?timeout=1s"))) === 204);
      socket.destroy();
      await sleep(200);
    }
  }

  async dispatch() {
    const proof = ["", "", "", "?proof=acked", "?proof=written"][this.posts % 5];
    await this.post(`app-${this.posts % 4}/${MACHINE}`, proof);
  }

  async miss() {
    this.misses += 1;
    await this.post(`nobody/${MACHINE}`);
    if (this.misses % 2) await this.post("app-0/v2/0.5/1");
    if (this.misses % 3 === 0) await this.post("app-1/v1/8/32");
    await this.waiting(`single/${MACHINE}`);
    await this.post(`single/${MACHINE}`);
    for (let count = this.misses % 4; count > 0; count--) await this.post(`single/${MACHINE}`);
    if (this.misses % 5) return;
    if (!this.stock || this.stock.destroyed) {
      this.stock = this.open();
      this.stock.write(["GET /warm-start HTTP/1.1", "host: b", ...STOCK, "", ""].join("\r\n"));
      this.stock.resume();
    }
    await this.post(`stock/${MACHINE}`);
  }

  /** Parks one waiter in a pool, and returns once the broker holds it; `act` is called when its run arrives. */
  async waiting(pool, localAddress, act = (socket) => socket.end()) {
    const socket = this.open(localAddress);
    socket.once("data", () => act(socket));
    socket.write(this.poll(pool));
    const [deployment] = pool.split("/");
    for (let tries = 0; tries < 100 && !this.stopped; tries++) {
      const answer = await fetch(`http://${HOST}:${this.broker.ops}/pools?deployment=${deployment}`);
      if ((await answer.json()).waiters > 0) break;
      await sleep(5);
    }
    return socket;
  }

  /** A stopped controller: its kernel receives the run, but its process never reads it. */
  async fail() {
    const socket = await this.waiting(`stopped/${MACHINE}`, BAD_MACHINE);
    socket.pause();
    await this.post(`stopped/${MACHINE}`);
    socket.destroy();
    const second = await this.waiting(`stopped/${MACHINE}`, BAD_MACHINE);
    second.pause();
    await this.post(`stopped/${MACHINE}`, "?redeliver=true");
    second.destroy();
  }

  /** A stopped controller, whose run the next one gets; and one that resets its connection, whose run no other one gets. */
  async again() {
    const good = this.open();
    const read = this.ask(good, this.poll(`again/${MACHINE}`));
    const stopped = await this.waiting(`again/${MACHINE}`, BAD_MACHINE);
    stopped.pause();
    await this.post(`again/${MACHINE}`, "?redeliver=true");
    for (const socket of [good, stopped]) socket.destroy();
    await read;
    await this.waiting(`reset/${MACHINE}`, RUDE_MACHINE, (socket) => socket.resetAndDestroy());
    await this.post(`reset/${MACHINE}`);
  }

  async abort() {
    const socket = this.open();
    socket.write(`POST /v1/pools/later/${MACHINE}?wait=2s HTTP/1.1\r\nhost: b\r\ncontent-length: 1\r\n\r\nx`);
    await sleep(150);
    socket.destroy();
    await this.post(`later/${MACHINE}`, "?wait=long");
  }

  async retire() {
    await this.waiting(`old/${MACHINE}`);
    if (!this.stopped) await this.broker.retire("old");
  }

  /** Controllers that only wait; their number oscillates between 100 and 1,500. */
  async wave() {
    const seconds = (Date.now() - this.begun) / 1_000;
    const target = Math.round(800 - 700 * Math.cos((seconds / 25) * 2 * Math.PI));
    for (let count = 0; this.crowd.length < target && count < 80; count++) {
      const socket = this.open();
      socket.write(this.poll(`crowd-${this.crowd.length % 40}/${MACHINE}`));
      socket.resume();
      this.crowd.push(socket);
    }
    while (this.crowd.length > target) this.crowd.pop().destroy();
  }
}
