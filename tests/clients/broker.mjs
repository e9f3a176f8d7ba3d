// Owns the broker under test: a real process on ports of its own, and the POSTs of a supervisor.
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export const binary = process.env.PILOTLIGHT ?? new URL("../../target/debug/pilotlight", import.meta.url).pathname;
const example = readFileSync(new URL("../data/dequeued-message.json", import.meta.url), "utf8");

/**
 * A free port, which is chosen here because the broker must use it again after a restart. It is none of those that the kernel gives
 * to others in the meantime, to clients among them.
 */
export async function freePort() {
  for (;;) {
    const server = createServer().listen(randomInt(20_000, 32_000), "127.0.0.1");
    const isFree = await new Promise((resolve) => server.once("listening", () => resolve(true)).once("error", () => resolve(false)));
    if (!isFree) continue;
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

export async function until(what, condition, milliseconds = 30_000) {
  const end = Date.now() + milliseconds;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${milliseconds} ms: ${what}`);
    await sleep(10);
  }
}

const started = new Set();
const killStarted = () => started.forEach((child) => child.kill("SIGKILL"));
process.on("exit", killStarted);
// A runner that has lost its patience ends a file so.
process.on("SIGTERM", () => process.exit(143));

/** A process that does not outlive this one, whatever ends it. */
export function endsWithThis(child) {
  started.add(child);
  child.once("exit", () => started.delete(child));
  return child;
}

export class Broker {
  address = "127.0.0.1";
  log = "warn";

  static async start(...args) {
    const broker = new this();
    broker.args = args;
    broker.port = await freePort();
    broker.ops = await freePort();
    broker.url = `http://127.0.0.1:${broker.port}`;
    await broker.launch();
    return broker;
  }

  async launch() {
    const { address, log, port, ops, args } = this;
    const flags = ["--listen", `${address}:${port}`, "--ops-listen", `127.0.0.1:${ops}`, ...args];
    this.process = endsWithThis(spawn(binary, flags, { stdio: ["ignore", "ignore", "inherit"], env: { ...process.env, RUST_LOG: log } }));
    this.ended = new Promise((resolve) => this.process.once("exit", (code, signal) => resolve(code ?? signal)));
    await until("the broker is ready", () => fetch(`http://127.0.0.1:${ops}/readyz`).then((r) => r.ok, () => false));
  }

  async restart(signal) {
    this.process.kill(signal);
    await this.ended;
    await this.launch();
  }

  async stop() {
    this.process.kill("SIGKILL");
    await this.ended;
  }

  async waiters() {
    const answer = await fetch(`http://127.0.0.1:${this.ops}/pools`);
    return (await answer.json()).waiters;
  }

  async waitersOf(pool) {
    const answer = await fetch(`http://127.0.0.1:${this.ops}/pools?deployment=${pool.split("/")[0]}`);
    return (await answer.json()).waiters;
  }

  async waitForWaiters(count, milliseconds) {
    await until(`${count} waiters`, async () => (await this.waiters()) === count, milliseconds);
  }

  /** The value of one metric, named with its labels as they are printed. */
  async metric(name) {
    const text = await fetch(`http://127.0.0.1:${this.ops}/metrics`).then((answer) => answer.text());
    const line = text.split("\n").find((line) => line.startsWith(`${name} `));
    return Number(line?.split(" ").at(-1));
  }

  async retire(deployment) {
    await fetch(`http://127.0.0.1:${this.ops}/retire?deployment=${deployment}`, { method: "POST" });
  }

  /** Posts a run as a supervisor does; the message's text is relayed unchanged. */
  async post(message, headers = {}) {
    const answer = await fetch(`${this.url}/warm-start`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: `{"dequeuedMessage":${message}}`,
    });
    return { status: answer.status, ...(await answer.json()) };
  }
}

/** The text of a valid run for a deployment, with unusual white space, so that any change to it is noticed. */
export function run(name, deployment = "deployment_1") {
  const message = JSON.parse(example);
  message.run.friendlyId = name;
  message.deployment.friendlyId = deployment;
  return JSON.stringify(message, null, 3).replace('"placementTags"', '"an unknown field" : 1.50,\n "placementTags"');
}
