// Owns the tests of a restart under load, with a socket that a service manager keeps open: no run is lost, no controller
// exits.
import assert from "node:assert/strict";
import { fork, spawn, spawnSync } from "node:child_process";
import { get } from "node:http";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Broker, binary, run, until } from "./broker.mjs";
import { BalancedCluster, needsNats } from "./cluster.mjs";
import { Controller, Workload } from "./controller.mjs";

const python = spawnSync("python3", ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"]).status === 0;
const handed = { skip: python ? false : "python3 is not installed" };
const here = (name) => new URL(name, import.meta.url).pathname;
/** Every POST that a broker has accepted is answered within this time. */
const BUDGET = 2_000;
/** How long systemd waits before it restarts a service that has failed (RestartSec=). */
const RESTART_SEC = 1_000;

/** A broker whose sockets stay open when it ends. */
class HeldBroker extends Broker {
  async launch() {
    if (!this.manager) {
      const flags = [this.port, this.ops, binary, "--log-format", "text", ...this.args];
      this.manager = spawn("python3", [here("held_socket.py"), ...flags], {
        stdio: ["pipe", "pipe", "inherit"],
        env: { ...process.env, RUST_LOG: "warn" },
      });
      this.said = createInterface({ input: this.manager.stdout })[Symbol.asyncIterator]();
    }
    await this.tell("start");
    // Connections are not refused meanwhile: the request waits until the broker answers.
    const ready = () => fetch(`http://127.0.0.1:${this.ops}/readyz`, { signal: AbortSignal.timeout(2_000) });
    await until("the broker is ready", () => ready().then((answer) => answer.ok, () => false));
  }

  async tell(command) {
    this.manager.stdin.write(`${command}\n`);
    return JSON.parse((await this.said.next()).value);
  }

  async restart(signal) {
    const { ended } = await this.tell(`end ${signal}`);
    assert.equal(ended, signal === "SIGTERM" ? 0 : -9);
    if (signal === "SIGKILL") await sleep(RESTART_SEC);
    await this.launch();
  }

  async stop() {
    this.manager.stdin.end();
    await new Promise((resolve) => this.manager.once("exit", resolve));
  }
}

/** Controllers in processes of their own. */
class Fleet {
  receipts = new Map();
  exits = [];
  failed = {};

  constructor(broker, count, longestRun) {
    const processes = 2;
    this.processes = Array.from({ length: processes }, (_, number) => {
      const share = count / processes;
      const child = fork(here("fleet.mjs"), [broker.url, number * share, share, longestRun].map(String));
      child.on("message", (message) => this.hear(message));
      child.on("exit", (code, signal) => this.exits.push({ process: number, code, signal }));
      return child;
    });
  }

  hear({ receipt, snapshot, failed, ...exit }) {
    if (receipt) this.receipts.set(receipt, [...(this.receipts.get(receipt) ?? []), snapshot]);
    else if (failed) this.failed[failed] = (this.failed[failed] ?? 0) + 1;
    else this.exits.push(exit);
  }

  stop() {
    for (const child of this.processes) {
      child.removeAllListeners("exit");
      child.kill("SIGKILL");
    }
  }
}

/** Posts runs at a steady rate, whatever their outcome, and records the response to each. */
class Supervisor {
  posts = [];
  underway = new Set();

  constructor(broker, rate) {
    this.broker = broker;
    const begun = performance.now();
    this.timer = setInterval(() => {
      while (this.posts.length < ((performance.now() - begun) / 1_000) * rate) this.start();
    }, 5);
  }

  start() {
    const post = { name: `run_${this.posts.length}`, snapshot: `snapshot_${this.posts.length}` };
    this.posts.push(post);
    const underway = this.post(post).finally(() => this.underway.delete(underway));
    this.underway.add(underway);
  }

  async post(post) {
    const message = JSON.parse(run(post.name));
    message.snapshot.friendlyId = post.snapshot;
    const begun = performance.now();
    try {
      post.answer = await this.broker.post(JSON.stringify(message));
    } catch (error) {
      // A supervisor treats an error like `false`.
      post.error = error.cause?.code ?? error.message;
    }
    post.took = performance.now() - begun;
  }

  /** Returns when every POST is answered. */
  async end() {
    clearInterval(this.timer);
    await Promise.all(this.underway);
  }
}

/** Sends requests without pause; the longest wait for a response is the longest time without a broker. */
class Prober {
  longest = 0;
  failed = {};
  underway = new Set();

  constructor(broker) {
    this.timer = setInterval(() => {
      const ask = this.ask(broker).finally(() => this.underway.delete(ask));
      this.underway.add(ask);
    }, 20);
  }

  async ask(broker) {
    const begun = performance.now();
    await new Promise((resolve) => {
      const request = get(`${broker.url}/connect`, { agent: false }, (response) => response.resume().once("end", resolve));
      request.once("error", ({ code }) => resolve((this.failed[code] = (this.failed[code] ?? 0) + 1)));
    });
    this.longest = Math.max(this.longest, performance.now() - begun);
  }

  async end() {
    clearInterval(this.timer);
    await Promise.all(this.underway);
  }
}

function tally(values) {
  const counts = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

/** Restarts the broker at these seconds while runs are posted. Checks that no run was lost, and returns the measurements. */
async function restartsUnderLoad({ signal, at, seconds }) {
  const [controllers, rate, longestRun] = [200, 100, 800];
  // Many controllers share a process here, so their receipts may take longer than that of a controller in a container of its
  // own.
  const broker = await HeldBroker.start("--drain-window", "1s", "--proof", "received", "--proof-timeout", "1500ms");
  const fleet = new Fleet(broker, controllers, longestRun);
  try {
    await broker.waitForWaiters(controllers);
    const [supervisor, prober] = [new Supervisor(broker, rate), new Prober(broker)];
    const begun = performance.now();
    for (const second of at) {
      await sleep(begun + second * 1_000 - performance.now());
      await broker.restart(signal);
    }
    const ready = performance.now();
    await sleep(begun + seconds * 1_000 - performance.now());
    await supervisor.end();
    await prober.end();
    let again = "never";
    await until("all wait again", async () => (await broker.waiters()) === controllers, 15_000)
      .then(() => (again = Math.round(performance.now() - ready)))
      .catch(() => {});

    const { posts } = supervisor;
    const receipts = ({ name }) => fleet.receipts.get(name) ?? [];
    const hits = posts.filter(({ answer }) => answer?.didWarmStart === true);
    const misses = posts.filter(({ answer }) => answer?.didWarmStart === false);
    const errors = posts.filter(({ error }) => error);
    const seen = {
      runs: posts.length,
      hits: hits.length,
      misses: tally(misses.map(({ answer }) => answer.reason)),
      errors: tally(errors.map(({ error }) => error)),
      "received though answered false": misses.filter((post) => receipts(post).length).length,
      "received though answered by an error": errors.filter((post) => receipts(post).length).length,
      "received twice": posts.filter((post) => receipts(post).length > 1).length,
      "offered more than once": posts.filter(({ answer }) => answer?.offers > 1).length,
      lost: hits.filter((post) => receipts(post).length === 0).length,
      "longest POST, ms": Math.round(Math.max(...posts.map(({ took }) => took))),
      "longest time without a broker, ms": Math.round(prober.longest),
      "all wait again after, ms": again,
      "exited controllers": fleet.exits.length,
      "tries that failed": { fleet: fleet.failed, prober: prober.failed },
    };
    console.log(`${signal}: ${JSON.stringify(seen)}`);

    assert.deepEqual(fleet.exits, [], "a controller would have exited");
    if (signal === "SIGTERM") assert.deepEqual(fleet.failed, {}, "every goodbye is said, none is cut short");
    assert.doesNotMatch(JSON.stringify(seen), /ECONNREFUSED/, "the socket is always there");
    assert.notEqual(again, "never", "not all came back");
    const unanswered = posts.filter(({ answer, error }) => !error && answer?.status !== 200);
    assert.deepEqual(unanswered, []);
    for (const post of hits) {
      // If the receipt of a controller came too late, another controller was offered the run, too.
      const [got, { offers }] = [receipts(post), post.answer];
      assert.ok(1 <= got.length && got.length <= offers, `${JSON.stringify(post)} has ${got.length} receipts`);
      assert.ok(got.every((snapshot) => snapshot === post.snapshot), post.name);
    }
    assert.ok(seen["longest POST, ms"] < BUDGET + prober.longest, "a POST took too long");
    assert.ok(hits.length > posts.length / 3, "runs find controllers between the restarts");
    return { ...seen, errors: errors.length };
  } finally {
    fleet.stop();
    await broker.stop();
  }
}

test("a restart under load loses no run and ends no controller", handed, async () => {
  const seen = await restartsUnderLoad({ signal: "SIGTERM", at: [3, 10, 18.6], seconds: 20 });
  assert.ok(seen["all wait again after, ms"] < 5_000);
  assert.ok(seen["longest time without a broker, ms"] < 2_000);
});

test("a killed broker under load loses no run and ends no controller", handed, async () => {
  const seen = await restartsUnderLoad({ signal: "SIGKILL", at: [2, 5], seconds: 8 });
  assert.ok(seen["all wait again after, ms"] < 10_000);
  assert.ok(seen["longest time without a broker, ms"] < RESTART_SEC + 2_000);
});

async function realControllersOutlive(broker) {
  const workload = new Workload();
  await workload.start();
  const controllers = [1, 2, 3].map((number) => new Controller(broker, workload, `runner_${number}`));
  try {
    await broker.waitForWaiters(3);
    const supervisor = new Supervisor(broker, 20);
    await sleep(1_000);
    await broker.restart("SIGTERM");
    await sleep(2_000);
    await supervisor.end();
    await broker.waitForWaiters(3, 10_000);
    for (const { process, output } of controllers) assert.equal(process.exitCode, null, output.slice(-2_000));
    const hits = supervisor.posts.filter(({ answer }) => answer?.didWarmStart);
    for (const { name } of hits) {
      const attempts = () => workload.attempts.filter((attempt) => attempt.run === name);
      await until(`an attempt of ${name}`, () => attempts().length > 0, 5_000);
      assert.equal(attempts().length, 1, name);
    }
    assert.ok(hits.length > 0);
    const others = supervisor.posts.filter(({ answer }) => !answer?.didWarmStart);
    const reasons = tally(others.map(({ answer, error }) => answer?.reason ?? error));
    console.log(`real controllers: ${supervisor.posts.length} runs, ${hits.length} hits, else ${JSON.stringify(reasons)}, 0 of 3 exited`);
  } finally {
    for (const controller of controllers) await controller.stop();
    workload.stop();
    await broker.stop();
  }
}

test("real controllers outlive a restart under load", handed, async () =>
  realControllersOutlive(await HeldBroker.start("--drain-window", "1s")));

test("real controllers outlive a rolling restart of three brokers under load", { skip: needsNats }, async () =>
  realControllersOutlive(await BalancedCluster.start("--drain-window", "1s")));
