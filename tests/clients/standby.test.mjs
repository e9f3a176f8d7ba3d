// Owns the test of deploy/standby: of two brokers behind one address the second takes over, with unchanged clients.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";
import { WarmStartClient } from "@trigger.dev/core/v3/workers";
import { Broker, freePort, run, until } from "./broker.mjs";
import { needs, startProxy } from "./proxy.mjs";

const CONTROLLERS = 10;
const recipe = readFileSync(new URL("../../deploy/standby/haproxy.cfg", import.meta.url), "utf8");

before(() => {
  // The client logs every retry.
  for (const method of ["error", "info", "debug"]) console[method] = () => {};
});

/** The configuration of deploy/standby, with the addresses of these brokers. */
function configure(port, active, standby) {
  const lines = [
    [/^ {2}bind .*$/m, `  bind 127.0.0.1:${port}`],
    [/^ {2}server active \S+ check port \d+/m, `  server active 127.0.0.1:${active.port} check port ${active.ops}`],
    [/^ {2}server standby \S+ check port \d+/m, `  server standby 127.0.0.1:${standby.port} check port ${standby.ops}`],
  ];
  return lines.reduce((text, [line, changed]) => {
    assert.match(text, line);
    return text.replace(line, changed);
  }, recipe);
}

/** A controller that polls for ever, and records how its polls end. */
async function controller(url, number, seen) {
  const warm = new WarmStartClient({
    apiUrl: new URL(url),
    controllerId: `controller_${number}`,
    deploymentId: "deployment_1",
    deploymentVersion: "20260821.3",
    machineCpu: "0.5",
    machineMemory: "0.5",
  });
  seen.clients.push(warm);
  for (;;) {
    const message = await warm.warmStart({ workerInstanceName: "test", connectionTimeoutMs: 50_000, keepaliveMs: 300_000 });
    if (seen.over) return;
    if (!message) return seen.exits.push(number);
    seen.receipts.push(message.run.friendlyId);
  }
}

test("the standby takes over from a killed broker, and hands back", needs("haproxy"), async (t) => {
  const [active, standby] = [await Broker.start(), await Broker.start()];
  const port = await freePort();
  await startProxy(t, "haproxy", port, () => configure(port, active, standby));
  const seen = { clients: [], exits: [], receipts: [], over: false };
  t.after(async () => {
    seen.over = true;
    for (const client of seen.clients) client.abort();
    await active.stop();
    await standby.stop();
  });
  const url = `http://127.0.0.1:${port}`;
  // A supervisor uses the same address, and treats an error as a miss.
  const post = (name) => active.post.call({ url }, run(name)).catch(() => ({}));
  const delivered = (name) =>
    until(`${name} is delivered`, async () => (await post(name)).didWarmStart && seen.receipts.includes(name), 60_000);

  for (let number = 0; number < CONTROLLERS; number++) controller(url, number, seen);
  await active.waitForWaiters(CONTROLLERS);
  await delivered("run_active");
  await active.waitForWaiters(CONTROLLERS);

  const killed = performance.now();
  active.process.kill("SIGKILL");
  await delivered("run_standby");
  const dip = performance.now() - killed;
  await standby.waitForWaiters(CONTROLLERS, 60_000);
  const all = performance.now() - killed;

  await active.ended;
  const back = performance.now();
  await active.launch();
  await active.waitForWaiters(CONTROLLERS, 60_000);
  const returned = performance.now() - back;
  await delivered("run_back");
  assert.equal(await standby.waiters(), 0, "nobody waits where no run comes");

  await fetch(`http://127.0.0.1:${active.ops}/drain`, { method: "POST" });
  await standby.waitForWaiters(CONTROLLERS, 60_000);
  await delivered("run_drained");

  assert.deepEqual(seen.exits, [], "no controller ends");
  assert.equal(new Set(seen.receipts).size, seen.receipts.length, "no run starts twice");
  console.log(`killed: a hit after ${Math.round(dip)} ms, all ${CONTROLLERS} wait after ${Math.round(all)} ms; back: all after ${Math.round(returned)} ms`);
});
