// Owns the tests of `received` with the HTTP clients of Node, Bun and Python that abort while a run is being sent: the
// kernel has passed every byte to their process. The application may not get the run: if it aborts at the same moment, it
// gets an error for a run that was read.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Broker } from "./broker.mjs";
import { certificate } from "./certificate.mjs";
import { holds, whatWasRead, witnessed } from "./witness.mjs";

const ROUNDS = 1000;
const LANES = 8;
const here = (name) => new URL(name, import.meta.url).pathname;
// npm does not run the scripts of packages here; Bun's script would only copy this program to another path.
const bun = here(`node_modules/@oven/bun-${process.platform}-${process.arch}/bin/bun`);
const RUNTIMES = {
  node: { command: [process.execPath, here("racing_fetch.mjs")], processes: 1 },
  bun: { command: [bun, here("racing_fetch.mjs")], processes: 1 },
  python: { command: ["python3", here("racing_http.py")], processes: LANES },
};

const WAYS = [["in clear", false], ["through TLS", true]];

/** Why a program cannot be run here, alone or under strace; false if it can. */
function cannot(program, watch = (command) => command) {
  const [first, ...args] = watch([program, "--version"]);
  return spawnSync(first, args.map(String), { stdio: "ignore" }).status === 0 ? false : `${first} cannot be run here (${program})`;
}

const underWitness = (command) => witnessed("/dev/null", command);

/** Each round has an address of its own, which identifies its connection in the output of strace. */
class BrokerOfManyAddresses extends Broker {
  address = "0.0.0.0";
  // Aborted controllers look like controllers behind a proxy without headers, which would log a warning each second.
  log = "error";
}

/** A broker with or without TLS, the URL that controllers poll, and a function that posts a run. */
async function start(t, isTls, ...args) {
  const folder = mkdtempSync(join(tmpdir(), "pilotlight-"));
  const { cert, key } = certificate(folder);
  const local = ["--allow-poll", "127.0.0.0/8", "--allow-dispatch", "127.0.0.0/8"];
  const tls = isTls ? ["--tls-cert", cert, "--tls-key", key] : [];
  const broker = await BrokerOfManyAddresses.start(...local, ...tls, ...args);
  const scheme = isTls ? https : http;
  const agent = new scheme.Agent({ keepAlive: true, ca: readFileSync(cert) });
  t.after(async () => {
    agent.destroy();
    await broker.stop();
    rmSync(folder, { recursive: true });
  });
  const url = (run, address) => `${isTls ? "https" : "http"}://${address}:${broker.port}/v1/pools/${run}/1/1/1`;
  const post = (run, payload, query = "") => new Promise((resolve, reject) => {
    const options = { agent, method: "POST", headers: { "pilotlight-run": run } };
    const request = scheme.request(`${url(run, "127.0.0.1")}${query}`, options);
    request.on("response", async (answer) => resolve(JSON.parse(await text(answer)))).on("error", reject).end(payload);
  });
  return { broker, folder, post, pollUrl: (run, address = "127.0.0.1") => `${url(run, address)}?timeout=30s` };
}

