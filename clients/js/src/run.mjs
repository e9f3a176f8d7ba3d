// Owns one run in the worker's hands: its payload, who waits for it, and the one answer that ends it.
import { toBytes } from "./options.mjs";
import { OpenReply, postError } from "./reply.mjs";

const STATUSES_WITHOUT_BODY = [204, 205, 304];

export class Run {
  #connections;
  #origin;
  #target;
  #head;
  #reply;
  #isAnswered = false;
  #underWay = 0;
  #cancelled = new AbortController();

  /** `received` is the answer to a poll; `contentType` stands in the head of a reply that is opened early. */
  constructor(received, { connections, controller, contentType, early }) {
    this.id = received.headers["pilotlight-run"] ?? "";
    this.controller = controller;
    this.contentType = received.headers["content-type"] ?? "application/octet-stream";
    this.payload = received.body;
    this.#connections = connections;
    this.#origin = received.origin;
    this.#target = received.headers["pilotlight-reply"];
    this.#head = { status: undefined, contentType, contentEncoding: undefined };
    /** Resolves when the slot is free again. */
    this.ended = new Promise((resolve) => (this.end = resolve));
    for (const own of ["ended", "end"]) Object.defineProperty(this, own, { enumerable: false });
    if (early && this.wantsReply) this.#open();
  }

  get wantsReply() {
    return this.#target !== undefined;
  }

  /** Aborted when the caller has left, or can no longer be reached. */
  get signal() {
    return this.#cancelled.signal;
  }

  text() {
    return this.payload.toString();
  }

  json() {
    return JSON.parse(this.text());
  }

  async reply(body, options = {}) {
    this.#check(options);
    return this.#answer(() => this.#send(body, options));
  }

  async fail(error, { contentType } = {}) {
    const isBytes = error instanceof ArrayBuffer || ArrayBuffer.isView(error);
    const body = toBytes("a failure", isBytes ? error : String(error));
    const type = contentType ?? (isBytes ? "application/octet-stream" : "text/plain; charset=utf-8");
    if (this.#isAnswered && this.#underWay === 0) throw new TypeError(`run ${this.id} has been answered`);
    return this.#answer(() => this.#fail(body, type), true);
  }

  /** Ends the run without an answer, which a waiting caller hears as `reply_broken`. */
  done() {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    this.#reply?.close();
    this.end();
  }

  #open() {
    const { status, contentType, contentEncoding } = this.#head;
    const headers = { "content-type": contentType };
    if (contentEncoding !== undefined) headers["content-encoding"] = contentEncoding;
    if (status !== undefined) headers["pilotlight-status"] = String(status);
    this.#reply = new OpenReply(this.#connections, this.#origin, this.#target, headers);
    this.#reply.ended.then((result) => {
      if (result !== "replied") this.#cancelled.abort(new DOMException("the caller has left", "AbortError"));
    });
  }

  #check(options) {
    if (this.#isAnswered) throw new TypeError(`run ${this.id} has been answered`);
    const { status } = options;
    if (status !== undefined && (!Number.isInteger(status) || status < 200 || status > 599 || STATUSES_WITHOUT_BODY.includes(status))) {
      throw new RangeError(`the status of a reply is 200 to 599 without ${STATUSES_WITHOUT_BODY.join(", ")}: ${status}`);
    }
    const changed = Object.keys(this.#head).find((name) => options[name] !== undefined && options[name] !== this.#head[name]);
    if (changed && this.#reply) {
      throw new TypeError(`${changed} came too late: the reply was opened with the run; give wait() the contentType, or { early: false }`);
    }
  }

  async #answer(send, replaces = false) {
    if (this.#isAnswered && !replaces) throw new TypeError(`run ${this.id} has been answered`);
    this.#isAnswered = true;
    if (!this.wantsReply) {
      this.end();
      return "unwanted";
    }
    this.#underWay += 1;
    try {
      return await send();
    } finally {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.end();
    }
  }

  async #send(body, options) {
    if (!this.#reply) {
      Object.assign(this.#head, options);
      this.#open();
    }
    try {
      return await this.#reply.send(body);
    } catch (error) {
      await this.fail(error);
      throw error;
    }
  }

  async #fail(body, contentType) {
    if (this.signal.aborted) return "gone";
    const target = this.#target.replace(/\/reply(?=\?|$)/, "/error");
    const result = await postError(this.#connections, this.#origin, target, contentType, body);
    this.#reply?.close();
    return result;
  }
}
