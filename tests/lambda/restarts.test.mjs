// Owns the tests of a broker that is killed, or drains, while stock clients serve stock SDKs: the same processes serve on,
// nothing is lost silently, and nothing runs twice but what was open when the broker was killed.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Broker, until } from "../clients/broker.mjs";
import { runtimes } from "./runtimes.mjs";
import { sdks } from "./sdks.mjs";
import { Witness } from "./witness.mjs";
import { Worker } from "./worker.mjs";

const SLOTS = 2;
const callers = sdks.filter(({ skip }) => !skip);

/** How an invocation may end whose broker is away: SDKs say so when their own retries are over. */
const MAY_FAIL = /^(ECONNREFUSED|ECONNRESET|EPIPE|Error|TimeoutError|EndpointConnectionError|ConnectionClosedError|ConnectionError|ReadTimeoutError|TooManyRequestsException|ResourceConflictException)$/;

/** Invokes a function without pause until it is told to end. */
class Load {
  calls = [];
  open = new Set();

  constructor(sdk, name, function_) {
    Object.assign(this, { sdk, name, function: function_ });
    this.done = this.run();
  }

  async run() {
    for (let number = 0; !this.over; number += 1) {
      const call = { name: `${this.name} ${number}` };
      this.calls.push(call);
      this.open.add(call);
      const event = { do: "sleep", milliseconds: 20, name: call.name };
      call.outcome = await this.sdk.invoke({ FunctionName: this.function, Payload: JSON.stringify(event) });
      this.open.delete(call);
    }
  }
}

const tally = (values) => {
  const counts = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
};

/** Restarts the broker under load, and accounts for each invocation. */
async function restart(t, runtime, signal) {
  const broker = await Broker.start("--drain-window", "1s");
  t.after(() => broker.stop());
  const witness = await Witness.start(t, broker);
  const worker = await Worker.start(t, broker, runtime, { slots: SLOTS });
  const loads = callers.map((Sdk) => new Load(new Sdk(t, witness.url), Sdk.title, worker.name));
  await sleep(700);
  const openAtKill = new Set(loads.flatMap(({ open }) => [...open]));
  await broker.restart(signal);
  await worker.waits(SLOTS).catch(() => {});
  await sleep(700);
  for (const load of loads) load.over = true;
  await Promise.all(loads.map(({ done }) => done));
  await worker.waits(SLOTS);

  const invoked = group(worker.invoked());
  const calls = loads.flatMap(({ calls }) => calls).map((call) => ({ ...call, wasOpen: openAtKill.has(call), times: invoked.get(call.name)?.length ?? 0 }));
  const answered = calls.filter(({ outcome }) => !outcome.exception);
  const failed = calls.filter(({ outcome }) => outcome.exception);
  const twice = calls.filter(({ times }) => times > 1);
  const seen = {
    calls: calls.length,
    answered: answered.length,
    failed: tally(failed.map(({ outcome }) => outcome.exception)),
    "failed, though the function ran": failed.filter(({ times }) => times > 0).length,
    "ran twice": twice.length,
    "sent more than once": [...witness.posts.values()].filter((count) => count > 1).length,
    processes: new Set(worker.invoked().map(({ pid }) => pid)).size,
  };
  console.log(`${runtime.name}, ${signal}: ${JSON.stringify(seen)}`);

  assert.equal(worker.process.exitCode, null);
  assert.equal(seen.processes, SLOTS, "the same processes serve on");
  for (const { name, outcome, times, wasOpen } of answered) {
    assert.equal(outcome.functionError ?? JSON.parse(outcome.payload).hello, name, JSON.stringify(outcome));
    assert.ok(times >= 1, `${name} was answered without having run`);
    assert.ok(times === 1 || wasOpen, `${name} ran ${times} times`);
  }
  for (const { name, outcome, times, wasOpen } of failed) {
    assert.match(outcome.exception, MAY_FAIL, JSON.stringify(outcome));
    // Only then its answer may be lost.
    assert.ok(times === 0 || (wasOpen && signal === "SIGKILL"), `${name} ran ${times} times`);
  }
  for (const { name } of twice) {
    const [{ id }] = invoked.get(name);
    assert.ok(witness.posts.get(id) > 1, `${name} ran twice, and not by its SDK's retry`);
    assert.ok(invoked.get(name).every((one) => one.id === id), `${name} is one invocation`);
  }
  if (signal === "SIGTERM") assert.equal(twice.length, 0, "a drain ends what is open");
  assert.ok(answered.length > calls.length / 2);
  return seen;
}

function group(records) {
  const groups = new Map();
  for (const record of records) groups.set(record.name, [...(groups.get(record.name) ?? []), record]);
  return groups;
}

/** An invocation that is open when the broker is killed: its SDK does not know whether it runs, and sends it again. */
async function runsAgain(t, Sdk) {
  const broker = await Broker.start();
  t.after(() => broker.stop());
  const witness = await Witness.start(t, broker);
  const worker = await Worker.start(t, broker, runtimes.find(({ skip }) => !skip), { slots: 2 });
  const sdk = new Sdk(t, witness.url);
  const place = worker.place("both");
  const event = JSON.stringify({ do: "meet", place, people: 2, name: "open" });
  const outcome = sdk.invoke({ FunctionName: worker.name, Payload: event });
  await until("it runs", () => worker.invoked().length === 1);
  const release = witness.hold();
  await broker.restart("SIGKILL");
  await worker.waits(1);
  release();
  await until("it runs again", () => worker.invoked().length === 2);
  // The first one does not end before: two invocations with one name cannot meet.
  writeFileSync(join(place, "other"), "");
  assert.equal((await outcome).exception, undefined);
  await worker.waits(2);
  const [first, second] = worker.invoked();
  assert.equal(first.id, second.id, "it has the same name, so the function can tell");
  assert.notEqual(first.pid, second.pid, "the other process serves it");
  assert.equal(witness.take(1), 2, "it was sent again");
  assert.equal(worker.invoked().length, 2);
}

for (const Sdk of callers) {
  test(`what is open when the broker is killed runs again by the retry of ${Sdk.title}`, (t) => runsAgain(t, Sdk));
}

for (const runtime of runtimes) {
  describe(runtime.name, { skip: runtime.skip }, () => {
    test("it outlives a broker that is killed", (t) => restart(t, runtime, "SIGKILL"));
    test("it outlives a broker that drains", (t) => restart(t, runtime, "SIGTERM"));
  });
}
