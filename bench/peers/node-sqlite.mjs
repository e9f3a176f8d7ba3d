// Owns generation 1: Node, every waiter in an in-memory SQLite database, every request validated by a schema.
//
// Assumed, where the published story gives no detail:
// - The store knows no columns for the key: the waiter's metadata is nested, flattened recursively, and kept as one
//   row per field. A match asks for the waiters that have all four fields. The shape of that query was published.
// - One index over (name, value), one over the waiter: "everything is indexed", and yet nothing spans the four fields.
// - Statements are prepared once, and a waiter is stored in one transaction. This favours the peer.
// - Headers become an object by Object.fromEntries, then pass a schema; so does the body, whole and nested.
import { createServer } from "node:http";
import { DatabaseSync } from "node:sqlite";
import { z } from "zod";

const FRESH = process.env.FRESH === "1";

const Poll = z.object({
  "x-trigger-workload-controller-id": z.string().min(1),
  "x-trigger-deployment-id": z.string().min(1),
  "x-trigger-deployment-version": z.string().min(1),
  "x-trigger-machine-cpu": z.coerce.number(),
  "x-trigger-machine-memory": z.coerce.number(),
  "x-trigger-worker-instance-name": z.string().optional(),
});

const Named = z.looseObject({ id: z.string() });
const Friendly = Named.extend({ friendlyId: z.string() });

// Loose: fields that are not in the schema are relayed, too.
const Offer = z.looseObject({
  dequeuedMessage: z.looseObject({
    version: z.literal("1"),
    snapshot: Friendly.extend({
      executionStatus: z.string(),
      description: z.string(),
      createdAt: z.string(),
    }),
    dequeuedAt: z.string(),
    workerQueueLength: z.number().optional(),
    image: z.string().optional(),
    checkpoint: z.looseObject({ id: z.string(), type: z.string(), location: z.string() }).optional(),
    completedWaitpoints: z.array(z.looseObject({ id: z.string(), type: z.string() })),
    backgroundWorker: Friendly.extend({ version: z.string() }),
    deployment: z.looseObject({ id: z.string().optional(), friendlyId: z.string().optional() }),
    run: Friendly.extend({
      isTest: z.boolean(),
      machine: z.looseObject({
        name: z.string(),
        cpu: z.number(),
        memory: z.number(),
        centsPerMs: z.number(),
      }),
      attemptNumber: z.number(),
      masterQueue: z.string(),
      traceContext: z.record(z.string(), z.unknown()),
    }),
    environment: Named.extend({ type: z.string() }),
    organization: Named,
    project: Named,
    placementTags: z.array(z.looseObject({ key: z.string() })).optional(),
  }),
});

const database = new DatabaseSync(":memory:");
database.exec(`
  CREATE TABLE waiters (id INTEGER PRIMARY KEY, metadata TEXT NOT NULL);
  CREATE TABLE fields (
    waiter INTEGER NOT NULL REFERENCES waiters (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL
  );
  CREATE INDEX fields_by_value ON fields (name, value);
  CREATE INDEX fields_by_waiter ON fields (waiter);
`);
const begin = database.prepare("BEGIN");
const commit = database.prepare("COMMIT");
const insertWaiter = database.prepare("INSERT INTO waiters (metadata) VALUES (?)");
const insertField = database.prepare("INSERT INTO fields (waiter, name, value) VALUES (?, ?, ?)");
const deleteWaiter = database.prepare("DELETE FROM waiters WHERE id = ?");
const findWaiter = database.prepare(`
  SELECT DISTINCT waiters.id, waiters.metadata
  FROM waiters
  JOIN fields ON fields.waiter = waiters.id
  WHERE waiters.id IN (
    SELECT waiter
    FROM fields
    WHERE (name = ? AND value = ?) OR (name = ? AND value = ?) OR (name = ? AND value = ?) OR (name = ? AND value = ?)
    GROUP BY waiter
    HAVING COUNT(DISTINCT name) = ?
  )
  LIMIT 1
`);

/** The held responses, by the id of their row. */
const held = new Map();

/** { deployment: { id: "d" } } → ["deployment.id", "d"], for every leaf. */
function flatten(metadata, prefix = "") {
  return Object.entries(metadata).flatMap(([name, value]) => {
    if (value === undefined || value === null) return [];
    if (typeof value === "object") return flatten(value, `${prefix}${name}.`);
    return [[`${prefix}${name}`, String(value)]];
  });
}

function park(metadata, response) {
  begin.run();
  const id = Number(insertWaiter.run(JSON.stringify(metadata)).lastInsertRowid);
  for (const [name, value] of flatten(metadata)) insertField.run(id, name, value);
  commit.run();
  held.set(id, response);
  return id;
}

/** Leaves the store; a waiter that was matched has left already. */
function leave(id) {
  const response = held.get(id);
  if (held.delete(id)) deleteWaiter.run(id);
  return response;
}

function match(wanted) {
  const fields = flatten(wanted);
  for (;;) {
    const row = findWaiter.get(...fields.flat(), fields.length);
    if (row === undefined) return undefined;
    const response = leave(row.id);
    if (!response.destroyed) return response;
  }
}

function hold(request, response) {
  const headers = Poll.safeParse(Object.fromEntries(Object.entries(request.headers)));
  if (!headers.success) return reply(response, 400, { error: "not a poll" });
  const { data } = headers;
  const id = park(
    {
      controller: data["x-trigger-workload-controller-id"],
      instance: data["x-trigger-worker-instance-name"],
      deployment: { id: data["x-trigger-deployment-id"], version: data["x-trigger-deployment-version"] },
      machine: { cpu: data["x-trigger-machine-cpu"], memory: data["x-trigger-machine-memory"] },
    },
    response,
  );
  response.once("close", () => leave(id));
}

function dispatch(body, response) {
  const offer = Offer.safeParse(parse(body));
  if (!offer.success) return reply(response, 400, { error: "not a run" });
  const { dequeuedMessage: run } = offer.data;
  // A dev run has no deployment, so no waiter can match it.
  const waiter =
    run.deployment.friendlyId === undefined
      ? undefined
      : match({
          deployment: { id: run.deployment.friendlyId, version: run.backgroundWorker.version },
          machine: { cpu: run.run.machine.cpu, memory: run.run.machine.memory },
        });
  if (waiter) reply(waiter, 200, run, FRESH);
  reply(response, 200, { didWarmStart: waiter !== undefined });
}

function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function reply(response, status, value, close = false) {
  const body = JSON.stringify(value);
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  if (close) headers.connection = "close";
  response.writeHead(status, headers);
  response.end(body);
}

function read(request, then) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => then(Buffer.concat(chunks).toString()));
}

const server = createServer((request, response) => {
  switch (`${request.method} ${request.url}`) {
    case "GET /warm-start":
      return hold(request, response);
    case "POST /warm-start":
      return read(request, (body) => dispatch(body, response));
    case "GET /connect":
      return reply(response, 200, { connectionTimeoutMs: 50000, keepaliveMs: 300000 });
    case "GET /livez":
      return response.writeHead(200, { "content-type": "text/plain", "content-length": 2 }).end("ok");
    default:
      return reply(response, 404, { error: "no such route" });
  }
});

// A held poll is not a slow request: Node's timeouts must not end it.
Object.assign(server, { requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0, timeout: 0 });
server.listen({ host: "127.0.0.1", port: Number(process.env.PORT ?? 7070), backlog: 4096 }, () => {
  process.stdout.write(`listening on http://127.0.0.1:${server.address().port} \n`);
});
