// Owns the tests of WebSockets and event streams with the clients in the guides, which use libraries that others wrote: runs,
// death, drain, retirement, tokens, and proxies in between.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Broker, run, until } from "./broker.mjs";
import { clients, GuideController, guideProxy, hash, needsClient, Pool } from "./guides.mjs";
import { needs } from "./proxy.mjs";
import { deploymentToken } from "./tokens.mjs";

const PAYLOADS = {
  text: "héllo wörld, 世界 🎉",
  "every byte": Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
  "0 bytes": "",
  "1 MiB of text": "1234567890abcdef".repeat(65_536),
  "1 MiB of binary": randomBytes(1 << 20),
  "not UTF-8": Buffer.from([0x7b, 0xff, 0xfe, 0xc0, 0x80, 0x7d]),
  "quotes and line ends": 'He said "no" \\ \n\n\r\n\r data: x\nevent: retired\n\0\t\u2028\u0085\u001c end\n',
};
/** bash reads a pipe byte by byte: a large run would be read too late. */
const payloadsFor = (client) => Object.entries(PAYLOADS).filter(([, payload]) => client !== "curl" || payload.length < 1_000);
const RECEIVED = { delivered: true, proof: "received", offers: 1 };
/** curl's one slot is used one run at a time. */
const slotsOf = (client) => (client === "curl" ? 1 : 3);

// Several tests run at once, so a receipt may take longer than that of a controller on a machine of its own.
const PATIENT = ["--proof", "received", "--proof-timeout", "5s", "--dispatch-budget", "20s"];
let broker;
before(async () => (broker = await Broker.start(...PATIENT)));
after(() => broker?.stop());

/** Posts a run that the controller must get, once, unchanged, and acknowledge. */
async function deliver(pool, controller, run, payload, type) {
  const { controller: name, run: posted, ...answer } = await pool.post(run, payload, "", type);
  assert.deepEqual([posted, answer], [run, RECEIVED]);
  assert.ok(controller.process.spawnargs[0] === "bash" || name === controller.name, name);
  const { contentType, size, hash: got } = await controller.got(run);
  assert.deepEqual([contentType, size, got], [type ?? "text/plain", Buffer.byteLength(payload), hash(payload)]);
  assert.equal(controller.started.filter(({ started }) => started === run).length, 1);
}

describe("each client", { concurrency: 3 }, () => {
  for (const client of clients()) describeClient(client);
});

