// Owns a witness between an SDK and the broker: it passes all bytes on, and counts the POSTs of each invocation.
import { connect, createServer } from "node:net";

const FIELD = /\r\namz-sdk-invocation-id: *([^\r]+)\r\n/gi;
/** More than the field with its name can be long. */
const KEPT = 200;

export class Witness {
  sent = 0;
  /** How many of the next POSTs lose their connection before their answer, once `held` is settled. */
  cuts = 0;
  /** How often each `amz-sdk-invocation-id` was sent. */
  posts = new Map();
  /** What no SDK may see: each would try again. */
  serverErrors = 0;
  sockets = new Set();
  /** Until this is settled, the end of a connection is not passed on. */
  held = null;

  /** Holds ends back until the function that this returns is called. */
  hold() {
    let release;
    this.held = new Promise((resolve) => { release = resolve; });
    return release;
  }

  static async start(t, broker) {
    const witness = new this();
    witness.server = createServer({ allowHalfOpen: true }, (caller) => witness.pass(caller, broker.port)).listen(0, "127.0.0.1");
    await new Promise((resolve) => witness.server.once("listening", resolve));
    witness.url = `http://127.0.0.1:${witness.server.address().port}`;
    t.after(() => {
      witness.server.close();
      for (const socket of witness.sockets) socket.destroy();
    });
    return witness;
  }

  pass(caller, port) {
    const broker = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    caller.setNoDelay();
    let kept = "";
    caller.on("data", (bytes) => {
      const before = this.sent;
      kept = this.count(kept + bytes.toString("latin1"));
      if (this.sent > before && this.cuts > 0) {
        this.cuts -= 1;
        this.lose(caller, broker);
      }
    });
    broker.on("data", (bytes) => {
      if (/^HTTP\/1\.1 5/.test(bytes.toString("latin1", 0, 10))) this.serverErrors += 1;
    });
    for (const [from, to] of [[caller, broker], [broker, caller]]) {
      this.sockets.add(from);
      from.pipe(to, { end: false });
      // What has arrived is still passed on; a reset is passed on as such.
      from.once("end", async () => {
        await this.held;
        to.end();
      });
      from.once("error", () => {}).once("close", async () => {
        this.sockets.delete(from);
        await this.held;
        if (!from.readableEnded) to.destroy();
      });
    }
  }

  /** What the caller sends goes on to the broker, and the answer nowhere. */
  async lose(caller, broker) {
    broker.unpipe(caller).resume();
    await this.held;
    caller.resetAndDestroy();
  }

  /** Returns the end of the bytes, where a field may have begun. */
  count(text) {
    let seen = 0;
    for (const match of text.matchAll(FIELD)) {
      this.posts.set(match[1], (this.posts.get(match[1]) ?? 0) + 1);
      this.sent += 1;
      seen = match.index + match[0].length - "\r\n".length;
    }
    return text.slice(Math.max(seen, text.length - KEPT));
  }

  takeServerErrors() {
    const count = this.serverErrors;
    this.serverErrors = 0;
    return count;
  }

  /** How often each of so many invocations was sent since the last call: all equally often. */
  take(invocations) {
    const counts = [...this.posts.values()];
    this.posts.clear();
    if (counts.length !== invocations || new Set(counts).size > 1) throw new Error(`${invocations} invocations were sent ${counts} times`);
    return counts[0];
  }
}
