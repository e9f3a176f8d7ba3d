// Owns the tests of what a worker survives: drains, restarts, deaths, refusals, redirects, and answers that are none.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { dispatch, RefusedError, wait } from "../index.mjs";
import { freshPool, promised, startBroker, startServer, startWorker, until } from "./support.mjs";

const SECRET = "s".repeat(32);

/** A token as the platform signs it. */
function deploymentToken(pool, secret = SECRET) {
  const [deployment, deployment_version] = pool.split("/");
  const claims = { ver: 1, deployment, deployment_version, iss: "https://id.trigger.dev", aud: "https://api.trigger.dev", exp: Date.now() / 1_000 + 3_600 };
  const text = [{ alg: "HS256" }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

const post = (broker, pool, options = {}) => dispatch(pool, "x", { broker: broker.url, wait: "2s", ...options });
/** Sends a run that some worker must get, once the broker knows it again. */
const delivered = (broker, pool) => until("a run is delivered", async () => (await post(broker, pool)).outcome === "delivered");

describe("the real broker", () => {
  for (const signal of ["SIGTERM", "SIGKILL"]) {
    test(`restarted by ${signal}, it has its workers back`, async (t) => {
      const broker = await startBroker(t, "--drain-window", "200ms");
      const pool = freshPool();
      const runs = [];
      const worker = startWorker(t, broker, pool, (run) => runs.push(run) && run.done(), { slots: 2 });
      for (let round = 0; round < 3; round++) {
        await broker.waitForWaiters(2);
        await delivered(broker, pool);
        await broker.restart(signal);
      }
      await broker.waitForWaiters(2);
      worker.stop();
      await worker.ended;
      assert.equal(runs.length, 3);
    });
  }

  test("drained and then restarted, it has its workers back", async (t) => {
    const broker = await startBroker(t, "--drain-window", "200ms");
    const pool = freshPool();
    startWorker(t, broker, pool, (run) => run.done());
    await broker.waitForWaiters(1);
    await fetch(`http://127.0.0.1:${broker.ops}/drain`, { method: "POST" });
    await until("the poll was sent away", async () => (await broker.metric('pilotlight_polls_total{end="drained"}')) >= 1);
    assert.deepEqual(await post(broker, pool).then(({ outcome, reason }) => [outcome, reason]), ["miss", "draining"]);
    await broker.restart("SIGTERM");
    await delivered(broker, pool);
  });

  test("whose polls pass without a run, it is asked again on the same connection", async (t) => {
    const broker = await startBroker(t, "--connection-timeout", "1100ms");
    const pool = freshPool();
    const worker = startWorker(t, broker, pool, (run) => run.done(), { onRetry: (event) => assert.fail(JSON.stringify(event)) });
    await until("three polls have passed", async () => (await broker.metric('pilotlight_polls_total{end="expired"}')) >= 3);
    assert.equal((await post(broker, pool)).outcome, "delivered");
    worker.stop();
    await worker.ended;
  });

  test("that retires a pool is left in peace", async (t) => {
    const broker = await startBroker(t);
    const pool = freshPool();
    const retired = promised();
    const worker = startWorker(t, broker, pool, () => {}, { onRetry: retired.resolve });
    await broker.waitForWaiters(1);
    await broker.retire(pool.split("/")[0]);
    const { reason, status, delay } = await retired.promise;
    assert.deepEqual([reason, status], ["retired", 410]);
    assert.ok(delay >= 30_000 && delay <= 60_000, delay);
    worker.stop();
    await worker.ended;
  });

  test("that cannot be reached yet is waited for", async (t) => {
    const broker = await startBroker(t);
    await broker.stop();
    const retries = [];
    const pool = freshPool();
    startWorker(t, broker, pool, (run) => run.done(), { onRetry: (event) => retries.push(event) });
    await until("four pauses", () => retries.length >= 4);
    await broker.launch();
    await delivered(broker, pool);
    assert.deepEqual([retries[0].reason, retries[0].error.code], ["unreachable", "ECONNREFUSED"]);
    assert.ok(retries.every(({ delay }) => delay >= 50 && delay <= 5_000));
    assert.ok(new Set(retries.map(({ delay }) => delay)).size > 1, "pauses are random");
  });

  test("that refuses the token ends the loop, and the token is asked for before each poll", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "tokens-"));
    t.after(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, "secret"), SECRET);
    const broker = await startBroker(t, "--require-token", "--token-secret-file", join(folder, "secret"));
    const pool = freshPool();
    const tokens = [deploymentToken(pool), deploymentToken(pool, "another secret")];
    const runs = wait({ broker: broker.url, pool, token: () => tokens.shift() });
    const run = runs.next();
    assert.equal((await post(broker, pool)).outcome, "delivered");
    (await run).value.done();
    await assert.rejects(runs.next(), (error) => {
      assert.ok(error instanceof RefusedError);
      assert.deepEqual([error.status, error.problem.status], [401, 401]);
      assert.match(error.message, /refuses to be polled: 401 /);
      return true;
    });
    assert.deepEqual(await runs.next().catch((error) => error.status), 401);
  });
});

