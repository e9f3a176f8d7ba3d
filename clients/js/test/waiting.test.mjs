// Owns the tests of waiting for runs: each run once and unchanged, and every way to stop.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { dispatch, wait } from "../index.mjs";
import { Broker, freshPool, promised, startWorker, until } from "./support.mjs";

let broker;
before(async () => (broker = await Broker.start("--proof-timeout", "5s", "--dispatch-budget", "20s")));
after(() => broker?.stop());

const post = (pool, payload, options = {}) => dispatch(pool, payload, { broker: broker.url, wait: "10s", ...options });

describe("a worker", () => {
  test("gets each run unchanged with its name and type, and proves that it was received", async (t) => {
    const pool = freshPool();
    const seen = [];
    startWorker(t, broker, pool, (run) => seen.push(run) && run.done());
    const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    for (const [payload, contentType] of [["héllo 世界", undefined], [every, "application/x-run; v=1"], ["", "text/plain"], ["x".repeat(1 << 20), "a/b"]]) {
      const outcome = await post(pool, payload, { run: `run ${seen.length}`, contentType });
      assert.deepEqual([outcome.outcome, outcome.proof, outcome.run], ["delivered", "received", `run ${seen.length - 1}`]);
      const run = seen.at(-1);
      assert.equal(run.id, outcome.run);
      assert.ok(Buffer.from(payload).equals(run.payload));
      assert.equal(run.contentType, contentType ?? "text/plain; charset=utf-8");
      assert.equal(run.controller, outcome.controller);
    }
    assert.equal(seen[0].text(), "héllo 世界");
  });

  test("reads JSON", async (t) => {
    const pool = freshPool();
    const seen = promised();
    startWorker(t, broker, pool, (run) => seen.resolve(run.json()));
    await post(pool, JSON.stringify({ a: [1] }), { contentType: "application/json" });
    assert.deepEqual(await seen.promise, { a: [1] });
  });

  test("does not wait while it works", async (t) => {
    const pool = freshPool();
    const [begun, finish] = [promised(), promised()];
    startWorker(t, broker, pool, async () => {
      begun.resolve();
      await finish.promise;
    });
    await post(pool, "one");
    await begun.promise;
    assert.equal((await post(pool, "two", { wait: "0s" })).outcome, "miss");
    finish.resolve();
    assert.equal((await post(pool, "three")).outcome, "delivered");
  });

  test("with three slots works on three runs at once, under three names", async (t) => {
    const pool = freshPool();
    const runs = [];
    const worker = startWorker(t, broker, pool, (run) => runs.push(run), { slots: 3, controller: "worker" });
    const posted = await Promise.all(["a", "b", "c"].map((payload) => post(pool, payload)));
    assert.deepEqual(posted.map(({ controller }) => controller).sort(), ["worker-1", "worker-2", "worker-3"]);
    assert.equal((await post(pool, "d", { wait: "0s" })).outcome, "miss");
    runs[1].done();
    assert.equal((await post(pool, "e")).controller, runs[1].controller);
    worker.stop();
    for (const run of runs) run.done();
    await worker.ended;
  });

  test("has a name that no other slot has", async (t) => {
    const pool = freshPool();
    const runs = [];
    for (const slots of [1, 2]) startWorker(t, broker, pool, (run) => runs.push(run), { slots });
    await until("all wait", async () => (await broker.waitersOf(pool)) === 3);
    const names = (await Promise.all(["a", "b", "c"].map((payload) => post(pool, payload)))).map(({ controller }) => controller);
    assert.ok(names.every((name) => new RegExp(`-${process.pid}-[0-9a-f]{4}-\\d+$`).test(name)), names);
    assert.ok(new Set(names.map((name) => name.replace(/-\d+$/, ""))).size === 1, names);
    for (const run of runs) run.done();
  });

  test("answers a run that nobody waits for in peace", async (t) => {
    const pool = freshPool();
    const results = [];
    startWorker(t, broker, pool, async (run) => {
      assert.equal(run.wantsReply, false);
      results.push(await (results.length ? run.fail(new Error("no")) : run.reply("yes")));
      await assert.rejects(run.reply("again"), TypeError);
    });
    await post(pool, "one");
    await post(pool, "two");
    await until("both are answered", () => results.length === 2);
    assert.deepEqual(results, ["unwanted", "unwanted"]);
    assert.equal((await post(pool, "three")).outcome, "delivered");
  });
});

