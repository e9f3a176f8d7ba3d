// Owns the open reply of one run: a POST whose head is sent when the run comes, and whose answer may come before its end.
import { answerTo, readWhole } from "./http.mjs";
import { toBytes } from "./options.mjs";

/** What the broker's answer to a reply or an error means to the worker. */
function resultOf(status) {
  if (status === 200) return "replied";
  return status === 410 ? "gone" : "lost";
}

/** Tells the broker that a run failed. It has a connection of its own, because that of an open reply is under way. */
export async function postError(connections, origin, target, contentType, body) {
  const headers = { "content-type": contentType, "content-length": body.length };
  const request = connections.request(origin, target, { method: "POST", headers });
  const arrives = answerTo(request);
  request.end(body);
  try {
    const answer = await arrives;
    await readWhole(answer);
    return resultOf(answer.statusCode);
  } catch {
    return "lost";
  }
}

export class OpenReply {
  #request;
  #isSent = false;
  #isReplaced = false;

  /** Sends the head. `ended` resolves to the result, which is known before the reply's end if its caller leaves. */
  constructor(connections, origin, target, headers) {
    const framing = headers["content-length"] === undefined ? { "transfer-encoding": "chunked" } : {};
    this.#request = connections.request(origin, target, { method: "POST", headers: { ...headers, ...framing } });
    this.ended = this.#follow();
    this.#request.flushHeaders();
  }

  async #follow() {
    try {
      const answer = await answerTo(this.#request);
      const result = resultOf(answer.statusCode);
      if (!this.#isSent) {
        this.#request.destroy();
        return result === "replied" ? "lost" : result;
      }
      await readWhole(answer);
      return result;
    } catch {
      return this.#isReplaced ? "gone" : "lost";
    }
  }

  /** Sends the body as it comes, no faster than the caller reads it, and resolves to the result. The body's own error is thrown. */
  async send(body) {
    const source = pieces(body);
    const end = watch(this.ended);
    for (;;) {
      const next = Promise.resolve(source.next());
      // Whoever is no longer listened to may fail, as one does whose run's signal was aborted.
      next.catch(() => {});
      const step = await end.or(next);
      if (end.result) {
        // A generator that is at work cannot be stopped from outside; it ends at its next yield.
        source.return?.()?.catch?.(() => {});
        return end.result;
      }
      if (step.done) break;
      const bytes = toBytes("a piece of a reply", step.value);
      if (bytes.length > 0 && !this.#request.write(bytes)) await this.#drained(end);
    }
    this.#isSent = true;
    this.#request.end();
    return this.ended;
  }

  async #drained(end) {
    let drained;
    await end.or(new Promise((resolve) => this.#request.once("drain", (drained = resolve))));
    this.#request.off("drain", drained);
  }

  /** Ends a reply that the broker gives up for a failure, whether or not its word of that has come. */
  replaced() {
    this.#isReplaced = true;
    this.close();
  }

  /** Breaks the reply off, which its caller sees. Only a reply whose head was sent can be broken, so this is waited for. */
  close() {
    const { socket } = this.#request;
    if (!socket) this.#request.once("socket", () => setImmediate(() => this.close()));
    else if (socket.connecting || socket.secureConnecting) socket.destroySoon();
    else this.#request.destroy();
  }
}

/** Waits for one promise after the other, or for the end. Each `Promise.race` would leave a listener with the end, as long as it lasts. */
function watch(ended) {
  let wake;
  const end = {
    result: undefined,
    or: (promise) =>
      new Promise((resolve, reject) => {
        wake = resolve;
        if (end.result) resolve();
        else promise.then(resolve, reject);
      }),
  };
  ended.then((result) => {
    end.result = result;
    wake?.();
  });
  return end;
}

/** The bytes of a body that is no stream, or undefined. */
export function wholeBody(body) {
  if (body === undefined || body === null) return Buffer.alloc(0);
  const isWhole = typeof body === "string" || body instanceof ArrayBuffer || ArrayBuffer.isView(body);
  return isWhole ? toBytes("a reply", body) : undefined;
}

/** An iterator over the pieces of a body: text, bytes, or a stream of either. */
function pieces(body) {
  const whole = wholeBody(body);
  if (whole) return [whole][Symbol.iterator]();
  const iterator = body[Symbol.asyncIterator] ?? body[Symbol.iterator];
  if (iterator) return iterator.call(body);
  throw new TypeError("a reply is text, bytes, or a stream of either");
}
