// Owns what an answer to a dispatch means: the one table from answers to outcomes.
import { Answered } from "./body.mjs";
import { parseDocument, readWhole, retryAfter } from "./http.mjs";

/** Outcomes of a run whose body is the worker's. */
const WITH_BODY = ["replied", "worker_error"];

/** The outcome of a dispatch that was answered. `over` is called when the connection is no longer needed. */
export async function outcomeOf(answer, { wantsReply, run, signal, over }) {
  const name = answer.headers["pilotlight-outcome"];
  if (wantsReply && WITH_BODY.includes(name)) return new Answered({ outcome: name, ...factsOf(answer, run) }, answer, signal, over);
  try {
    const body = await readWhole(answer);
    const document = parseDocument(answer, body);
    return describe(name ?? guess(answer.statusCode, document, wantsReply), answer, document, run);
  } finally {
    over();
  }
}

function factsOf(answer, run) {
  const field = (name) => answer.headers[`pilotlight-${name}`];
  return {
    run: field("run") ?? run,
    controller: field("controller") ?? "",
    proof: field("proof"),
    metadata: field("metadata"),
  };
}

/**
 * The outcome of an answer that does not name it: one to a dispatch without a reply, or one that a proxy gave.
 * What may have reached a worker is unknown, because a caller may try anything else again.
 */
function guess(status, document, wantsReply) {
  if (status === 200 && !wantsReply && document?.delivered === true) return "delivered";
  if (status === 200 && document?.delivered === false) return document.reason === "unknown" ? "unknown" : "miss";
  if (status === 429) return "limited";
  return status >= 400 && status < 500 ? "refused" : "unknown";
}

function describe(outcome, answer, document, named) {
  const run = document?.run ?? answer.headers["pilotlight-run"] ?? named;
  const detail = document?.detail ?? document?.title ?? `the answer was ${answer.statusCode}`;
  switch (outcome) {
    case "delivered": {
      const { controller = "", proof, offers, metadata } = document;
      return { outcome, run, controller, proof, offers, metadata };
    }
    case "miss":
      return { outcome, run, reason: document?.reason ?? "", offers: document?.offers ?? 0, retryAfter: retryAfter(answer) };
    case "unknown":
      return { outcome, run, detail: document?.reason === "unknown" ? "a worker may have the run, but none proved it" : detail };
    case "duplicate":
      return { outcome, run, state: document?.state, ended: document?.outcome, detail };
    case "limited":
      return { outcome, run, detail, retryAfter: retryAfter(answer) };
    case "refused":
      return { outcome, run, status: answer.statusCode, detail, problem: document };
    case "reply_timeout":
    case "reply_broken":
      return { outcome, run, detail };
    default:
      return { outcome: "unknown", run, detail: `the broker names an outcome that this client does not know: ${outcome}` };
  }
}
