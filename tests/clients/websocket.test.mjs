// Owns the tests of what docs/websocket.md says about single messages, close codes and refusals, with npm's `ws`; and that one
// connection takes many runs.
import assert from "node:assert/strict";
import { once } from "node:events";
import { get } from "node:http";
import { connect, createServer } from "node:net";
import { after, before, describe, test } from "node:test";
import { text } from "node:stream/consumers";
import { WebSocket as StandardWebSocket } from "undici";
import WebSocket from "ws";
import { Broker, until } from "./broker.mjs";
import { clients, GuideController, needsClient, Pool } from "./guides.mjs";

let broker;
before(async () => (broker = await Broker.start("--proof-timeout", "1s", "--dispatch-budget", "10s", "--max-waiters-per-pool", "600")));
after(() => broker?.stop());

/** A connection that keeps what it has heard. */
class Session {
  heard = [];

  static async open(t, pool, { slots = 1, name = "a", ...options } = {}) {
    const session = new this();
    const headers = { "pilotlight-controller": name };
    const socket = new WebSocket(pool.url.replace("http", "ws"), "pilotlight.v1", { headers, ...options });
    socket.on("message", (data, isBinary) => session.heard.push(isBinary ? data : JSON.parse(data)));
    socket.on("error", () => {});
    session.closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve({ code, reason: String(reason) })));
    session.socket = socket;
    t.after(() => socket.terminate());
    await once(socket, "open");
    if (slots) session.send({ type: "ready", slots });
    return session;
  }

  send = (message) => this.socket.send(typeof message === "object" && !Buffer.isBuffer(message) ? JSON.stringify(message) : message);
  /** The next message, after which it is forgotten. */
  next = async () => {
    await until("a message", () => this.heard.length > 0);
    return this.heard.shift();
  };
}

describe("over one connection a controller takes 1,000 runs", () => {
  for (const client of clients("websocket")) {
    test(client, needsClient(client), async (t) => {
      let connections = 0;
      const relay = createServer((from) => {
        connections += 1;
        const to = connect(broker.port, "127.0.0.1");
        from.pipe(to).pipe(from);
        for (const end of [from, to]) end.on("error", () => {});
      }).listen(0, "127.0.0.1");
      await once(relay, "listening");
      t.after(() => relay.close());
      const pool = new Pool(broker, `http://127.0.0.1:${relay.address().port}`);
      const controller = new GuideController(t, client, pool.url, { slots: 16 });
      await pool.waitForWaiters(16);
      let posted = 0;
      const supervisor = async () => {
        while (posted < 1_000) {
          const run = `run_${posted++}`;
          const { delivered, proof, offers } = await pool.post(run, `payload of ${run}`, "?wait=1s");
          assert.deepEqual([delivered, proof, offers], [true, "received", 1], run);
        }
      };
      await Promise.all(Array.from({ length: 8 }, supervisor));
      await until("all are done", () => controller.done.length === 1_000);
      assert.equal(new Set(controller.started.map(({ started }) => started)).size, 1_000);
      await pool.waitForWaiters(16);
      assert.equal(connections, 1);
    });
  }
});

test("a run is a text message with the documented members, and a binary one; also if it is empty", async (t) => {
  const pool = new Pool(broker);
  const session = await Session.open(t, pool, { slots: 2 });
  await pool.waitForWaiters(2);
  for (const [number, payload] of ["abc", ""].entries()) {
    const posting = pool.post(`run_${number}`, payload);
    const { offer, ...message } = await session.next();
    assert.deepEqual(message, { type: "run", run: `run_${number}`, contentType: "text/plain", size: payload.length });
    assert.deepEqual(await session.next(), Buffer.from(payload));
    session.send({ type: "ack", run: message.run, ...(number && { offer }), unknown: "member" });
    assert.equal((await posting).proof, "received");
  }
});

for (const proof of ["written", "acked"]) {
  test(`an acknowledgement after the POST that asked for ${proof} was answered changes nothing`, async (t) => {
    const pool = new Pool(broker);
    const session = await Session.open(t, pool);
    await pool.waitForWaiters(1);
    assert.equal((await pool.post("run_1", "x", `?proof=${proof}`)).proof, proof);
    const { run, offer } = await session.next();
    session.send({ type: "ack", run, offer });
    session.send({ type: "ready", slots: 1 });
    await pool.waitForWaiters(1);
    assert.equal(session.socket.readyState, WebSocket.OPEN);
  });
}

test("a missing acknowledgement costs one offer, and the controller its place", async (t) => {
  const pool = new Pool(broker);
  const session = await Session.open(t, pool, { slots: 3 });
  await pool.waitForWaiters(3);
  const frozen = () => broker.metric('pilotlight_offers_total{verdict="frozen"}');
  const before = await frozen();
  const { delivered, reason, offers } = await pool.post("run_1", "x");
  assert.deepEqual([delivered, reason, offers], [false, "unknown", 1]);
  assert.equal((await session.closed).code, 1006);
  assert.equal(await pool.waiters(), 0);
  assert.equal((await frozen()) - before, 1);
});

