// Owns waiting for runs: slots that poll while the consumer asks, and the iterator that hands it their runs.
import { setMaxListeners } from "node:events";
import { Connections } from "./http.mjs";
import { brokerOrigin, controllerNames, headerText, metadataHeader, poolPath } from "./options.mjs";
import { pollForRun } from "./poll.mjs";
import { Run } from "./run.mjs";

/** Waits for runs of one pool. */
export function wait(options) {
  return new Waiting(options);
}

function slotsOf({ broker, pool, slots = 1, controller, metadata, token, ca, onRetry }) {
  const [origin, target] = [brokerOrigin(broker), poolPath(pool)];
  return controllerNames(controller, slots).map((name, number) => ({
    number,
    controller: name,
    broker: origin,
    origin,
    target,
    token,
    onRetry,
    headers: { "pilotlight-controller": name, ...metadataHeader(metadata) },
    connections: new Connections(ca),
  }));
}

class Waiting {
  #slots;
  #replies;
  #stop = new AbortController();
  #runs = [];
  #askers = [];
  #idle = [];
  #polling = 0;
  #isStarted = false;
  #latest;
  #error;

  constructor({ signal, contentType = "application/octet-stream", early = true, ...options }) {
    this.#slots = slotsOf(options);
    this.#replies = { contentType: headerText("contentType", contentType), early };
    setMaxListeners(0, this.#stop.signal);
    const stop = () => this.#stop.abort();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true, signal: this.#stop.signal });
    this.#stop.signal.addEventListener("abort", () => this.#wake());
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Resolves to the next run. A single slot is free for it only if the run before has been answered, or is given up here. */
  next() {
    if (this.#slots.length === 1) this.#latest?.done();
    if (this.#runs.length > 0) return Promise.resolve({ value: this.#hand(this.#runs.shift()), done: false });
    this.#start();
    return new Promise((resolve, reject) => {
      this.#askers.push({ resolve, reject });
      this.#wake();
      this.#finishIfOver();
    });
  }

  /** Leaving the loop withdraws the polls. Runs that the consumer has go on; those that it has not seen fail. */
  async return(value) {
    this.#stop.abort();
    if (this.#slots.length === 1) this.#latest?.done();
    for (const run of this.#runs.splice(0)) run.fail("the worker stopped before it began with this run").catch(() => {});
    if (!this.#isStarted) this.#start();
    return { value, done: true };
  }

  #start() {
    if (this.#isStarted) return;
    this.#isStarted = true;
    this.#polling = this.#slots.length;
    for (const slot of this.#slots) this.#serve(slot);
  }

  async #serve(slot) {
    try {
      while (await this.#isWanted()) {
        const received = await pollForRun(slot, this.#stop.signal);
        if (!received) break;
        slot.origin = received.origin;
        const { connections, controller } = slot;
        await new Promise((over) => this.#deliver(new Run(received, { ...this.#replies, connections, controller, over })));
      }
    } catch (error) {
      this.#error ??= error;
      this.#stop.abort();
    }
    slot.connections.close();
    this.#polling -= 1;
    this.#finishIfOver();
  }

  /** Resolves to true once the consumer asks for a run, so that nobody waits for a worker that is at work; to false at the stop. */
  async #isWanted() {
    while (this.#askers.length === 0 && !this.#stop.signal.aborted) await new Promise((resolve) => this.#idle.push(resolve));
    return !this.#stop.signal.aborted;
  }

  #wake() {
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #deliver(run) {
    const asker = this.#askers.shift();
    if (asker) asker.resolve({ value: this.#hand(run), done: false });
    else this.#runs.push(run);
  }

  #hand(run) {
    this.#latest = run;
    return run;
  }

  #finishIfOver() {
    if (this.#polling > 0 || this.#runs.length > 0) return;
    const error = this.#error;
    for (const { resolve, reject } of this.#askers.splice(0)) {
      if (!this.#error) resolve({ value: undefined, done: true });
      else reject(error);
    }
  }
}
