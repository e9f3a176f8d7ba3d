// Owns what the peers of the sessions share: who waits with free slots, and the offers that nobody has acknowledged yet.
import { isUtf8 } from "node:buffer";
import { randomUUID } from "node:crypto";

const MOST_SLOTS = 256;

/** Key → the sessions with a free slot, in the order in which they got it. */
const pools = new Map();
/** Token → the offer that it belongs to, on a stream of events, until its slot is free again. */
const tokens = new Map();

/** No segment of a path holds a line break, so no two keys are written alike. */
export function keyOf(deployment, version, cpu, memory) {
  return `${deployment}\n${version}\n${Number(cpu)}\n${Number(memory)}`;
}

/** One connection on which a controller waits; `write` is its transport's way to write an offer. */
export class Session {
  slots = 0;
  /** Its open offers by number; made with the first, because most sessions of a crowd never get one. */
  open = undefined;

  constructor(key) {
    this.key = key;
  }

  /** Adds free slots; false if it asks for too many. */
  ready(slots) {
    if (!Number.isInteger(slots) || slots < 1) return false;
    if (this.slots + slots + (this.open?.size ?? 0) > MOST_SLOTS) return false;
    if (this.slots === 0) {
      const pool = pools.get(this.key);
      if (pool) pool.add(this);
      else pools.set(this.key, new Set([this]));
    }
    this.slots += slots;
    return true;
  }

  /** Takes a free slot. */
  take() {
    this.slots -= 1;
    if (this.slots === 0) this.leave();
  }

  leave() {
    const pool = pools.get(this.key);
    if (pool?.delete(this) && pool.size === 0) pools.delete(this.key);
  }

  /** Ends with its connection: what it has not acknowledged is not delivered. */
  end() {
    this.slots = 0;
    this.leave();
    for (const offer of this.open?.values() ?? []) {
      offer.finish(false);
      offer.forget();
    }
  }

  /** The acknowledgement of an offer; that of another run, or of an offer that has ended, is ignored. */
  acknowledge(run, number) {
    const offer = this.open?.get(number);
    if (offer?.run !== run) return;
    offer.finish(true);
    offer.forget();
  }
}

/** A run on its way to one session. */
class Offer {
  static last = 0;
  number = ++Offer.last;
  isOpen = true;
  token = undefined;

  constructor(session, run, contentType, payload, resolve) {
    Object.assign(this, { session, run, contentType, payload, resolve });
    (session.open ??= new Map()).set(this.number, this);
  }

  /** Ends it; only the first end counts. */
  finish(delivered) {
    this.isOpen = false;
    this.resolve(delivered);
  }

  forget() {
    this.session.open.delete(this.number);
    if (this.token) tokens.delete(this.token);
  }
}

/** Offers the run to the session that has waited longest, and resolves to the body of the POST's response. */
export async function dispatch(key, run, contentType, payload) {
  for (const session of pools.get(key) ?? []) {
    session.take();
    const delivered = await new Promise((resolve) => {
      session.write(new Offer(session, run, contentType, payload, resolve));
    });
    return JSON.stringify(
      delivered
        ? { delivered, proof: "received", offers: 1, run }
        : { delivered, reason: "undelivered", offers: 1, run },
    );
  }
  return JSON.stringify({ delivered: false, reason: "no_pool", offers: 0, run });
}

/** The text message of an offer on a WebSocket; its payload follows in a binary one. */
export function runMessage({ run, number, contentType, payload }) {
  return JSON.stringify({ type: "run", run, offer: number, contentType, size: payload.byteLength });
}

/** Handles a text message of a controller; an error to close the socket with, or undefined. */
export function controlMessage(session, text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return "not JSON";
  }
  switch (message?.type) {
    case "ready":
      return session.ready(message.slots) ? undefined : "too many slots";
    case "ack":
      session.acknowledge(message.run, message.offer);
      return undefined;
    default:
      return "an unknown type";
  }
}

/** An offer as an event of a stream. */
export function runEvent(offer) {
  const { run, number, contentType, payload } = offer;
  offer.token = randomUUID();
  tokens.set(offer.token, offer);
  const path = `/v1/runs/${encodeURIComponent(run)}`;
  const text = isUtf8(payload);
  const data = JSON.stringify({
    run,
    offer: number,
    ack: `${path}/ack?token=${offer.token}`,
    ready: `${path}/ready?token=${offer.token}`,
    contentType,
    payload: Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString(text ? "utf8" : "base64"),
    ...(text ? {} : { encoding: "base64" }),
  });
  return `event: run\nid: ${run}\ndata: ${data}\n\n`;
}

/** Handles a POST to the address of an offer, and returns the status of its response. */
export function receipt(run, query, isReady) {
  const token = query.get("token");
  if (!token) return 403;
  const offer = tokens.get(token);
  if (offer?.run !== run) return 410;
  const freesSlot = isReady || query.get("ready") === "true";
  if (!offer.isOpen && !freesSlot) return 410;
  offer.finish(true);
  if (freesSlot) {
    offer.forget();
    offer.session.ready(1);
  }
  return 204;
}

/** Pings and heartbeats come this often, in milliseconds. */
export const HEARTBEAT = { webSocket: 20_000, events: 15_000 };
