// Owns the tests of replies that outlive nobody: workers, callers and brokers that die or leave in the middle.
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { certificate } from "../../../tests/clients/certificate.mjs";
import { dispatch, ReplyBrokenError, wait } from "../index.mjs";
import { bounded, endsWithThis, freshPool, promised, startBroker, startWorker, until } from "./support.mjs";

const post = (broker, pool, payload, options = {}) =>
  dispatch(pool, typeof payload === "string" ? payload : JSON.stringify(payload), { broker: broker.url, wait: "10s", reply: "20s", ...options });

/** A worker in a process of its own, and what it has said. */
function forkWorker(t, broker, pool) {
  const child = endsWithThis(fork(new URL("worker.mjs", import.meta.url), [broker.url, pool]));
  // Awaited from its beginning, because it may end before its caller has read the last bytes.
  const ended = bounded("the worker's process ends", once(child, "exit"));
  const said = [];
  child.on("message", (message) => said.push(message));
  t.after(() => child.kill("SIGKILL"));
  return { child, ended, said, hears: (key) => until(`the worker says "${key}"`, () => said.find((message) => key in message)?.[key]) };
}

/** Reads a reply that must break off. Returns what came before. */
async function brokenText(outcome) {
  let text = "";
  await assert.rejects(async () => {
    for await (const piece of outcome) text += Buffer.from(piece);
  }, ReplyBrokenError);
  return text;
}

describe("a worker's process", () => {
  test("that dies before its first byte breaks the reply at once", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    forkWorker(t, broker, pool);
    const outcome = await post(broker, pool, { before: "kill" });
    assert.equal(outcome.outcome, "reply_broken");
  });

  test("that dies in the middle of its reply never ends it cleanly", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    forkWorker(t, broker, pool);
    const outcome = await post(broker, pool, { pieces: ["a", "b"], after: "kill" });
    assert.equal(outcome.outcome, "replied");
    assert.equal(await brokenText(outcome), "ab");
  });

  test("that hangs is given up in time, and told so", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    const worker = forkWorker(t, broker, pool);
    await broker.waitForWaiters(1);
    assert.equal((await post(broker, pool, { before: "hang" }, { reply: "1500ms" })).outcome, "reply_timeout");
    await worker.hears("aborted");
    assert.equal(await worker.hears("result"), "gone");
  });

  test("that is told to end finishes the run under way, and exits", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    const worker = forkWorker(t, broker, pool);
    const outcome = await post(broker, pool, { pieces: ["a"], after: "slow" });
    worker.child.kill("SIGTERM");
    const read = outcome.text();
    await until("it withdraws", async () => (await broker.waiters()) === 0);
    worker.child.send("finish");
    assert.equal(await read, "aend");
    assert.deepEqual(await worker.ended, [0, null]);
    assert.equal(await worker.hears("result"), "replied");
  });
});

describe("a broker", () => {
  test("that is killed loses the reply, and the worker comes back", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    const [begun, lost] = [promised(), promised()];
    startWorker(t, broker, pool, async (run) => {
      if (run.text() === "second") return run.reply("well");
      begun.resolve();
      await new Promise((resolve) => run.signal.addEventListener("abort", resolve));
      lost.resolve(await run.reply("unheard"));
    });
    const first = post(broker, pool, "first");
    await begun.promise;
    await broker.restart("SIGKILL");
    assert.equal((await first).outcome, "unknown");
    assert.equal(await lost.promise, "lost");
    const second = await until("the worker is back", async () => {
      const outcome = await post(broker, pool, "second");
      return outcome.outcome === "replied" && outcome;
    });
    assert.equal(await second.text(), "well");
  });

  test("that drains lets an open reply finish", async (t) => {
    const broker = await startBroker(t, "--drain-window", "3s");
    const pool = freshPool();
    const [begun, finish, result] = [promised(), promised(), promised()];
    startWorker(t, broker, pool, async (run) => {
      begun.resolve();
      await finish.promise;
      result.resolve(await run.reply("finished"));
    });
    const posted = post(broker, pool, "x");
    await begun.promise;
    broker.process.kill("SIGTERM");
    await until("it drains", async () => (await post(broker, pool, "y", { wait: "0s" }).catch(() => ({}))).reason !== "all_taken");
    finish.resolve();
    assert.equal(await (await posted).text(), "finished");
    assert.equal(await result.promise, "replied");
    await broker.ended;
  });
});

test("everything works over TLS with a certificate of one's own", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "tls-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const { cert, key } = certificate(folder);
  const broker = await startBroker(t, "--tls-cert", cert, "--tls-key", key);
  const [url, ca, pool] = [broker.url.replace("http:", "https:"), readFileSync(cert), freshPool()];

  const untrusted = await dispatch(pool, "x", { broker: url });
  assert.equal(untrusted.outcome, "unreachable");
  const [begun, result] = [promised(), promised()];
  startWorker(t, { url }, pool, async (run) => {
    if (run.text() !== "leave") return run.reply([run.text(), "!"]);
    begun.resolve();
    await new Promise((resolve) => run.signal.addEventListener("abort", resolve));
    result.resolve(await run.reply("unheard"));
  }, { ca });
  for (const text of ["one", "two"]) {
    const outcome = await post({ url }, pool, text, { ca });
    assert.deepEqual([outcome.outcome, await outcome.text()], ["replied", `${text}!`]);
  }
  assert.equal((await dispatch(pool, "three", { broker: url, ca, wait: "10s" })).proof, "received");
  const leave = new AbortController();
  const left = post({ url }, pool, "leave", { ca, signal: leave.signal });
  await begun.promise;
  leave.abort();
  await assert.rejects(left, { name: "AbortError" });
  assert.equal(await result.promise, "gone");
});
