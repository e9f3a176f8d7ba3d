// Owns the tests with Trigger.dev's own client: it waits, gets runs byte for byte, and survives drains and restarts of
// brokers.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DequeuedMessage } from "@trigger.dev/core/v3";
import { WarmStartClient } from "@trigger.dev/core/v3/workers";
import { Broker, run, until } from "./broker.mjs";

// The bytes that were received, before the client parses them.
const received = [];
const realFetch = globalThis.fetch;
before(() => {
  globalThis.fetch = async (...args) => {
    const response = await realFetch(...args);
    if (String(args[0]).endsWith("/warm-start") && (args[1]?.method ?? "GET") === "GET" && response.ok) {
      received.push(await response.clone().text());
    }
    return response;
  };
  // The client logs every retry.
  for (const method of ["log", "error", "info", "debug"]) console[method] = () => {};
});
after(() => {
  globalThis.fetch = realFetch;
});

function client(broker, number = 0) {
  return new WarmStartClient({
    apiUrl: new URL(`${broker.url}/a/path?that=is#dropped`),
    controllerId: `controller_${number}`,
    deploymentId: "deployment_1",
    deploymentVersion: "20260821.3",
    machineCpu: "0.50",
    machineMemory: "0.5",
  });
}

const wait = (warm, connectionTimeoutMs = 50_000, keepaliveMs = 120_000) =>
  warm.warmStart({ workerInstanceName: "test", connectionTimeoutMs, keepaliveMs });

async function withBroker(args, story) {
  const broker = await Broker.start(...args);
  try {
    await story(broker);
  } finally {
    await broker.stop();
  }
}

test("connect says how to wait", () =>
  withBroker(["--connection-timeout", "44s", "--keepalive", "200s"], async (broker) => {
    const answer = await client(broker).connect();
    assert.deepEqual(answer, { success: true, data: { connectionTimeoutMs: 44_000, keepaliveMs: 200_000 } });
  }));

test("runs arrive byte for byte, one after the other", () =>
  withBroker([], async (broker) => {
    const warm = client(broker);
    for (let number = 0; number < 50; number++) {
      const message = run(`run_${number}`);
      const waiting = wait(warm);
      await broker.waitForWaiters(1);
      const answer = await broker.post(message);
      assert.deepEqual(answer, { status: 200, didWarmStart: true, proof: "received", offers: 1 });
      assert.deepEqual(await waiting, DequeuedMessage.parse(JSON.parse(message)));
      assert.equal(received.at(-1), message);
    }
  }));

test("idle timeouts are survived, and a run comes after them", () =>
  withBroker([], async (broker) => {
    const waiting = wait(client(broker), 500);
    await sleep(1_800);
    await broker.waitForWaiters(1);
    const answer = await until("a hit", async () => {
      const answer = await broker.post(run("run_idle"));
      return answer.didWarmStart && answer;
    });
    assert.equal(answer.didWarmStart, true);
    assert.equal((await waiting).run.friendlyId, "run_idle");
  }));

test("an abort empties the pool", () =>
  withBroker([], async (broker) => {
    const warm = client(broker);
    const waiting = wait(warm);
    await broker.waitForWaiters(1);
    const begun = Date.now();
    warm.abort();
    assert.equal(await waiting, null);
    await broker.waitForWaiters(0);
    assert.ok(Date.now() - begun < 100, `${Date.now() - begun} ms`);
    assert.equal((await broker.post(run("run_none"))).didWarmStart, false);
  }));

test("a retired controller gives up", () =>
  withBroker([], async (broker) => {
    const waiting = wait(client(broker));
    await broker.waitForWaiters(1);
    await broker.retire("deployment_1");
    assert.equal(await waiting, null);
  }));

test("1,000 runs proved received are 1,000 receipts", () =>
  withBroker([], async (broker) => {
    const receipts = new Map();
    const clients = Array.from({ length: 10 }, (_, number) => client(broker, number));
    let over = false;
    const controllers = clients.map(async (warm) => {
      for (;;) {
        const message = await wait(warm);
        if (over || !message) return;
        receipts.set(message.run.friendlyId, (receipts.get(message.run.friendlyId) ?? 0) + 1);
      }
    });
    const took = [];
    for (let number = 0; number < 1_000; number++) {
      await until("a hit", async () => {
        const begun = performance.now();
        const answer = await broker.post(run(`run_${number}`));
        if (answer.didWarmStart) {
          took.push(performance.now() - begun);
          assert.equal(answer.proof, "received");
        } else {
          // Ten runs in quick succession can empty the pool. A missed run reaches no controller, so it is posted again.
          assert.equal(answer.reason, "all_taken", JSON.stringify(answer));
        }
        return answer.didWarmStart;
      });
    }
    over = true;
    for (const warm of clients) warm.abort();
    await Promise.all(controllers);
    assert.equal(receipts.size, 1_000);
    assert.ok([...receipts.values()].every((count) => count === 1));
    took.sort((a, b) => a - b);
    process.stderr.write(`stock client, proof received: p50 ${took[500].toFixed(2)} ms, p99 ${took[990].toFixed(2)} ms\n`);
  }));

test("a lone broker that was drained sends its pollers on seldom, and they outlast it", () =>
  withBroker(["--drain-window", "1s"], async (broker) => {
    const waiting = Array.from({ length: 5 }, (_, number) => wait(client(broker, number)));
    await broker.waitForWaiters(5);
    const ops = `http://127.0.0.1:${broker.ops}`;
    await fetch(`${ops}/drain`, { method: "POST" });
    await sleep(35_000);
    const metrics = await (await fetch(`${ops}/metrics`)).text();
    const redirects = Number(metrics.match(/^pilotlight_polls_total\{end="drained"\} (\d+)$/m)[1]);
    // One in the window and then one every 5 to 15 s; fetch follows 20 before it gives up.
    assert.ok(5 * 2 <= redirects && redirects <= 5 * 8, `${redirects} redirects of 5 pollers`);
    await broker.waitForWaiters(5);
    await broker.restart("SIGTERM");
    await broker.waitForWaiters(5, 60_000);
    for (let number = 0; number < 5; number++) {
      assert.equal((await broker.post(run(`run_${number}`))).didWarmStart, true);
    }
    assert.equal(new Set((await Promise.all(waiting)).map((message) => message.run.friendlyId)).size, 5);
  }));

for (const [how, signal] of [["a drain", "SIGTERM"], ["a kill", "SIGKILL"]]) {
  test(`20 of 20 pollers come back after ${how} and a restart, and each gets a run`, () =>
    withBroker(["--drain-window", "1s"], async (broker) => {
      const waiting = Array.from({ length: 20 }, (_, number) => wait(client(broker, number)));
      await broker.waitForWaiters(20);
      await broker.restart(signal);
      await broker.waitForWaiters(20, 60_000);
      for (let number = 0; number < 20; number++) {
        assert.equal((await broker.post(run(`run_${number}`))).didWarmStart, true);
      }
      const runs = (await Promise.all(waiting)).map((message) => message.run.friendlyId);
      assert.deepEqual(runs.sort(), Array.from({ length: 20 }, (_, number) => `run_${number}`).sort());
    }));
}
