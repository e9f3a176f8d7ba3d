// Owns the package's types.

/** `"deployment/version/cpu/memory"`, as in the pool's URL, or its four parts, which are percent-encoded for you. */
export type Pool = string | { deployment: string; version: string; cpu: number | string; memory: number | string };

/** Milliseconds, or text such as `"30s"` or `"200ms"`. */
export type Duration = number | string;

export type Bytes = Uint8Array | ArrayBuffer;

/** What a reply consists of: all of it, or a stream of its pieces, each of which is sent as soon as it comes. */
export type ReplyBody = string | Bytes | ReadableStream<string | Uint8Array> | AsyncIterable<string | Bytes> | Iterable<string | Bytes>;

export interface ConnectionOptions {
  /** The broker's URL; `http://127.0.0.1:7070` by default. */
  broker?: string | URL;
  /** A bearer token, or a function that is asked for one before each request. */
  token?: string | (() => string | Promise<string>);
  /** Certificates to trust instead of the system's, in PEM. */
  ca?: string | Uint8Array;
}

export interface WaitOptions extends ConnectionOptions {
  pool: Pool;
  /** How many runs this process works on at once; 1 by default. */
  slots?: number;
  /** The controller's name: by default host, process number, four random digits and a count, which is unique for each slot. With several slots, each adds its number to a name that is given here. */
  controller?: string;
  /** Up to 1,024 bytes of printable ASCII that the dispatch of a run returns to its caller. */
  metadata?: string;
  /** The content type of replies; `application/octet-stream` by default. */
  contentType?: string;
  /**
   * Whether a reply is opened when its run comes, which is the default: the caller learns at once of this process's death, and
   * `run.signal` of the caller's leaving. With `false`, `run.reply` opens it, and neither is heard before.
   */
  early?: boolean;
  /** Aborted: no more polls; the loop ends once the runs under way have been answered. */
  signal?: AbortSignal;
  /** Called before each pause between polls. */
  onRetry?: (event: RetryEvent) => void;
}

export interface RetryEvent {
  /** The slot's number, from 0. */
  slot: number;
  /** `retired`: this pool is no longer wanted. `limited`: 429. `unavailable`: the broker, or a proxy, has no place now. `unreachable`: no answer. */
  reason: "retired" | "limited" | "unavailable" | "unreachable";
  status?: number;
  error?: Error;
  /** The pause in milliseconds. */
  delay: number;
}

/**
 * What became of a reply. `replied`: its last byte was handed to the caller's socket. `gone`: the caller left, or its time was over.
 * `lost`: the broker or the way there failed. `unwanted`: nobody asked for a reply to this run.
 */
export type ReplyResult = "replied" | "gone" | "lost" | "unwanted";

export interface ReplyOptions {
  /** The caller's status: 200 to 599 without 204, 205, 304; 200 by default. */
  status?: number;
  /** That of `wait` by default. */
  contentType?: string;
  contentEncoding?: string;
}

export interface Run {
  readonly id: string;
  readonly payload: Uint8Array;
  readonly contentType: string;
  /** The name of the slot that has the run. */
  readonly controller: string;
  /** Whether somebody waits for a reply. */
  readonly wantsReply: boolean;
  /** Aborted as soon as nobody waits for the reply any more. */
  readonly signal: AbortSignal;
  text(): string;
  json<T = any>(): T;
  /** Answers the run and frees its slot. Rejects with the body's own error, of which the caller is told. */
  reply(body?: ReplyBody, options?: ReplyOptions): Promise<ReplyResult>;
  /** Tells the caller that the run failed, also while a reply is under way. Of an Error, its name and message are told. */
  fail(error: unknown, options?: { contentType?: string }): Promise<ReplyResult>;
  /** Ends the run without an answer and frees its slot. A caller that waits hears `reply_broken`. */
  done(): void;
}

/** Waits for runs. Throws a RefusedError if the broker refuses the polls for good. */
export function wait(options: WaitOptions): AsyncIterableIterator<Run>;

