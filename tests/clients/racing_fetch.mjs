// Owns a process of controllers, in Node or Bun, that poll with the fetch of their runtime and abort at given times.
// stdin: {url, after, stall}, one per line: `after` ms after the start of the poll, the event loop is blocked for `stall` ms, and
// then the poll is aborted.
// stdout: {url, run}: the name of the run, if the application has read all of it.
import { createInterface } from "node:readline";

const nap = new Int32Array(new SharedArrayBuffer(4));

async function poll({ url, after, stall }) {
  const controller = new AbortController();
  const timer = setTimeout(() => {
    if (stall) Atomics.wait(nap, 0, 0, stall);
    controller.abort();
  }, after);
  let run = null;
  try {
    const answer = await fetch(url, { signal: controller.signal });
    const payload = await answer.text();
    if (answer.status === 200) run = payload.split(" ", 1)[0];
  } catch {
    // Aborted, or the broker gave up the run.
  }
  clearTimeout(timer);
  process.stdout.write(`${JSON.stringify({ url, run })}\n`);
}

createInterface({ input: process.stdin }).on("line", (line) => poll(JSON.parse(line)));
