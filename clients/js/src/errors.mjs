// Owns the errors that callers can tell apart.

/** The broker refuses this worker's polls for a reason that trying again does not change, such as a wrong token. */
export class RefusedError extends Error {
  name = "RefusedError";

  constructor(status, problem) {
    const text = problem && [problem.title, problem.detail].filter(Boolean).join(": ");
    super(`the broker refuses to be polled: ${status}${text ? ` ${text}` : ""}`);
    this.status = status;
    this.problem = problem;
  }
}

/** A reply broke off after it had begun. What came before was from the worker, but it is not all. */
export class ReplyBrokenError extends Error {
  name = "ReplyBrokenError";

  constructor(cause) {
    super("the reply broke off before its end", { cause });
  }
}
