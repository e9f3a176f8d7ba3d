// Owns a worker in a process of its own, which dies or hangs as its runs say. Arguments: broker, pool.
import { wait } from "../index.mjs";

const [broker, pool] = process.argv.slice(2);
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());
const forever = () => new Promise((resolve) => setTimeout(resolve, 1 << 30));

async function* work(run) {
  const { before, pieces = [], after } = run.json();
  if (before === "kill") setTimeout(() => process.kill(process.pid, "SIGKILL"), 50);
  if (before === "kill") await forever();
  if (before === "hang") await forever();
  yield* pieces;
  if (after === "kill") setTimeout(() => process.kill(process.pid, "SIGKILL"), 50);
  if (after === "throw") throw new Error("no more");
  if (after === "kill" || after === "hang") await forever();
  if (after === "slow") await new Promise((resolve) => process.once("message", resolve));
  if (after === "slow") yield "end";
}

for await (const run of wait({ broker, pool, signal: stop.signal, contentType: "text/plain" })) {
  process.send({ begun: run.id });
  run.signal.addEventListener("abort", () => process.send({ aborted: run.id }));
  process.send({ result: await run.reply(work(run)).catch((error) => error.message) });
}
process.disconnect();
