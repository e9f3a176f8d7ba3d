// Owns the test that a long reply takes no more memory than a short one.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { OpenReply } from "../src/reply.mjs";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc");
const PIECES = 200_000;

/** A request whose connection takes everything, now and then after a pause. */
class Request extends EventEmitter {
  #written = 0;
  flushHeaders() {}
  destroy() {}

  write() {
    const isFull = ++this.#written % 100 === 0;
    if (isFull) setImmediate(() => this.emit("drain"));
    return !isFull;
  }

  end() {
    this.emit("close");
  }
}

test("a reply of 200,000 pieces keeps none of them", async () => {
  const request = new Request();
  const reply = new OpenReply({ request: () => request }, "http://127.0.0.1", "/", {});
  const heap = [];
  await reply.send((async function* () {
    for (let piece = 0; piece <= PIECES; piece++) {
      if (piece % (PIECES / 2) === 1_000) {
        collect();
        heap.push(process.memoryUsage().heapUsed);
      }
      yield "token";
    }
  })());
  const grown = heap[1] - heap[0];
  assert.ok(grown < 2 << 20, `the heap has grown by ${grown} bytes`);
  assert.equal(request.listenerCount("drain"), 0);
});

test("a reply that ends while its connection is full leaves no listener", async () => {
  const request = new Request();
  request.write = () => !setImmediate(() => request.emit("close"));
  const reply = new OpenReply({ request: () => request }, "http://127.0.0.1", "/", {});
  assert.equal(await reply.send(["a", "b"]), "lost");
  assert.equal(request.listenerCount("drain"), 0);
});