describe("a server", () => {
  const answers = {
    "429 with Retry-After": { head: [429, { "retry-after": "1" }], reason: "limited", from: 1_000, to: 1_250 },
    "429 without it": { head: [429], reason: "limited", from: 50, to: 200 },
    "503": { head: [503], reason: "unavailable", from: 50, to: 200 },
    "502 of a proxy": { head: [502, { "content-type": "text/html" }], reason: "unavailable", from: 50, to: 200 },
    "404 of a proxy": { head: [404, { "content-type": "text/html" }], reason: "unavailable", from: 50, to: 200 },
    "204 at once": { polls: 2, head: [204], reason: "unavailable", from: 50, to: 400 },
    "200 without a run": { head: [200, { "content-type": "text/html" }], reason: "unavailable", from: 50, to: 200 },
    "307 to nowhere": { head: [307], reason: "unavailable", from: 50, to: 200 },
    "307 on and on": { polls: 6, head: (polls) => [307, { location: `/${polls}` }], reason: "unavailable", from: 50, to: 200 },
    "307 to itself": { head: (_, itself) => [307, { location: itself }], reason: "unavailable", from: 50, to: 200 },
    "an end without an answer": { reason: "unreachable", from: 50, to: 200 },
    "a run that breaks off": { head: [200, { "pilotlight-run": "r", "content-length": 9 }], breaks: true, reason: "unreachable", from: 50, to: 200 },
  };
  for (const [what, { polls = 1, head, breaks, reason, from, to }] of Object.entries(answers)) {
    test(`that answers ${what} is asked again after a pause`, async (t) => {
      let isWell = false;
      let asked = 0;
      const { url } = await startServer(t, (request, response) => {
        if (isWell) return response.writeHead(200, { "pilotlight-run": "r" }).end("run");
        asked += 1;
        if (!head) return request.socket.destroy();
        response.writeHead(...(typeof head === "function" ? head(asked, request.url) : head));
        if (!breaks) return response.end("<html>");
        response.write("ru");
        setTimeout(() => response.destroy(), 10);
      });
      const retries = [];
      const runs = wait({ broker: url, pool: freshPool(), onRetry: (event) => retries.push(event) && (isWell = true) });
      const { value: run } = await runs.next();
      await runs.return();
      assert.equal(run.text(), "run");
      assert.deepEqual([asked, retries.map((event) => event.reason)], [polls, [reason]]);
      assert.ok(retries[0].delay >= from && retries[0].delay <= to, retries[0].delay);
    });
  }

  for (const [what, ...head] of [["204", 204], ["429", 429, { "retry-after": "0" }], ["503", 503, { "retry-after": "0" }]]) {
    test(`that answers ${what} at once for ever is asked more and more seldom`, async (t) => {
      t.mock.method(Math, "random", () => 1);
      const { url } = await startServer(t, (_, response) => response.writeHead(...head).end());
      const delays = [];
      startWorker(t, { url }, freshPool(), () => {}, { onRetry: ({ delay }) => delays.push(delay) });
      await until("three pauses", () => delays.length === 3);
      assert.deepEqual(delays.map((delay) => delay / delays[0]), [1, 2, 4]);
    });
  }

  test("that answers 307 sends this poll elsewhere, and is asked the next one", async (t) => {
    const asked = [];
    const other = await startServer(t, (request, response) => {
      asked.push(`other ${request.url} ${request.headers.authorization}`);
      response.writeHead(204).end();
    });
    const { url } = await startServer(t, (request, response) => {
      asked.push("first");
      if (asked.length > 2) return response.writeHead(200, { "pilotlight-run": "r" }).end("run");
      response.writeHead(307, { location: `${other.url}/elsewhere?x=1` }).end();
    });
    const runs = wait({ broker: url, pool: freshPool(), token: "secret" });
    await runs.next();
    await runs.return();
    assert.deepEqual(asked, ["first", "other /elsewhere?x=1 Bearer secret", "first"]);
  });
});
