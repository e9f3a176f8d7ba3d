// Owns the test that no run reaches a controller whose schema refuses it: the broker's check is compared with the real
// schema.
import assert from "node:assert/strict";
import { test } from "node:test";
import { DequeuedMessage } from "@trigger.dev/core/v3";
import { Broker, run } from "./broker.mjs";

/** A message with every optional field, so that each can be made invalid. */
function full() {
  const message = JSON.parse(run("run_full"));
  message.checkpoint = { id: "c", type: "DOCKER", location: "l", imageRef: "i", reason: null };
  message.templateKey = "t";
  message.completedWaitpoints = [
    {
      id: "w", index: 0, friendlyId: "f", type: "RUN", completedAt: "2026-08-21T18:27:52.104Z", idempotencyKey: "k",
      completedByTaskRun: { id: "r", friendlyId: "f", batch: { id: "b", friendlyId: "f" } },
      completedAfter: "2026-08-21T18:27:52.104Z", completedByBatch: { id: "b", friendlyId: "f" },
      output: "{}", outputType: "application/json", outputIsError: false,
    },
  ];
  message.run.annotations = {
    ...message.run.annotations, rootScheduleId: "s", externalDeploymentId: "e", webhookDeliveryId: "d",
    webhookEndpointId: "e", workerCell: "c", workerLane: "l",
  };
  message.placementTags = [{ key: "k", values: ["v"] }];
  return message;
}

const strange = [
  undefined, null, true, false, 0, -1, 1.5, 1e300, "", "x", "1", "RUN", [], ["x"], [{}], {}, { id: "x" }, { RUN: null },
  "2026-02-30T00:00:00Z", "2026-08-21", "2026-08-21T18:27:60Z", "2026-08-21T24:00:00Z", "0000-01-01T00:00:00Z", 8.64e15, 8.65e15,
];

/** The path to every value in a value, including the empty path. */
function* paths(value, path = []) {
  yield path;
  if (value !== null && typeof value === "object") {
    for (const key of Object.keys(value)) yield* paths(value[key], [...path, key]);
  }
}

function changed(message, path, value) {
  if (path.length === 0) return value;
  const copy = structuredClone(message);
  const parent = path.slice(0, -1).reduce((at, key) => at[key], copy);
  if (value === undefined && !Array.isArray(parent)) delete parent[path.at(-1)];
  else parent[path.at(-1)] = value;
  return copy;
}

/** Where the schema has an enumeration. */
const enumerations = [
  "snapshot.executionStatus", "checkpoint.type", "completedWaitpoints.0.type", "run.machine.name", "environment.type",
];

test("of a newer platform's messages the shape alone lets new words of an enumeration pass, and nothing else", async () => {
  const broker = await Broker.start("--message-check", "shape");
  try {
    const newer = [];
    for (const path of paths(full())) {
      for (const value of strange) {
        const message = changed(full(), path, value);
        const { status } = await broker.post(JSON.stringify(message) ?? "null");
        if (status !== 200 || DequeuedMessage.safeParse(JSON.parse(JSON.stringify(message))).success) continue;
        const what = `${path.join(".")} = ${JSON.stringify(value)}`;
        assert.ok(enumerations.includes(path.join(".")) && typeof value === "string", `it lets through ${what}`);
        newer.push(path.join("."));
      }
    }
    assert.deepEqual([...new Set(newer)].sort(), [...enumerations].sort());
  } finally {
    await broker.stop();
  }
});

test("every message that the broker lets through passes the client's schema", async () => {
  const broker = await Broker.start();
  try {
    const tally = { bothAccept: 0, bothRefuse: 0, onlyClientAccepts: 0 };
    const check = async (message, what) => {
      const text = JSON.stringify(message) ?? "null";
      const { status } = await broker.post(text);
      const client = DequeuedMessage.safeParse(JSON.parse(text)).success;
      assert.ok(status === 200 || status === 400, `${status} for ${what}`);
      assert.ok(status === 400 || client, `the broker lets through what a controller dies of: ${what}`);
      tally[status === 200 ? "bothAccept" : client ? "onlyClientAccepts" : "bothRefuse"]++;
    };
    await check(full(), "the full message");
    assert.equal(tally.bothAccept, 1);
    for (const path of paths(full())) {
      for (const value of strange) {
        await check(changed(full(), path, value), `${path.join(".")} = ${JSON.stringify(value)}`);
      }
    }
    // A check that is stricter than the client's is safe; one that is much stricter would cost warm starts.
    assert.ok(tally.bothAccept > 300 && tally.bothRefuse > 1000, JSON.stringify(tally));
    console.log(JSON.stringify(tally));
  } finally {
    await broker.stop();
  }
});
