// Owns a process with many controllers: Trigger.dev's own client, called as its managed run controller calls it.
import { AsyncLocalStorage } from "node:async_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { WarmStartClient } from "@trigger.dev/core/v3/workers";

const [url, first, count, longestRun] = [process.argv[2], ...process.argv.slice(3).map(Number)];
// The client logs every retry.
for (const method of ["log", "error", "warn", "info", "debug"]) console[method] = () => {};

// In production each controller is a process, so each has connections of its own here.
const realFetch = globalThis.fetch;
await realFetch("data:,");
const { constructor: Agent } = globalThis[Symbol.for("undici.globalDispatcher.1")];
const own = new AsyncLocalStorage();
globalThis.fetch = async (resource, init) => {
  try {
    return await realFetch(resource, { ...init, dispatcher: own.getStore() });
  } catch (error) {
    const path = new URL(resource).pathname;
    if (error.name !== "AbortError") process.send({ failed: `${path} ${error.cause?.code ?? error.message}` });
    throw error;
  }
};

/** The same steps as `waitForNextRun` in trigger.dev's dist/esm/entryPoints/managed/controller.js, including its exits. */
async function nextRun(client) {
  const connect = await client.connect();
  if (!connect.success) return { exit: 0, why: `no connection: ${connect.error}` };
  // The controller's defaults are in env.js in the same folder.
  const { connectionTimeoutMs = 30_000, keepaliveMs = 300_000 } = connect.data;
  if (!connectionTimeoutMs || !keepaliveMs) return { exit: 0, why: "warm starts are off" };
  const run = await client.warmStart({ workerInstanceName: "fleet", connectionTimeoutMs, keepaliveMs });
  return run ? { run } : { exit: 0, why: "the wait was ended" };
}

async function control(number) {
  const client = new WarmStartClient({
    apiUrl: new URL(url),
    controllerId: `controller_${number}`,
    deploymentId: "deployment_1",
    deploymentVersion: "20260821.3",
    machineCpu: "0.5",
    machineMemory: "0.5",
  });
  for (;;) {
    const { run, ...ended } = await nextRun(client).catch((error) => ({ exit: 1, why: error.message }));
    if (!run) return process.send({ controller: number, ...ended });
    process.send({ receipt: run.run.friendlyId, snapshot: run.snapshot.friendlyId });
    await sleep(Math.random() * longestRun);
  }
}

for (let number = first; number < first + count; number++) own.run(new Agent(), control, number);
process.on("disconnect", () => process.exit());