function describeClient(client) {
  describe(client, needsClient(client), () => {
    const slots = slotsOf(client);

    test("gets every kind of payload unchanged, and each run once", async (t) => {
      const pool = new Pool(broker);
      const controller = new GuideController(t, client, pool.url, { slots });
      await pool.waitForWaiters(slots);
      for (const [number, [kind, payload]] of payloadsFor(client).entries()) {
        const type = `application/x-${number}; charset="x"`;
        await t.test(kind, () => deliver(pool, controller, `run_${number}`, payload, type));
        await pool.waitForWaiters(slots);
      }
    });

    test("killed while it waits, it leaves its pool with all its slots", async (t) => {
      const pool = new Pool(broker);
      const controller = new GuideController(t, client, pool.url, { slots });
      await pool.waitForWaiters(slots);
      await controller.kill("SIGKILL");
      await pool.waitForWaiters(0);
      assert.equal((await pool.post("run_1", "x")).reason, "no_pool");
    });

    for (const [death, verdict, story] of [
      // The kernel acknowledges the run, and nobody reads it.
      ["stopped", "frozen", () => {}],
      ["killed with a run unread", "lost", (controller) => controller.kill("SIGKILL")],
    ]) {
      test(`${death}, it costs one offer and its place, and another controller gets the run`, async (t) => {
        const impatient = await Broker.start("--proof-timeout", "2s", "--dispatch-budget", "20s");
        t.after(() => impatient.stop());
        const pool = new Pool(impatient);
        const other = new GuideController(t, client, pool.url);
        await pool.waitForWaiters(1);
        const failing = new GuideController(t, client, pool.url, { slots });
        await pool.waitForWaiters(1 + slots);
        failing.kill("SIGSTOP");
        // The newest waiter is offered the run first. A controller of the same address is a suspect, too, but the only one left.
        const posting = pool.post("run_1", "x", "?redeliver=true");
        await pool.waitForWaiters(slots);
        await story(failing);
        const answer = await posting;
        assert.deepEqual([answer.delivered, answer.proof, answer.offers], [true, "received", 2], JSON.stringify(answer));
        const verdicts = ["frozen", "lost", "unacked", "received"];
        const counts = verdicts.map((verdict) => impatient.metric(`pilotlight_offers_total{verdict="${verdict}"}`));
        assert.deepEqual(await Promise.all(counts), verdicts.map((known) => Number(known === verdict || known === "received")));
        assert.equal(await impatient.metric("pilotlight_redeliveries_total"), 1);
        await other.got("run_1");
        await other.finishes("run_1");
        await pool.waitForWaiters(1);
        assert.deepEqual(failing.started, []);
      });
    }

    test("retired, it stays away", async (t) => {
      const pool = new Pool(broker);
      const controller = new GuideController(t, client, pool.url, { slots });
      await pool.waitForWaiters(slots);
      await broker.retire(pool.deployment);
      assert.equal(await controller.ended, 0);
      assert.equal(await pool.waiters(), 0);
    });

    if (client !== "curl") {
      test("a slow run delays no run of its other slots, and no slot is lost", async (t) => {
        const pool = new Pool(broker);
        const controller = new GuideController(t, client, pool.url, { slots });
        await pool.waitForWaiters(slots);
        await deliver(pool, controller, "run_slow", "slow");
        await pool.waitForWaiters(slots - 1);
        for (let number = 0; number < 10; number++) {
          await deliver(pool, controller, `run_${number}`, `quick ${number}`);
          await controller.finishes(`run_${number}`);
          await pool.waitForWaiters(slots - 1);
        }
        assert.ok(!controller.done.includes("run_slow"));
        controller.letGo();
        await pool.waitForWaiters(slots);
      });
    }

    for (const proxy of ["nginx", "haproxy"]) {
      test(`through ${proxy}: runs are received, and a killed controller leaves its pool`, needs(proxy), async (t) => {
        const behind = await Broker.start(...PATIENT, "--behind-proxy", "127.0.0.1");
        t.after(() => behind.stop());
        const pool = new Pool(behind, await guideProxy(t, proxy, behind));
        const controller = new GuideController(t, client, pool.url, { slots });
        await pool.waitForWaiters(slots);
        for (const [number, [, payload]] of payloadsFor(client).entries()) {
          await deliver(pool, controller, `run_${number}`, payload);
          await controller.finishes(`run_${number}`);
          await pool.waitForWaiters(slots);
        }
        await controller.kill("SIGKILL");
        await pool.waitForWaiters(0);
        const again = new GuideController(t, client, pool.url, { slots });
        await pool.waitForWaiters(slots);
        await behind.retire(pool.deployment);
        assert.equal(await again.ended, 0);
      });
    }
  });
}

const able = clients().filter((client) => !needsClient(client).skip);

test("one pool of all clients takes a supervisor's runs, each once", async (t) => {
  const deployment = "deployment_1";
  const path = `/v1/pools/${deployment}/20260821.3/0.5/0.5`;
  const controllers = able.map((client) => new GuideController(t, client, `${broker.url}${path}`));
  const all = Object.assign(new Pool(broker), { deployment, path });
  await all.waitForWaiters(able.length);
  for (let number = 0; number < 60; number++) {
    const { status, didWarmStart, proof } = await broker.post(run(`run_${number}`));
    assert.deepEqual([status, didWarmStart, proof], [200, true, "received"]);
  }
  const started = () => controllers.flatMap(({ started }) => started.map(({ started }) => started)).sort();
  await until("all are done", () => controllers.flatMap(({ done }) => done).length === 60);
  assert.deepEqual(started(), Array.from({ length: 60 }, (_, number) => `run_${number}`).sort());
});