for (const [end, code, how] of [
  ["a close", 1000, (socket) => socket.close(1000)],
  ["a FIN", 1006, (socket) => socket.terminate()],
  ["a reset", 1006, (socket) => socket._socket.resetAndDestroy()],
]) {
  test(`${end} of the controller's takes all its slots out of their pool`, async (t) => {
    const pool = new Pool(broker);
    const session = await Session.open(t, pool, { slots: 256 });
    await pool.waitForWaiters(256);
    how(session.socket);
    assert.equal((await session.closed).code, code);
    await pool.waitForWaiters(0);
    assert.deepEqual(session.heard, []);
  });
}

test("an acknowledgement of another run than the offer's counts for neither", async (t) => {
  const pool = new Pool(broker);
  const session = await Session.open(t, pool, { slots: 2 });
  await pool.waitForWaiters(2);
  const posting = ["run_1", "run_2"].map((run) => pool.post(run, "x"));
  const heard = [await session.next(), await session.next(), await session.next(), await session.next()];
  const [one, two] = heard.filter(({ type }) => type);
  session.send({ type: "ack", run: one.run, offer: two.offer });
  session.send({ type: "ack", run: two.run, offer: one.offer });
  for (const answer of await Promise.all(posting)) assert.equal(answer.delivered, false, JSON.stringify(answer));
});

describe("close codes", () => {
  const rules = {
    "a text message that is not JSON": ["{", 1008],
    "an unknown type": ['{"type":"hello"}', 1008],
    "more than 256 slots": ['{"type":"ready","slots":257}', 1008],
    "no slots": ['{"type":"ready","slots":0}', 1008],
    "an acknowledgement of an offer that was never made": ['{"type":"ack","run":"R","offer":7}', 1008],
    "a binary message": [Buffer.from("{}"), 1003],
    "a message of more than 4,096 bytes": [JSON.stringify({ type: "ready", slots: 1, padding: "x".repeat(4_096) }), 1009],
  };
  for (const [what, [message, code]] of Object.entries(rules)) {
    test(`${what}: ${code}`, async (t) => {
      const pool = new Pool(broker);
      const session = await Session.open(t, pool);
      await pool.waitForWaiters(1);
      session.send(message);
      const closed = await session.closed;
      assert.equal(closed.code, code);
      assert.ok(code !== 1008 || closed.reason, "the reason says which rule");
      await pool.waitForWaiters(0);
    });
  }

  test("256 slots in all are not too many, one more is", async (t) => {
    const pool = new Pool(broker);
    const session = await Session.open(t, pool, { slots: 255 });
    session.send({ type: "ready", slots: 1 });
    await pool.waitForWaiters(256);
    session.send({ type: "ready", slots: 1 });
    assert.equal((await session.closed).code, 1008);
    await pool.waitForWaiters(0);
  });

  test("a limit of waiters: 1013, with its name", async (t) => {
    const pool = new Pool(broker);
    for (const name of ["a", "b"]) await Session.open(t, pool, { slots: 256, name });
    await pool.waitForWaiters(512);
    const third = await Session.open(t, pool, { slots: 256, name: "c" });
    const { code, reason } = await third.closed;
    assert.equal(code, 1013);
    assert.match(reason, /max-waiters-per-pool/);
  });

  test("replaced: 4409, and the newer connection of the controller has the slots", async (t) => {
    const pool = new Pool(broker);
    const old = await Session.open(t, pool, { slots: 3 });
    const another = await Session.open(t, pool, { slots: 1, name: "another" });
    await pool.waitForWaiters(4);
    await Session.open(t, pool, { slots: 2 });
    assert.equal((await old.closed).code, 4409);
    await pool.waitForWaiters(3);
    assert.equal(another.socket.readyState, WebSocket.OPEN);
  });

  test("a connection replaces the same controller's long poll, and the reverse", async (t) => {
    const pool = new Pool(broker);
    const poll = () => fetch(pool.url, { headers: { "pilotlight-controller": "a" } }).then(({ status }) => status, () => "closed");
    const held = poll();
    await pool.waitForWaiters(1);
    const session = await Session.open(t, pool, { slots: 2 });
    assert.equal(await held, "closed");
    await pool.waitForWaiters(2);
    const later = poll();
    assert.equal((await session.closed).code, 4409);
    await pool.waitForWaiters(1);
    assert.equal((await pool.post("run_1", "x")).delivered, true);
    assert.equal(await later, 200);
  });

  for (const client of clients("websocket")) {
    test(`${client} stays away when it was replaced`, needsClient(client), async (t) => {
      const pool = new Pool(broker);
      const old = new GuideController(t, client, pool.url, { name: "same", slots: 2 });
      await pool.waitForWaiters(2);
      const newer = new GuideController(t, client, pool.url, { name: "same", slots: 1 });
      assert.equal(await old.ended, 0);
      await pool.waitForWaiters(1);
      assert.equal((await pool.post("run_1", "x")).proof, "received");
      await newer.got("run_1");
    });
  }

  for (const [what, busy] of [["waits", false], ["works on its only run", true]]) {
    test(`retired while it ${what}: 4410`, async (t) => {
      const pool = new Pool(broker);
      const session = await Session.open(t, pool);
      const waiting = await Session.open(t, pool, { name: "waiting" });
      await pool.waitForWaiters(2);
      if (busy) await takeRun(pool, session, waiting);
      await broker.retire(pool.deployment);
      assert.deepEqual([(await session.closed).code, (await waiting.closed).code], [4410, 4410]);
    });
  }

  test("drain: a time to come back, another for each, then 1001; also to a controller that works on its only run", async (t) => {
    const own = await Broker.start("--drain-window", "200ms");
    t.after(() => own.stop());
    const pool = new Pool(own);
    const sessions = [];
    for (let number = 0; number < 10; number++) sessions.push(await Session.open(t, pool, { name: `name_${number}` }));
    await pool.waitForWaiters(10);
    await takeRun(pool, ...sessions);
    own.process.kill("SIGTERM");
    const codes = (await Promise.all(sessions.map(({ closed }) => closed))).map(({ code }) => code);
    assert.deepEqual(codes, sessions.map(() => 1001));
    const drains = sessions.map(({ heard }) => heard.at(-1));
    for (const { type, retryInMs, ...others } of drains) {
      assert.deepEqual([type, others], ["drain", {}]);
      assert.ok(Number.isInteger(retryInMs) && retryInMs >= 0 && retryInMs < 60_000, `${retryInMs}`);
    }
    assert.ok(new Set(drains.map(({ retryInMs }) => retryInMs)).size > 1, "not all come at once");
  });
});

