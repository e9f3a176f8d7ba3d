// Owns the tests of dispatches without a reply, and of answers that only a stranger or a later broker gives.
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { dispatch } from "../index.mjs";
import { Broker, freshPool, startBroker, startServer, startWorker, until } from "./support.mjs";

let broker;
before(async () => (broker = await Broker.start()));
after(() => broker?.stop());

const post = (pool, options) => dispatch(pool, "x", { broker: broker.url, ...options });

describe("a dispatch", () => {
  test("is delivered, or missed with a reason", async (t) => {
    const pool = freshPool();
    assert.deepEqual(await post(pool, { run: "r" }), { outcome: "miss", run: "r", reason: "no_pool", offers: 0, retryAfter: undefined });
    startWorker(t, broker, pool, (run) => run.done(), { controller: "worker" });
    const hit = await post(pool, { run: "r", wait: 2_000, redeliver: true, proof: "acked" });
    assert.deepEqual(hit, { outcome: "delivered", run: "r", controller: "worker", proof: "acked", offers: 1, metadata: undefined });
    await until("the worker waits again", async () => (await post(pool.replace("v1", "v2"))).reason === "wrong_version");
  });

  test("of the same name again is not delivered again", async (t) => {
    const pool = freshPool();
    const runs = [];
    startWorker(t, broker, pool, (run) => runs.push(run) && run.done());
    const first = await post(pool, { run: "same", wait: "2s" });
    assert.deepEqual(await post(pool, { run: "same", wait: "2s" }), first);
    const other = await dispatch(pool, "y", { broker: broker.url, run: "same" });
    assert.deepEqual([other.outcome, other.status, runs.length], ["refused", 422, 1]);
  });

  test("that is wrong is refused with the reason", async () => {
    const refused = await post("a/b/x/1");
    assert.deepEqual([refused.outcome, refused.status, refused.problem.type], ["refused", 400, "urn:pilotlight:problem:bad-key"]);
    assert.match(refused.detail, /not a decimal number/);
  });

  test("that is too large is refused", async (t) => {
    const small = await startBroker(t, "--body-limit", "1KiB");
    const refused = await dispatch(freshPool(), "x".repeat(8 << 20), { broker: small.url });
    assert.deepEqual([refused.outcome, refused.status], ["refused", 413]);
  });

  test("that finds no broker is unreachable, so nobody has it", async (t) => {
    const dead = await startBroker(t);
    await dead.stop();
    for (const url of [dead.url, "http://no-such-host.invalid"]) {
      const outcome = await dispatch(freshPool(), "x", { broker: url, run: "r" });
      assert.deepEqual([outcome.outcome, outcome.run], ["unreachable", "r"]);
      assert.ok(outcome.error instanceof Error);
    }
  });

  test("whose signal is aborted leaves, and rejects with the reason", async () => {
    const reason = new Error("changed my mind");
    await assert.rejects(post(freshPool(), { signal: AbortSignal.abort(reason) }), reason);
    const aborted = 'pilotlight_dispatches_total{outcome="aborted",reason="none"}';
    const [before, leave] = [await broker.metric(aborted), new AbortController()];
    const posted = post(freshPool(), { signal: leave.signal, wait: "2s" });
    await until("the run waits", async () => (await broker.metric("pilotlight_dispatches_in_flight")) !== 0);
    setTimeout(() => leave.abort(reason), 50);
    await assert.rejects(posted, reason);
    await until("the broker knows", async () => (await broker.metric(aborted)) === before + 1);
  });

  test("is refused at once where it is misused", async () => {
    for (const [pool, payload, options] of [
      ["a/b/1", "x"],
      ["a/b/1/2", { a: 1 }],
      ["a/b/1/2", "x", { wait: "" }],
      ["a/b/1/2", "x", { reply: -1 }],
      ["a/b/1/2", "x", { run: "é" }],
      ["a/b/1/2", "x", { broker: "127.0.0.1:7070" }],
    ]) {
      await assert.rejects(dispatch(pool, payload, options), TypeError);
    }
  });

  test("opens one connection for many runs", async (t) => {
    const { url, server } = await startServer(t, (_, response) => response.writeHead(200, { "content-type": "application/json" }).end('{"delivered":false,"reason":"no_pool"}'));
    let connections = 0;
    server.on("connection", () => (connections += 1));
    for (let run = 0; run < 5; run++) await dispatch(freshPool(), "x", { broker: url });
    assert.equal(connections, 1);
  });
});