describe("stopping", () => {
  test("by leaving the loop withdraws the poll, also of an unseen run", async () => {
    const pool = freshPool();
    const posted = post(pool, "one");
    for await (const run of wait({ broker: broker.url, pool, slots: 2 })) {
      assert.equal(run.text(), "one");
      break;
    }
    await posted;
    assert.equal((await post(pool, "two", { wait: "0s" })).outcome, "miss");
  });

  test("by the signal ends a loop that waits", async () => {
    const pool = freshPool();
    const worker = startWorker({ after() {} }, broker, pool, () => assert.fail("no run was posted"));
    await until("it waits", async () => (await broker.waitersOf(pool)) === 1);
    worker.stop();
    await worker.ended;
    assert.deepEqual(await worker.runs.next(), { value: undefined, done: true });
    assert.equal((await post(pool, "x", { wait: "0s" })).outcome, "miss");
  });

  test("by the signal finishes the runs under way first", async (t) => {
    const pool = freshPool();
    const [begun, finish] = [promised(), promised()];
    let isFinished = false;
    const worker = startWorker(t, broker, pool, async () => {
      begun.resolve();
      await finish.promise;
      isFinished = true;
    });
    await post(pool, "one");
    await begun.promise;
    worker.stop();
    await turn();
    finish.resolve();
    await worker.ended;
    assert.ok(isFinished);
  });

  test("before it began ends at once", async () => {
    const runs = wait({ broker: broker.url, pool: freshPool(), signal: AbortSignal.abort() });
    for await (const run of runs) assert.fail(run.id);
  });

  test("at any moment, no run counts as received that the loop has not got", async () => {
    const pool = freshPool();
    let delivered = 0;
    for (let round = 0; round < 200; round++) {
      const stop = new AbortController();
      const got = new Set();
      const worker = (async () => {
        for await (const run of wait({ broker: broker.url, pool, signal: stop.signal })) got.add(run.id);
      })();
      const posted = post(pool, "x".repeat(round % 3 ? 10 : 200_000), { run: `stop-${round}`, wait: "20ms" });
      await new Promise((resolve) => setTimeout(resolve, (round % 20) / 10));
      stop.abort();
      await worker;
      const outcome = await posted;
      if (outcome.outcome === "delivered") delivered += 1;
      assert.ok(outcome.outcome !== "delivered" || got.has(outcome.run), `${outcome.run} is lost`);
    }
    // A race in which one side always wins would test nothing.
    assert.ok(delivered > 0 && delivered < 200, `${delivered} of 200 runs were delivered`);
  });
});


describe("misuse", () => {
  for (const [what, options] of Object.entries({
    "three segments": { pool: "a/b/1" },
    "five segments": { pool: "a/b/1/2/3" },
    "an empty segment": { pool: "a//1/2" },
    "a segment of dots": { pool: "../b/1/2" },
    "a query": { pool: "a/b/1/2?x=1" },
    "no pool": {},
    "no slot": { pool: "a/b/1/2", slots: 0 },
    "metadata of two lines": { pool: "a/b/1/2", metadata: "a\nb" },
    "long metadata": { pool: "a/b/1/2", metadata: "x".repeat(1025) },
    "a broker with a path": { pool: "a/b/1/2", broker: "http://127.0.0.1/x" },
    "a broker of another protocol": { pool: "a/b/1/2", broker: "ftp://127.0.0.1" },
  })) {
    test(`${what} is refused at once`, () => assert.throws(() => wait(options), TypeError));
  }
});

test("a pool's parts may contain anything", async (t) => {
  const pool = { deployment: "my/app ?#%2F", version: "..", cpu: 0.5, memory: "1" };
  const seen = promised();
  startWorker(t, broker, pool, (run) => seen.resolve(run.text()));
  assert.equal((await post(pool, "hello")).outcome, "delivered");
  assert.equal(await seen.promise, "hello");
});
