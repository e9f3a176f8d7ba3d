// Owns the body of an answer, which its caller reads as it comes, or whole.
import { ReplyBrokenError } from "./errors.mjs";

/** An outcome with a body: what is known of the run, and one way to read what its worker sent. */
export class Answered {
  #answer;
  #signal;
  #over;
  #isRead = false;

  /** `over` is called when the connection no longer belongs to this body. */
  constructor(facts, answer, signal, over) {
    Object.assign(this, facts);
    this.status = answer.statusCode;
    this.contentType = answer.headers["content-type"];
    this.contentEncoding = answer.headers["content-encoding"];
    this.#answer = answer;
    this.#signal = signal;
    this.#over = over;
  }

  /** The pieces as they come. Throws a ReplyBrokenError if there should have been more. */
  async *[Symbol.asyncIterator]() {
    if (this.#isRead) throw new TypeError("the body of this reply has been read");
    this.#isRead = true;
    try {
      for await (const piece of this.#answer) yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
      if (!this.#answer.complete) throw new Error("the connection ended");
    } catch (error) {
      throw this.#signal?.aborted ? this.#signal.reason : new ReplyBrokenError(error);
    } finally {
      this.#over();
    }
  }

  /** The body as a stream of the web. Cancelling it tells the worker that the caller has left. */
  get body() {
    const pieces = this[Symbol.asyncIterator]();
    const pull = async (controller) => {
      const { value, done } = await pieces.next();
      if (done) controller.close();
      else controller.enqueue(value);
    };
    const cancel = () => this.cancel();
    return new ReadableStream({ pull, cancel }, { highWaterMark: 0 });
  }

  async bytes() {
    const pieces = [];
    for await (const piece of this) pieces.push(piece);
    return new Uint8Array(Buffer.concat(pieces));
  }

  async text() {
    return new TextDecoder().decode(await this.bytes());
  }

  async json() {
    return JSON.parse(await this.text());
  }

  /** Leaves: the connection is closed, and the worker learns of it. */
  cancel() {
    this.#isRead = true;
    this.#answer.destroy();
    this.#over();
  }
}
