// Owns one run in the worker's hands: its payload, who waits for it, and the one answer that ends it.
import { headerText, toBytes } from "./options.mjs";
import { OpenReply, postError, wholeBody } from "./reply.mjs";

const STATUSES_WITHOUT_BODY = [204, 205, 304];

export class Run {
  #connections;
  #origin;
  #target;
  #head;
  #reply;
  #isAnswered = false;
  #underWay = 0;
  #over;
  #cancelled = new AbortController();

  /** `received` is the answer to a poll; `contentType` stands in the head of a reply that is opened early. `over` frees the slot. */
  constructor(received, { connections, controller, contentType, early, over }) {
    this.id = received.headers["pilotlight-run"] ?? "";
    this.controller = controller;
    this.contentType = received.headers["content-type"] ?? "application/octet-stream";
    this.payload = received.body;
    this.#connections = connections;
    this.#origin = received.origin;
    const target = received.headers["pilotlight-reply"];
    this.#target = /^\/[!-~]+$/.test(target) ? target : undefined;
    this.#head = { status: undefined, contentType, contentEncoding: undefined };
    this.#over = over;
    // A run that is answered at once needs no early head: its reply has the head that it asks for.
    if (early && this.wantsReply) setImmediate(() => this.#isAnswered || this.#watch(this.#open()));
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
    if (this.wantsReply) (this.#reply ?? this.#open()).close();
    this.#over();
  }

  /** Sends the head of the reply. `length` is that of its body, if it is known. */
  #open(length) {
    const { status, contentType, contentEncoding } = this.#head;
    const headers = { "content-type": contentType };
    if (contentEncoding !== undefined) headers["content-encoding"] = contentEncoding;
    if (status !== undefined) headers["pilotlight-status"] = String(status);
    if (length !== undefined) headers["content-length"] = length;
    this.#reply = new OpenReply(this.#connections, this.#origin, this.#target, headers);
    return this.#reply;
  }

  async #watch(reply) {
    const result = await reply.ended;
    if (result !== "replied" && reply === this.#reply) this.#cancelled.abort(new DOMException("the caller has left", "AbortError"));
  }

  /**
   * Opens the reply anew, with another head. The broker may hear the first head last, and then it gives up this one instead:
   * only when the first one has ended will it not do so any more.
   */
  async #reopen() {
    const first = this.#reply;
    const firstEnds = first.ended.then(() => true);
    for (let attempt = 0; attempt < 2; attempt++) {
      const reply = this.#open();
      if (await Promise.race([firstEnds, reply.ended.then(() => false)])) break;
    }
    first.close();
  }

  #check(options) {
    if (this.#isAnswered) throw new TypeError(`run ${this.id} has been answered`);
    const { status } = options;
    if (status !== undefined && (!Number.isInteger(status) || status < 200 || status > 599 || STATUSES_WITHOUT_BODY.includes(status))) {
      throw new RangeError(`the status of a reply is 200 to 599 without ${STATUSES_WITHOUT_BODY.join(", ")}: ${status}`);
    }
    for (const name of ["contentType", "contentEncoding"]) if (options[name] !== undefined) headerText(name, options[name]);
  }

  async #answer(send, replaces = false) {
    if (this.#isAnswered && !replaces) throw new TypeError(`run ${this.id} has been answered`);
    this.#isAnswered = true;
    if (!this.wantsReply) {
      this.#over();
      return "unwanted";
    }
    this.#underWay += 1;
    try {
      return await send();
    } finally {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#over();
    }
  }

  async #send(body, options) {
    const asked = Object.entries(this.#head).map(([name, value]) => [name, options[name] ?? value]);
    const isOther = asked.some(([name, value]) => value !== this.#head[name]);
    this.#head = Object.fromEntries(asked);
    if (!this.#reply) this.#watch(this.#open(wholeBody(body)?.length));
    else if (isOther) {
      await this.#reopen();
      this.#watch(this.#reply);
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
    if (result === "replied") this.#reply?.replaced();
    else this.#reply?.close();
    return result;
  }
}
