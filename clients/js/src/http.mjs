// Owns HTTP/1.1 as this client uses it: connections that are kept for the next request, and answers that are read whole.
import http from "node:http";
import https from "node:https";

/** How soon a connection whose other machine has vanished is probed. */
const PROBE_AFTER_MS = 20_000;

/** Connections with one set of certificates. A slot has its own, so that its next poll finds the connection of its last reply. */
export class Connections {
  #ca;
  #agents = new Map();

  constructor(ca) {
    this.#ca = ca;
  }

  /** Begins a request. The target is sent as it is: no URL parser changes its segments. */
  request(origin, target, { method = "GET", headers = {} } = {}) {
    const url = new URL(origin);
    const protocol = url.protocol === "https:" ? https : http;
    const request = protocol.request(url, { path: target, method, headers, agent: this.#agent(protocol) });
    request.on("socket", (socket) => socket.setKeepAlive?.(true, PROBE_AFTER_MS));
    // A request that fails after its answer was read, or after it was given up, concerns nobody.
    request.on("error", () => {});
    return request;
  }

  #agent(protocol) {
    let agent = this.#agents.get(protocol);
    if (!agent) {
      agent = new protocol.Agent({ keepAlive: true, noDelay: true, scheduling: "lifo", ...(this.#ca && { ca: this.#ca }) });
      this.#agents.set(protocol, agent);
    }
    return agent;
  }

  close() {
    for (const agent of this.#agents.values()) agent.destroy();
  }
}

/** Resolves to the head of the answer, whether or not the request's body has ended. */
export function answerTo(request) {
  return new Promise((resolve, reject) => {
    request.once("response", resolve);
    request.once("error", reject);
    request.once("close", () => reject(new Error("the connection ended without an answer")));
  });
}

/** Reads an answer to its end. Its connection is free for the next request afterwards. */
export async function readWhole(answer) {
  const chunks = [];
  for await (const chunk of answer) chunks.push(chunk);
  if (!answer.complete) throw new Error("the answer broke off");
  await new Promise(setImmediate);
  return Buffer.concat(chunks);
}

/** The JSON document in an answer, or undefined if it is none. */
export function parseDocument(answer, body) {
  if (!/^application\/(\w+\+)?json\b/.test(answer.headers["content-type"] ?? "")) return undefined;
  try {
    return JSON.parse(body.toString());
  } catch {
    return undefined;
  }
}

/** The milliseconds of a Retry-After, or undefined. */
export function retryAfter(answer) {
  const value = answer.headers["retry-after"];
  if (value === undefined) return undefined;
  const milliseconds = /^\d+$/.test(value) ? value * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(milliseconds) ? Math.max(0, milliseconds) : undefined;
}