export interface DispatchOptions extends ConnectionOptions {
  /** How long to wait for the reply's first byte. Without it, the outcome is known once a worker has the run. */
  reply?: Duration;
  /** How long to wait for a worker. */
  wait?: Duration;
  /** Allows offering the run to a second worker although the first may have it. */
  redeliver?: boolean;
  proof?: "written" | "acked" | "received";
  /** The run's name. A named run is not delivered again within a minute. */
  run?: string;
  /** The payload's content type. */
  contentType?: string;
  /** Aborted: the connection is closed, and the returned promise, or the reply's body, rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The worker's answer. Read it, or `cancel()` it: until then it holds a connection. */
export interface Answer {
  readonly run: string | undefined;
  readonly controller: string;
  readonly proof: string | undefined;
  readonly metadata: string | undefined;
  readonly status: number;
  readonly contentType: string | undefined;
  readonly contentEncoding: string | undefined;
  /** The pieces as they come. Fails with a ReplyBrokenError if the reply breaks off, as every other way to read it. */
  readonly body: ReadableStream<Uint8Array>;
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>;
  bytes(): Promise<Uint8Array>;
  text(): Promise<string>;
  json<T = any>(): Promise<T>;
  /** Leaves, of which the worker is told. */
  cancel(): void;
}

/** The worker has replied. `status` is 200, or the worker's choice. */
export interface Replied extends Answer {
  readonly outcome: "replied";
}

/** The worker says that the run failed; its words are the body. */
export interface WorkerFailed extends Answer {
  readonly outcome: "worker_error";
}

/** A worker has the run (without `reply`). */
export interface Delivered {
  outcome: "delivered";
  run: string;
  controller: string;
  proof: string;
  offers: number;
  metadata?: string;
}

export type MissReason =
  | "no_pool"
  | "wrong_version"
  | "wrong_machine"
  | "all_taken"
  | "undelivered"
  | "draining"
  | "overloaded"
  | "no_proof"
  | "no_reply_route"
  | "too_large_to_forward"
  // Brokers may name more reasons. Each of them is a miss.
  | (string & {});

/** No worker has the run: start one, or try again. */
export interface Miss {
  outcome: "miss";
  run: string | undefined;
  reason: MissReason;
  offers: number;
  /** When to try again, in milliseconds. */
  retryAfter?: number;
}

/** A worker may have the run, so do not blindly try again. */
export interface Unknown {
  outcome: "unknown";
  run: string | undefined;
  detail: string;
}

/** A worker has the run, and its reply did not begin in time, or broke before its first byte. */
export interface ReplyFailed {
  outcome: "reply_timeout" | "reply_broken";
  run: string | undefined;
  detail: string;
}

/** This name was dispatched before. `state` is "open" while that run is under way, then `ended` is its outcome. */
export interface Duplicate {
  outcome: "duplicate";
  run: string | undefined;
  state?: string;
  ended?: string;
  detail: string;
}

/** The broker has as much to do as it may. Nobody has the run. */
export interface Limited {
  outcome: "limited";
  run: string | undefined;
  detail: string;
  retryAfter?: number;
}

/** The request itself is refused: a wrong parameter, token or size. Nobody has the run. */
export interface Refused {
  outcome: "refused";
  run: string | undefined;
  status: number;
  detail: string;
  /** The problem document (RFC 9457). */
  problem?: Problem;
}

/** No connection was made, so nobody has the run. */
export interface Unreachable {
  outcome: "unreachable";
  run: string | undefined;
  error: Error;
}

export type Outcome =
  | Delivered
  | Replied
  | WorkerFailed
  | Miss
  | Unknown
  | ReplyFailed
  | Duplicate
  | Limited
  | Refused
  | Unreachable;

/** Dispatches a run. Rejects only for misuse, or when the signal is aborted. */
export function dispatch(pool: Pool, payload: string | Bytes, options?: DispatchOptions): Promise<Outcome>;

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  [member: string]: unknown;
}

export class RefusedError extends Error {
  readonly status: number;
  readonly problem?: Problem;
}

export class ReplyBrokenError extends Error {}
