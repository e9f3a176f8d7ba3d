// Owns what the tests share: the real broker, a pool of their own, workers, and servers that answer as told.
import { once } from "node:events";
import { createServer } from "node:http";
import { wait } from "../index.mjs";
import { Broker, endsWithThis, until } from "../../../tests/clients/broker.mjs";

export { Broker, endsWithThis, until };

/** On a busy machine a worker may read late, which is not what these tests are about. */
const PATIENT = ["--proof-timeout", "5s", "--dispatch-budget", "20s"];
const PATIENCE_MS = 60_000;

let pools = 0;
/** A pool that no other test uses. */
export const freshPool = () => `app-${++pools}/v1/0.5/1`;

export async function startBroker(t, ...flags) {
  const broker = await Broker.start(...PATIENT, ...flags);
  t.after(() => broker.stop());
  return broker;
}

/** A worker that answers each run by `work`, until the test's end. */
export function startWorker(t, broker, pool, work, options = {}) {
  const stop = new AbortController();
  const runs = wait({ broker: broker.url, pool, signal: stop.signal, ...options });
  const ended = bounded("the worker ends", (async () => {
    for await (const run of runs) {
      const answered = Promise.resolve(work(run));
      if (!(options.slots > 1)) await answered;
    }
  })());
  t.after(() => stop.abort());
  return { stop: () => stop.abort(), ended, runs };
}

/** A promise that is awaited for a while only, so that a test says what it has waited for. */
export function bounded(what, promise) {
  // Made here, its stack says where.
  const late = new Error(`not within ${PATIENCE_MS} ms: ${what}`);
  const first = new Promise((resolve, reject) => {
    const giveUp = () => {
      // Nobody may await it, as it is with a worker that works until its test's end.
      first.catch(() => {});
      reject(late);
    };
    const timer = setTimeout(giveUp, PATIENCE_MS).unref();
    promise.finally(() => clearTimeout(timer)).then(resolve, reject);
  });
  return first;
}

/** A promise, and what resolves it. */
export function promised() {
  const made = {};
  made.promise = bounded("a promise is kept", new Promise((resolve, reject) => Object.assign(made, { resolve, reject })));
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
