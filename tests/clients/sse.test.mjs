// Owns the tests of what docs/sse.md says about single events, the answers to them, and refusals.
import assert from "node:assert/strict";
import { once } from "node:events";
import { get } from "node:http";
import { after, before, describe, test } from "node:test";
import { createParser } from "eventsource-parser";
import { Broker, until } from "./broker.mjs";
import { Pool, snippet } from "./guides.mjs";

let broker;
before(async () => (broker = await Broker.start("--proof-timeout", "1s", "--dispatch-budget", "10s", "--max-waiters-per-pool", "600")));
after(() => broker?.stop());

/** A stream that keeps what it has heard. */
class Stream {
  events = [];
  retries = [];
  comments = [];

  static async open(t, pool, { slots = 1, name = "a", headers = {} } = {}) {
    const stream = new this();
    const own = { accept: "text/event-stream", "pilotlight-controller": name, ...headers };
    // fetch() takes the reset of a connection for the end of its response.
    const request = get(`${pool.url}?slots=${slots}`, { headers: own, agent: false });
    request.on("error", () => {});
    t.after(() => request.destroy());
    [stream.response] = await once(request, "response");
    assert.equal(stream.response.statusCode, 200);
    stream.over = stream.read().then(() => "ended", () => "reset");
    return stream;
  }

  async read() {
    const [onEvent, onRetry, onComment] = [this.events, this.retries, this.comments].map((list) => (item) => list.push(item));
    const parser = createParser({ onEvent, onRetry, onComment });
    const decoder = new TextDecoder();
    for await (const chunk of this.response) parser.feed(decoder.decode(chunk, { stream: true }));
  }

  /** The next run, after which it is forgotten. */
  async run() {
    await until("an event", () => this.events.length > 0);
    const { event, id, data } = this.events.shift();
    const run = JSON.parse(data);
    assert.deepEqual([event, id], ["run", run.run]);
    return run;
  }
}

const post = async (path) => (await fetch(new URL(path, broker.url), { method: "POST" })).status;

test("a stream says at once that it is open, and is not to be buffered", async (t) => {
  const stream = await Stream.open(t, new Pool(broker));
  assert.equal(stream.response.headers["content-type"], "text/event-stream");
  assert.equal(stream.response.headers["x-accel-buffering"], "no");
  await until("retry", () => stream.retries.length === 1);
  assert.deepEqual(stream.events, []);
});

test("a run is one line with the documented members; an acknowledgement counts once, and so does `ready`", async (t) => {
  const pool = new Pool(broker);
  const stream = await Stream.open(t, pool, { slots: 2 });
  await pool.waitForWaiters(2);
  const posting = pool.post("R", "…");
  const run = await stream.run();
  const documented = JSON.parse(snippet("sse", "json"));
  assert.deepEqual(Object.keys(run), Object.keys(documented));
  const token = /token=([0-9a-f]+)$/.exec(run.ack)[1];
  const filled = JSON.parse(JSON.stringify(documented).replaceAll("token=T", `token=${token}`));
  assert.deepEqual(run, { ...filled, offer: run.offer });

  const forged = token.replace(/^./, (digit) => (digit === "0" ? "1" : "0"));
  assert.equal(await post("/v1/runs/R/ack"), 403);
  assert.equal(await post(run.ack.replace(token, "x")), 403);
  assert.equal(await post(run.ack.replace(token, forged)), 403);
  assert.equal(await post(run.ack.replace("/R/", "/S/")), 403);
  assert.equal(await post(run.ack), 204);
  assert.equal((await posting).proof, "received");
  assert.equal(await post(run.ack), 204); // The response to the first one may have been lost.
  await pool.waitForWaiters(1);
  assert.equal(await post(run.ready.replace(token, forged)), 403);
  assert.equal(await pool.waiters(), 1);
  assert.equal(await post(run.ready), 204);
  await pool.waitForWaiters(2);
  assert.equal(await post(run.ready), 204);
  assert.equal(await pool.waiters(), 2);
});

test("`ready` alone is an acknowledgement, and so is `ack` with `ready=true`; either frees the slot", async (t) => {
  const pool = new Pool(broker);
  const stream = await Stream.open(t, pool);
  for (const path of [({ ready }) => ready, ({ ack }) => `${ack}&ready=true`]) {
    await pool.waitForWaiters(1);
    const posting = pool.post(`run_${Math.random()}`, "x");
    assert.equal(await post(path(await stream.run())), 204);
    assert.equal((await posting).proof, "received");
  }
  await pool.waitForWaiters(1);
});

for (const proof of ["written", "acked"]) {
  test(`a run whose POST asks for ${proof} can be acknowledged after the POST was answered`, async (t) => {
    const pool = new Pool(broker);
    const stream = await Stream.open(t, pool);
    await pool.waitForWaiters(1);
    assert.equal((await pool.post("run_1", "x", `?proof=${proof}`)).proof, proof);
    const { ack, ready } = await stream.run();
    assert.deepEqual([await post(ack), await post(ready)], [204, 204]);
    await pool.waitForWaiters(1);
  });
}

