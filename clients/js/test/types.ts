// Owns what the types must allow, and, below each @ts-expect-error, what they must not.
import { dispatch, RefusedError, ReplyBrokenError, wait, type Outcome, type Run } from "pilotlight";

async function* tokens(): AsyncGenerator<string> {
  yield "token";
}

export async function work(signal: AbortSignal): Promise<void> {
  const options = { broker: new URL("http://localhost:7070"), pool: { deployment: "a", version: "1", cpu: 0.5, memory: "1" }, signal };
  for await (const run of wait({ ...options, slots: 2, token: async () => "token", onRetry: ({ reason, delay }) => void [reason, delay] })) {
    const { id, payload }: { id: string; payload: Uint8Array } = run;
    const given: { question: string } = run.json();
    if (run.signal.aborted || !run.wantsReply) run.done();
    const result = await run.reply(given.question ? tokens() : payload, { status: 201, contentType: "text/plain" });
    if (result === "gone") await run.fail(new Error(id));
    await run.reply(new Blob(["x"]).stream());
    await run.reply(["a", new Uint8Array(1)]);
    // @ts-expect-error A reply is no number.
    await run.reply(1);
    // @ts-expect-error There is no such result.
    if (result === "maybe") return;
  }
  // @ts-expect-error The pool is missing.
  wait({ slots: 1 });
}

export async function call(): Promise<string> {
  const outcome = await dispatch("a/1/0.5/1", new Uint8Array(3), { reply: 30_000, wait: "2s", redeliver: true, run: "r" });
  // @ts-expect-error Only some outcomes have a body.
  void outcome.body;
  switch (outcome.outcome) {
    case "replied":
    case "worker_error":
      for await (const piece of outcome) void piece.byteLength;
      return `${outcome.status} ${await outcome.text()}`;
    case "miss":
      return outcome.reason === "no_pool" ? "nobody" : outcome.reason;
    case "delivered":
      return outcome.controller;
    case "duplicate":
      return outcome.state ?? outcome.ended ?? "";
    case "refused":
      return outcome.problem?.title ?? String(outcome.status);
    case "limited":
      return String(outcome.retryAfter);
    case "unreachable":
      return outcome.error.message;
    case "unknown":
    case "reply_timeout":
    case "reply_broken":
      return outcome.detail;
  }
  // Every outcome was handled above.
  const none: never = outcome;
  return none;
}

export const errors = (error: unknown) =>
  error instanceof RefusedError ? error.status : error instanceof ReplyBrokenError ? error.message : undefined;

export const kinds = (run: Run, outcome: Outcome): string => `${run.id} ${outcome.outcome}`;
