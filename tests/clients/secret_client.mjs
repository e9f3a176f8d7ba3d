// Owns one real client over TLS, in a process of its own, because Node reads the trusted authority only when it starts. It
// polls with the token from its environment, prints the runs that it receives, and posts the runs that it reads from
// standard input.
import { createInterface } from "node:readline";
import { WarmStartClient } from "@trigger.dev/core/v3/workers";

const [url, deploymentId] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
for (const method of ["log", "error", "info", "debug"]) console[method] = () => {};

createInterface({ input: process.stdin }).on("line", async (body) => {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${url}/warm-start`, { method: "POST", headers, body });
  say({ posted: await answer.json() });
});

const warm = new WarmStartClient({
  apiUrl: new URL(url),
  controllerId: "controller_1",
  deploymentId,
  deploymentVersion: "20260821.3",
  machineCpu: "0.5",
  machineMemory: "0.5",
});
say({ connected: await warm.connect() });
for (;;) {
  const run = await warm.warmStart({ workerInstanceName: "test", connectionTimeoutMs: 50_000, keepaliveMs: 120_000 });
  if (!run) break;
  say({ received: run.run.friendlyId });
}
say({ ended: true });