/** One of the sessions takes a run, and acknowledges it: it has no waiter in the pool after that. */
async function takeRun(pool, ...sessions) {
  const before = await pool.waiters();
  const posting = pool.post("run_1", "x");
  const session = await until("a run", () => sessions.find(({ heard }) => heard.length === 2));
  const { run, offer } = session.heard[0];
  session.send({ type: "ack", run, offer });
  assert.equal((await posting).proof, "received");
  await pool.waitForWaiters(before - 1);
}

describe("before the upgrade", () => {
  const handshake = {
    connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-protocol": "pilotlight.v1",
  };

  async function answer(path, headers) {
    const request = get(`${broker.url}${path}`, { headers, agent: false });
    const [response] = await Promise.race([once(request, "response"), once(request, "upgrade")]);
    if (response.statusCode === 101) request.destroy();
    return { status: response.statusCode, headers: response.headers, body: response.statusCode === 101 ? "" : await text(response) };
  }

  const path = "/v1/pools/app/v1/0.5/1";
  const cases = {
    "the handshake as it should be": [101, {}],
    "one of several subprotocols": [101, { "sec-websocket-protocol": "other, pilotlight.v1" }],
    "another subprotocol": [400, { "sec-websocket-protocol": "pilotlight.v2" }],
    "no subprotocol": [400, { "sec-websocket-protocol": undefined }],
    "no key": [400, { "sec-websocket-key": undefined }],
    "a short key": [400, { "sec-websocket-key": "c2hvcnQ=" }],
    "another version": [426, { "sec-websocket-version": "8" }],
    "the Origin of a page": [403, { origin: "https://example.org" }],
    "a browser's Sec-Fetch-Site": [403, { "sec-fetch-site": "cross-site" }],
  };
  for (const [what, [status, changes]] of Object.entries(cases)) {
    test(`${what}: ${status}`, async () => {
      const headers = Object.fromEntries(Object.entries({ ...handshake, ...changes }).filter(([, value]) => value));
      const got = await answer(path, headers);
      assert.equal(got.status, status, got.body);
      if (status === 101) assert.equal(got.headers["sec-websocket-protocol"], "pilotlight.v1");
      else assert.match(got.headers["content-type"], /^application\/problem\+json/);
      if (status === 426) assert.equal(got.headers["sec-websocket-version"], "13");
    });
  }

  for (const [what, target] of [["a path that is not a pool's", "/v1/pools/app/v1/0.5"], ["a query", `${path}?timeout=30s`]]) {
    test(`${what}: 400`, async () => assert.equal((await answer(target, handshake)).status, 400));
  }

  test("libraries report a foreign Origin as a refusal", async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${broker.port}${path}`, "pilotlight.v1", { origin: "https://example.org" });
    const [, response] = await once(socket, "unexpected-response");
    assert.equal(response.statusCode, 403);
    const standard = new StandardWebSocket(`ws://127.0.0.1:${broker.port}${path}`, { protocols: ["pilotlight.v1"], headers: { origin: "https://example.org" } });
    await new Promise((resolve) => standard.addEventListener("close", resolve));
  });
});
