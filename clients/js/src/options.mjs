// Owns what options become on the wire: the pool's path, durations, headers, and the misuse that is refused at once.
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";

export const DEFAULT_BROKER = "http://127.0.0.1:7070";
const LONGEST_METADATA = 1024;
/** Containers share process numbers, and perhaps a host name. */
const PROCESS = `${process.pid}-${randomBytes(2).toString("hex")}`;
let slotsNamed = 0;

/** The path of a pool: text is used as it is in the URL, the parts of an object are percent-encoded. */
export function poolPath(pool) {
  const isText = typeof pool === "string";
  const segments = isText ? pool.split("/") : [pool?.deployment, pool?.version, pool?.cpu, pool?.memory].map(encoded);
  const isPath = segments.length === 4 && segments.every((segment) => /^[!-~]+$/.test(segment) && !/[?#]|^\.{1,2}$/.test(segment));
  if (!isPath) throw new TypeError(`a pool is "deployment/version/cpu/memory" as in its URL, or an object with these names: ${isText ? pool : JSON.stringify(pool)}`);
  return `/v1/pools/${segments.join("/")}`;
}

/** A name that consists of dots would be a step in a path for whatever stands between, so its dots are encoded too. */
function encoded(part) {
  const text = encodeURIComponent(part ?? "");
  return /^\.+$/.test(text) ? text.replaceAll(".", "%2E") : text;
}

/** A duration in the broker's words. A number counts milliseconds. */
export function duration(name, value) {
  if (typeof value === "string" && value) return value;
  if (Number.isFinite(value) && value >= 0) return `${Math.round(value)}ms`;
  throw new TypeError(`${name} is neither a number of milliseconds nor text such as "30s"`);
}

export function brokerOrigin(broker = DEFAULT_BROKER) {
  const url = new URL(broker);
  if (!/^https?:$/.test(url.protocol) || url.pathname !== "/" || url.search) {
    throw new TypeError(`the broker is an http or https URL without a path: ${broker}`);
  }
  return url.origin;
}

/** Text that a header can carry. */
export function headerText(name, value) {
  if (typeof value !== "string" || !/^[ -~]*$/.test(value)) throw new TypeError(`${name} is not printable ASCII text`);
  return value;
}

export function metadataHeader(metadata) {
  if (metadata === undefined) return {};
  const text = headerText("metadata", metadata);
  if (text.length > LONGEST_METADATA) throw new TypeError(`metadata is longer than ${LONGEST_METADATA} bytes`);
  return { "pilotlight-metadata": text };
}

/** The header that a token becomes. A function is asked for each request, so that a token can be renewed. */
export async function authorization(token) {
  const text = typeof token === "function" ? await token() : token;
  return text === undefined ? {} : { authorization: `Bearer ${headerText("token", text)}` };
}

/** One name for each slot, because the broker lets a new poll of the same controller replace the old one. */
export function controllerNames(controller, slots) {
  if (!Number.isInteger(slots) || slots < 1) throw new TypeError("slots is not a number from 1");
  const name = (slot) => {
    if (controller === undefined) return `${hostname()}-${PROCESS}-${++slotsNamed}`;
    return slots === 1 ? controller : `${controller}-${slot + 1}`;
  };
  return Array.from({ length: slots }, (_, slot) => headerText("controller", name(slot)));
}

/** Bytes of a payload or of a piece of a reply. */
export function toBytes(what, data) {
  if (typeof data === "string") return Buffer.from(data);
  if (data instanceof ArrayBuffer) return Buffer.from(data);
  if (ArrayBuffer.isView(data)) return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  throw new TypeError(`${what} is neither text nor bytes`);
}
