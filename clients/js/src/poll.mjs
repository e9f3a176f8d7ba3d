// Owns the poll of one slot: it asks until a run comes, whatever the broker and the network do meanwhile.
import { setTimeout as sleep } from "node:timers/promises";
import { RefusedError } from "./errors.mjs";
import { answerTo, parseDocument, readWhole, retryAfter } from "./http.mjs";
import { authorization } from "./options.mjs";

const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A retired worker asks again in case its pool is wanted again, but seldom. */
const RETIRED_PAUSE_MS = 30_000;
const LONGEST_RETRY_AFTER_MS = 60_000;
/** A poll is answered within the broker's connection timeout, and this is far above what anyone sets it to. */
const LONGEST_SILENCE_MS = 300_000;
/** An answer of 204 that comes sooner than this is no poll that passed. */
const SHORT_POLL_MS = 1_000;
const MOST_REDIRECTS = 5;

/** Resolves to the answer that carries a run, with the `origin` that gave it; to undefined if `stop` came first. */
export async function pollForRun(slot, stop) {
  let failures = 0;
  let asked = [];
  let [origin, target] = [slot.origin, slot.target];
  while (!stop.aborted) {
    const begun = performance.now();
    const answer = await ask(slot, origin, target, stop).catch((error) => ({ error }));
    if (isRun(answer)) return { ...answer, origin };
    if (stop.aborted) return undefined;
    const wasShort = performance.now() - begun < SHORT_POLL_MS;

    const next = judge(answer, origin, target);
    asked.push(origin + target);
    // Whoever sends a poll in a circle is not asked again at once.
    if (next.location && asked.length <= MOST_REDIRECTS && !asked.includes(next.location.origin + targetOf(next.location))) {
      [origin, target] = [next.location.origin, targetOf(next.location)];
      continue;
    }
    asked = [];
    [origin, target] = [slot.broker, slot.target];
    if (next.passed) {
      failures = wasShort ? failures + 1 : 0;
      if (failures <= 1) continue;
    } else {
      failures += 1;
    }
    await pause(slot, stop, { reason: next.reason ?? "unavailable", status: answer.status, error: answer.error, delay: next.delay ?? (next.atLeast ?? 0) + backOff(failures) });
  }
  return undefined;
}

async function ask(slot, origin, target, stop) {
  const request = slot.connections.request(origin, target, { headers: { ...slot.headers, ...(await authorization(slot.token)) } });
  const leave = () => request.destroy();
  const arrives = answerTo(request);
  stop.addEventListener("abort", leave);
  // A run that has begun to arrive is taken, because the broker counts it as received once it has been read.
  request.once("response", () => stop.removeEventListener("abort", leave));
  request.setTimeout(LONGEST_SILENCE_MS, leave);
  if (stop.aborted) leave();
  else request.end();
  try {
    const answer = await arrives;
    const body = await readWhole(answer);
    return { status: answer.statusCode, headers: answer.headers, body, document: parseDocument(answer, body), retryAfter: retryAfter(answer) };
  } finally {
    stop.removeEventListener("abort", leave);
  }
}

/** What follows an answer without a run: the next poll at once or elsewhere, or a pause and its reason. */
function judge({ status, headers, document, error, retryAfter }, origin, target) {
  if (error) return { reason: "unreachable" };
  if (status === 204) return { passed: true };
  if (status === 307 || status === 308) return { location: permitted(headers.location, origin + target), reason: "unavailable" };
  if (status === 410) return { reason: "retired", delay: RETIRED_PAUSE_MS * (1 + Math.random()) };
  const asked = retryAfter === undefined ? undefined : Math.min(retryAfter, LONGEST_RETRY_AFTER_MS);
  if (status === 429) return { reason: "limited", atLeast: asked };
  // A proxy's refusal may pass, for instance while the broker behind it restarts. The broker's own says what to change.
  const isFinal = status >= 400 && status < 500 && document?.type?.startsWith?.("urn:pilotlight:problem:");
  if (isFinal && status !== 408) throw new RefusedError(status, document);
  return { reason: "unavailable", atLeast: asked };
}

function isRun({ status, headers }) {
  return status === 200 && headers["pilotlight-run"] !== undefined;
}

/** Where a redirect leads, unless it would send the token over an open line. */
function permitted(location, from) {
  if (!location || !URL.canParse(location, from)) return undefined;
  const url = new URL(location, from);
  const isSafe = url.protocol === "https:" || (url.protocol === "http:" && from.startsWith("http:"));
  return isSafe ? url : undefined;
}

const targetOf = (url) => url.pathname + url.search;

/** Random, so that the workers of a broker that comes back do not all ask at the same moment. */
function backOff(failures) {
  const longest = Math.min(LONGEST_PAUSE_MS, SHORTEST_PAUSE_MS * 2 ** Math.min(failures, 10));
  return SHORTEST_PAUSE_MS / 2 + Math.random() * (longest - SHORTEST_PAUSE_MS / 2);
}

async function pause(slot, stop, event) {
  slot.onRetry?.({ slot: slot.number, ...event });
  await sleep(event.delay, undefined, { signal: stop }).catch(() => {});
}