describe("an answer", () => {
  const json = { "content-type": "application/json" };
  const problem = { "content-type": "application/problem+json" };
  const WITH_REPLY = { reply: "1s" };
  for (const [what, options, [status, headers, body], expected] of [
    ["with a new reason is a miss", {}, [200, json, '{"delivered":false,"reason":"too_sunny","run":"r"}'], { outcome: "miss", reason: "too_sunny" }],
    ["of a miss with a reply says when to try again", WITH_REPLY, [503, { ...json, "pilotlight-outcome": "miss", "retry-after": "2" }, '{"delivered":false,"reason":"no_pool"}'], { outcome: "miss", reason: "no_pool", retryAfter: 2_000 }],
    ["that nobody knows is unknown", {}, [200, json, '{"delivered":false,"reason":"unknown"}'], { outcome: "unknown" }],
    ["with a new outcome is unknown", WITH_REPLY, [200, { "pilotlight-outcome": "sunny" }, ""], { outcome: "unknown", detail: "the broker names an outcome that this client does not know: sunny" }],
    ["of a broker without replies is unknown", WITH_REPLY, [200, json, '{"delivered":true,"proof":"received"}'], { outcome: "unknown" }],
    ["502 of a proxy is unknown", WITH_REPLY, [502, { "content-type": "text/html" }, "<html>"], { outcome: "unknown", detail: "the answer was 502" }],
    ["503 of a proxy is unknown", {}, [503, { "content-type": "text/html" }, "<html>"], { outcome: "unknown" }],
    ["404 of a proxy is refused", {}, [404, { "content-type": "text/html" }, "<html>"], { outcome: "refused", status: 404, problem: undefined }],
    ["429 is a limit", {}, [429, { ...problem, "retry-after": "1" }, '{"detail":"too much"}'], { outcome: "limited", detail: "too much", retryAfter: 1_000 }],
    ["with broken JSON is unknown", {}, [200, json, '{"delivered":tr'], { outcome: "unknown" }],
    ["409 names the state", WITH_REPLY, [409, { ...problem, "pilotlight-outcome": "duplicate" }, '{"state":"open"}'], { outcome: "duplicate", state: "open", ended: undefined }],
    ["409 names the end", WITH_REPLY, [409, { ...problem, "pilotlight-outcome": "duplicate" }, '{"outcome":"replied"}'], { outcome: "duplicate", state: undefined, ended: "replied" }],
  ]) {
    test(what, async (t) => {
      const { url } = await startServer(t, (_, response) => response.writeHead(status, headers).end(body));
      const outcome = await dispatch(freshPool(), "x", { broker: url, ...options });
      for (const [name, value] of Object.entries(expected)) assert.equal(outcome[name], value, name);
    });
  }

  test("that does not come is unknown, because a worker may have the run", async (t) => {
    const { url, server } = await startServer(t, (request) => request.on("data", () => request.socket.destroy()));
    const posted = dispatch(freshPool(), "x", { broker: url });
    await once(server, "request");
    assert.equal((await posted).outcome, "unknown");
  });

  test("that breaks off is unknown", async (t) => {
    const { url } = await startServer(t, (_, response) => {
      response.writeHead(200, { ...json, "content-length": 100 }).write('{"delivered":true');
      setTimeout(() => response.destroy(), 10);
    });
    assert.equal((await dispatch(freshPool(), "x", { broker: url })).outcome, "unknown");
  });
});