for (const [signal, what] of [["SIGTERM", "a drained"], ["SIGKILL", "a killed"]]) {
  test(`clients come back to ${what} broker, those at work as well, and none announces a slot twice`, async (t) => {
    const own = await Broker.start(...PATIENT, "--drain-window", "500ms");
    t.after(() => own.stop());
    const parts = able.filter((client) => client !== "curl").map((client) => {
      const pool = new Pool(own);
      return { client, pool, controller: new GuideController(t, client, pool.url, { slots: 2 }) };
    });
    for (const { pool, controller } of parts) {
      await pool.waitForWaiters(2);
      await deliver(pool, controller, "run_slow", "slow");
    }
    await own.restart(signal);
    for (const { client, pool } of parts) {
      // A stream has all slots free, so its client waits for its run first.
      if (clients("websocket").includes(client)) await pool.waitForWaiters(1, 10_000);
    }
    for (const { client, controller, pool } of parts) {
      controller.letGo();
      await pool.waitForWaiters(2, 20_000);
      assert.equal(controller.process.exitCode, null, client);
      await deliver(pool, controller, "run_after", "quick");
      await pool.waitForWaiters(2);
    }
  });
}

describe("deployment tokens", { concurrency: 4 }, () => {
  const secret = "a secret of the platform";
  const folder = mkdtempSync(join(tmpdir(), "pilotlight-"));
  writeFileSync(join(folder, "secret"), secret);
  after(() => rmSync(folder, { recursive: true }));

  async function guardedPool(t) {
    const guarded = await Broker.start(...PATIENT, "--token-secret-file", join(folder, "secret"), "--require-token");
    t.after(() => guarded.stop());
    return new Pool(guarded);
  }

  for (const client of able.filter((client) => client !== "curl")) {
    test(`${client} waits with one; without a valid one it is refused, and tries again`, async (t) => {
      const pool = await guardedPool(t);
      const refused = {
        no_token: undefined,
        bad_token: await deploymentToken("a secret of somebody else", pool.deployment, "v1"),
        other_deployment: await deploymentToken(secret, "another", "v1"),
        expired_token: await deploymentToken(secret, pool.deployment, "v1", "-1h"),
      };
      const strangers = Object.values(refused).map((token) => new GuideController(t, client, pool.url, { token }));
      for (const reason of Object.keys(refused)) {
        const count = () => pool.broker.metric(`pilotlight_auth_failures_total{reason="${reason}"}`);
        await until(`${reason} is refused twice`, async () => (await count()) >= 2);
      }
      assert.equal(await pool.waiters(), 0);
      for (const stranger of strangers) stranger.kill("SIGKILL");
      const token = await deploymentToken(secret, pool.deployment, "v1");
      const controller = new GuideController(t, client, pool.url, { token });
      await pool.waitForWaiters(1);
      await deliver(pool, controller, "run_1", "x");
    });
  }

  for (const client of ["ws", "eventsource"]) {
    test(`${client} waits on when its token is no longer valid`, async (t) => {
      const pool = await guardedPool(t);
      // A difference between clocks of a minute is tolerated.
      const token = await deploymentToken(secret, pool.deployment, "v1", Math.floor(Date.now() / 1000) - 55);
      const controller = new GuideController(t, client, pool.url, { token });
      await pool.waitForWaiters(1);
      const poll = () => fetch(pool.url, { headers: { authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(500) });
      await until("the token is refused", () => poll().then(({ status }) => status === 401, () => false));
      await pool.waitForWaiters(1);
      await deliver(pool, controller, "run_1", "x");
    });
  }
});