/** A process of controllers: `ask` starts a poll, and resolves with the controller's report when the poll is over. */
function controllers(t, [program, ...args]) {
  const child = spawn(program, args.map(String), {
    env: { ...process.env, NODE_TLS_REJECT_UNAUTHORIZED: "0", NODE_NO_WARNINGS: "1" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  const ended = once(child, "exit");
  const asked = new Map();
  createInterface({ input: child.stdout }).on("line", (line) => {
    const said = JSON.parse(line);
    asked.get(said.url)(said);
  });
  return {
    ask: (poll) => {
      const said = new Promise((resolve) => asked.set(poll.url, resolve));
      child.stdin.write(`${JSON.stringify(poll)}\n`);
      return Promise.race([said, ended.then(() => assert.fail(`${program} has ended`))]);
    },
    end: async () => {
      child.stdin.end();
      await ended;
    },
  };
}

const payloadOf = (run, length) => `${run} ${"x".repeat(length)} ${run}`;

/** Runs the rounds. Returns each with the response to its POST, the application's receipt, and whether its process read it. */
async function race(t, { command, processes }, isTls) {
  const { folder, post, pollUrl } = await start(t, isTls);
  const logs = Array.from({ length: processes }, (_, number) => join(folder, `reads_${number}`));
  const groups = logs.map((log) => controllers(t, witnessed(log, command)));
  const rounds = [];
  // The longest delay before an abort, in ms. It adapts so that about half of the aborts come before the run, on any
  // machine.
  let range = 20;
  const lane = async (group) => {
    while (rounds.length < ROUNDS) {
      const number = rounds.length;
      const run = `run_${number}`;
      // Some are larger than a single read.
      const payload = payloadOf(run, number % 16 === 3 ? 10 * 16_384 + 3000 : 3000);
      const address = `127.1.${number >> 8}.${number & 255}`;
      const round = { run, payload, address };
      rounds.push(round);
      // Some block their event loop, usually until the broker has closed its side of the connection. Bun reads in another
      // thread meanwhile.
      const stall = number % 8 === 7 ? 15 + Math.random() * 30 : 0;
      const polling = group.ask({ url: pollUrl(run, address), after: Math.random() * range, stall });
      const posting = sleep(Math.random() * range / 2).then(() => post(run, payload, "?wait=50ms"));
      const [said, answer] = await Promise.all([polling, posting]);
      Object.assign(round, { answer, receipt: said.run === run });
      range *= answer.delivered ? 0.95 : 1.05;
    }
  };
  await Promise.all(Array.from({ length: LANES }, (_, number) => lane(groups[number % processes])));
  await Promise.all(groups.map((group) => group.end()));
  const read = new Map((await Promise.all(logs.map(whatWasRead))).flatMap((reads) => [...reads]));
  for (const round of rounds) round.read = (read.get(round.address) ?? []).some((bytes) => holds(bytes, round.payload, isTls));
  return rounds;
}

/** The number of rounds of each kind. */
function tally(rounds) {
  const counts = {};
  for (const { answer, read, receipt } of rounds) {
    const kind = `${answer.proof ?? answer.reason}, ${receipt ? "a receipt" : read ? "read, and aborted" : "not read"}`;
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return Object.entries(counts).sort(([, a], [, b]) => b - a).map(([kind, count]) => `${count} ${kind}`).join("; ");
}

for (const [name, runtime] of Object.entries(RUNTIMES)) {
  const skip = cannot(runtime.command[0], underWitness);
  for (const [way, isTls] of WAYS) {
    test(`nothing is received that was not read: 1,000 raced aborts of ${name}, ${way}`, { skip }, async (t) => {
      const rounds = await race(t, runtime, isTls);
      t.diagnostic(tally(rounds));
      for (const { run, answer, read, receipt } of rounds) {
        const what = `${run}: ${JSON.stringify(answer)}`;
        assert.ok(read || !receipt, `${what}: a receipt that the witness did not see`);
        assert.ok(read || !answer.delivered, `${what}: no receipt`);
        assert.ok(!read || answer.reason !== "no_pool", `${what}: and yet it was read`);
      }
      const received = rounds.filter(({ answer }) => answer.proof === "received").length;
      assert.ok(received >= ROUNDS / 10 && received <= ROUNDS * 0.9, `${received} received: the race was none`);
    });
  }
}

for (const [way, isTls] of WAYS) {
  test(`who reads to the end has read the run, long before its time is over: ${way}`, { skip: cannot("python3") }, async (t) => {
    const { broker, post, pollUrl } = await start(t, isTls, "--proof-timeout", "10s", "--dispatch-budget", "30s");
    const python = controllers(t, RUNTIMES.python.command);
    const times = [];
    for (let number = 0; number < 20; number++) {
      const run = `run_${number}`;
      const posting = broker.waitForWaiters(1).then(async () => {
        const begun = performance.now();
        const answer = await post(run, payloadOf(run, 3000));
        times.push(performance.now() - begun);
        return answer;
      });
      const [answer, said] = await Promise.all([posting, python.ask({ url: pollUrl(run) })]);
      assert.deepEqual([answer.proof, said.run], ["received", run], JSON.stringify(answer));
    }
    const quickest = Math.min(...times);
    t.diagnostic(`the quickest of ${times.length} took ${quickest.toFixed(1)} ms`);
    assert.ok(quickest < 400, `${times}`);
  });
}