test("base64 is for what is not UTF-8, or would grow by more than a third", async (t) => {
  const pool = new Pool(broker);
  const stream = await Stream.open(t, pool, { slots: 4 });
  const cases = [["plain", undefined], ['"'.repeat(100) + "x".repeat(250), undefined], ['"'.repeat(100), "base64"], [Buffer.from([0xff]), "base64"]];
  for (const [number, [payload, encoding]] of cases.entries()) {
    await pool.waitForWaiters(4);
    const posting = pool.post(`run_${number}`, payload);
    const run = await stream.run();
    assert.equal(run.encoding, encoding);
    assert.deepEqual(Buffer.from(run.payload, encoding ?? "utf8"), Buffer.from(payload));
    assert.equal(await post(run.ready), 204);
    await posting;
  }
});

test("a missing acknowledgement costs one offer, and the controller its place; a late one is refused", async (t) => {
  const pool = new Pool(broker);
  const stream = await Stream.open(t, pool, { slots: 3 });
  await pool.waitForWaiters(3);
  const { delivered, reason, offers } = await pool.post("run_1", "x");
  assert.deepEqual([delivered, reason, offers], [false, "unknown", 1]);
  assert.equal(await stream.over, "reset");
  assert.equal(await pool.waiters(), 0);
  const { ack, ready } = await stream.run();
  assert.deepEqual([await post(ack), await post(ready)], [410, 410]);
});

test("a newer stream of the same controller replaces the older one, with all its slots", async (t) => {
  const pool = new Pool(broker);
  const old = await Stream.open(t, pool, { slots: 3 });
  await pool.waitForWaiters(3);
  await Stream.open(t, pool, { slots: 2, headers: { "last-event-id": "R" } });
  assert.equal(await old.over, "ended");
  assert.deepEqual(old.events.map(({ event, data }) => [event, data]), [["replaced", "{}"]]);
  await pool.waitForWaiters(2);
});

for (const [what, busy] of [["waits", false], ["works on its only run", true]]) {
  test(`a controller that ${what} is told when it is retired`, async (t) => {
    const pool = new Pool(broker);
    const stream = await Stream.open(t, pool);
    await pool.waitForWaiters(1);
    if (busy) {
      const posting = pool.post("run_1", "x");
      assert.equal(await post((await stream.run()).ack), 204);
      await posting;
      await Stream.open(t, pool, { name: "waiting" });
      await pool.waitForWaiters(1);
    }
    await broker.retire(pool.deployment);
    assert.equal(await stream.over, "ended");
    const [{ event, data }] = stream.events;
    assert.deepEqual([event, data, stream.events.length], ["retired", "{}", 1]);
  });
}

test("drain: each stream gets a time to come back, and ends", async (t) => {
  const own = await Broker.start("--drain-window", "200ms");
  t.after(() => own.stop());
  const pool = new Pool(own);
  const streams = [];
  for (let number = 0; number < 10; number++) streams.push(await Stream.open(t, pool, { name: `name_${number}` }));
  await pool.waitForWaiters(10);
  own.process.kill("SIGTERM");
  assert.deepEqual(await Promise.all(streams.map(({ over }) => over)), streams.map(() => "ended"));
  const retries = streams.map(({ retries }) => retries.at(-1));
  for (const stream of streams) assert.deepEqual([stream.retries.length, stream.events], [2, []]);
  assert.ok(retries.every((retry) => retry >= 0 && retry < 60_000), `${retries}`);
  assert.ok(new Set(retries).size > 1, "not all come at once");
});

test("a limit of waiters ends the stream, with its name in a comment", async (t) => {
  const pool = new Pool(broker);
  for (const name of ["a", "b"]) await Stream.open(t, pool, { slots: 256, name });
  await pool.waitForWaiters(512);
  const third = await Stream.open(t, pool, { slots: 256, name: "c" });
  assert.equal(await third.over, "ended");
  assert.match(third.comments.join(), /max-waiters-per-pool/);
  assert.ok(third.retries.length > 0);
});

describe("refused", () => {
  const cases = {
    "no slots": [400, "?slots=0"],
    "more than 256 slots": [400, "?slots=257"],
    "slots that are no number": [400, "?slots=many"],
    "the Origin of a page": [403, "", { origin: "https://example.org" }],
    "a browser's Sec-Fetch-Site": [403, "", { "sec-fetch-site": "cross-site" }],
  };
  for (const [what, [status, query, headers]] of Object.entries(cases)) {
    test(`${what}: ${status}`, async () => {
      const answer = await fetch(`${new Pool(broker).url}${query}`, { headers: { accept: "text/event-stream", ...headers } });
      assert.equal(answer.status, status);
      assert.match(answer.headers.get("content-type"), /^application\/problem\+json/);
    });
  }
});
