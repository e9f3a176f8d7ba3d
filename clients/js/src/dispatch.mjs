// Owns the dispatch of one run: one POST, and the outcome of whatever becomes of it.
import { answerTo, Connections } from "./http.mjs";
import { authorization, brokerOrigin, duration, headerText, poolPath, toBytes } from "./options.mjs";
import { outcomeOf } from "./outcome.mjs";

const LARGE_BYTES = 1 << 20;
const LONGEST_QUESTION_MS = 1_000;

/** Connections of all dispatches, by the certificates that they trust. */
const connections = new Map();

function connectionsFor(ca) {
  const key = String(ca);
  if (!connections.has(key)) connections.set(key, new Connections(ca));
  return connections.get(key);
}

/** Dispatches a run. Whatever happens to it is an outcome; only misuse and the caller's own signal are errors. */
export async function dispatch(pool, payload, options = {}) {
  const { broker, ca, signal, run } = options;
  const [origin, target, body] = [brokerOrigin(broker), poolPath(pool) + query(options), toBytes("a payload", payload)];
  const headers = await headersOf(options, payload, body);
  signal?.throwIfAborted();

  const request = connectionsFor(ca).request(origin, target, { method: "POST", headers });
  const leave = () => request.destroy();
  const over = () => {
    signal?.removeEventListener("abort", leave);
    // An answer that came before the payload was sent leaves a connection on which nothing else can be said.
    if (!request.writableEnded) request.destroy();
  };
  signal?.addEventListener("abort", leave, { once: true });
  const arrives = answerTo(request);
  send(request, body);
  try {
    const answer = await arrives;
    return await outcomeOf(answer, { wantsReply: options.reply !== undefined, run, signal, over });
  } catch (error) {
    over();
    if (signal?.aborted) throw signal.reason;
    if (isUnsent(error)) return { outcome: "unreachable", run, error };
    return { outcome: "unknown", run, detail: `the connection failed after the run had been sent: ${error.message}` };
  }
}

function query({ reply, wait, redeliver, proof }) {
  const parameters = new URLSearchParams();
  if (reply !== undefined) parameters.set("reply", duration("reply", reply));
  if (wait !== undefined) parameters.set("wait", duration("wait", wait));
  if (redeliver !== undefined) parameters.set("redeliver", String(Boolean(redeliver)));
  if (proof !== undefined) parameters.set("proof", proof);
  return parameters.size > 0 ? `?${parameters}` : "";
}

async function headersOf({ token, run, contentType }, payload, body) {
  const type = contentType ?? (typeof payload === "string" ? "text/plain; charset=utf-8" : "application/octet-stream");
  const headers = { "content-type": headerText("contentType", type), "content-length": body.length, ...expectation(body), ...(await authorization(token)) };
  if (run !== undefined) headers["pilotlight-run"] = headerText("run", run);
  return headers;
}

const expectation = (body) => (body.length < LARGE_BYTES ? {} : { expect: "100-continue" });

/** A large payload follows when the broker asks for it: a refusal in its midst could be lost with the connection. */
function send(request, body) {
  if (body.length < LARGE_BYTES) return request.end(body);
  const follow = () => {
    clearTimeout(timer);
    if (!request.writableEnded) request.end(body);
  };
  // Whoever does not know of the question does not answer it.
  const timer = setTimeout(follow, LONGEST_QUESTION_MS);
  request.once("continue", follow);
  for (const end of ["response", "close"]) request.once(end, () => clearTimeout(timer));
  request.flushHeaders();
}

/** Whether the failure was one of connecting: then no byte of the run can have been sent. Any doubt counts as sent. */
function isUnsent({ code = "", syscall }) {
  const isOfCertificate = /CERT|^UNABLE_TO_|^ERR_TLS_/.test(code);
  return isOfCertificate || ["connect", "getaddrinfo"].includes(syscall) || ["ECONNREFUSED", "ConnectionRefused", "ENOTFOUND"].includes(code);
}
