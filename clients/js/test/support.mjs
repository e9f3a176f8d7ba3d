// Owns what the tests share: the real broker, a pool of their own, workers, and servers that answer as told.
import { once } from "node:events";
import { createServer } from "node:http";
import { wait } from "../index.mjs";
import { Broker, until } from "../../../tests/clients/broker.mjs";

export { Broker, until };

let pools = 0;
/** A pool that no other test uses. */
export const freshPool = () => `app-${++pools}/v1/0.5/1`;

export async function startBroker(t, ...flags) {
  const broker = await Broker.start(...flags);
  t.after(() => broker.stop());
  return broker;
}

/** A worker that answers each run by `work`, until the test's end. */
export function startWorker(t, broker, pool, work, options = {}) {
  const stop = new AbortController();
  const runs = wait({ broker: broker.url, pool, signal: stop.signal, ...options });
  const ended = (async () => {
    for await (const run of runs) {
      const answered = Promise.resolve(work(run));
      if (!(options.slots > 1)) await answered;
    }
  })();
  t.after(() => stop.abort());
  return { stop: () => stop.abort(), ended, runs };
}

/** A promise, and what resolves it. */
export function promised() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/** A server that stands in for a broker or a proxy where the real one cannot be made to answer so. */
export async function startServer(t, answer) {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address();
  return { url: `http://127.0.0.1:${port}`, server };
}
