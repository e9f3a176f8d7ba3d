// Owns the session peer for Node: WebSockets by `ws`, and streams of events by Node's own server.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { HEARTBEAT, Session, controlMessage, dispatch, keyOf, receipt, runEvent, runMessage } from "./sessions.mjs";

class SocketSession extends Session {
  isAlive = true;

  constructor(key, socket, stream) {
    super(key);
    Object.assign(this, { socket, stream });
    socket.on("message", (data, isBinary) => {
      if (isBinary) return socket.close(1003, "a binary message");
      const error = controlMessage(this, data.toString());
      if (error) socket.close(1008, error);
    });
    socket.on("pong", () => (this.isAlive = true));
    socket.on("error", () => {});
    socket.on("close", () => {
      sockets.delete(this);
      this.end();
    });
    sockets.add(this);
  }

  write(offer) {
    // Both frames leave in one write.
    this.stream.cork();
    this.socket.send(runMessage(offer));
    this.socket.send(offer.payload);
    this.stream.uncork();
  }
}

class StreamSession extends Session {
  constructor(key, slots, response) {
    super(key);
    this.response = response;
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write("retry: 1000\n\n");
    response.once("close", () => {
      streams.delete(this);
      this.end();
    });
    streams.add(this);
    this.ready(slots);
  }

  write(offer) {
    this.response.write(runEvent(offer));
  }
}

const sockets = new Set();
const streams = new Set();
setInterval(() => streams.forEach((session) => session.response.write(":\n\n")), HEARTBEAT.events);
setInterval(() => {
  for (const session of sockets) {
    if (!session.isAlive) session.socket.terminate();
    session.isAlive = false;
    session.socket.ping();
  }
}, HEARTBEAT.webSocket);

const POOL = /^\/v1\/pools\/([^/?]+)\/([^/?]+)\/([^/?]+)\/([^/?]+)(?:\?(.*))?$/;
const RECEIPT = /^\/v1\/runs\/([^/?]+)\/(ack|ready)(?:\?(.*))?$/;

const keyOfPath = (path) => keyOf(...path.slice(1, 5).map(decodeURIComponent));

let unnamed = 0;

function post(path, request, response) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    const { "pilotlight-run": run = `run_${++unnamed}`, "content-type": contentType = "application/octet-stream" } =
      request.headers;
    const payload = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
    const body = await dispatch(keyOfPath(path), run, contentType, payload);
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
    response.end(body);
  });
}

const server = createServer((request, response) => {
  const pool = POOL.exec(request.url);
  if (pool && request.method === "GET") {
    const slots = Number(new URLSearchParams(pool[5]).get("slots") ?? 1);
    return new StreamSession(keyOfPath(pool), slots, response);
  }
  if (pool && request.method === "POST") return post(pool, request, response);
  const path = request.method === "POST" && RECEIPT.exec(request.url);
  if (!path) return response.writeHead(404, { "content-length": 0 }).end();
  request.resume();
  const query = new URLSearchParams(path[3]);
  response.writeHead(receipt(decodeURIComponent(path[1]), query, path[2] === "ready")).end();
});

const webSockets = new WebSocketServer({
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: 4096,
  handleProtocols: (protocols) => protocols.has("pilotlight.v1") && "pilotlight.v1",
});
server.on("upgrade", (request, stream, head) => {
  const pool = POOL.exec(request.url);
  if (!pool) return stream.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
  webSockets.handleUpgrade(request, stream, head, (socket) => new SocketSession(keyOfPath(pool), socket, stream));
});

// A session is not a slow request: Node's timeouts must not end it.
Object.assign(server, { requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0, timeout: 0 });
server.listen({ host: "127.0.0.1", port: Number(process.env.PORT ?? 7070), backlog: 4096 }, () => {
  process.stdout.write(`listening on http://127.0.0.1:${server.address().port} \n`);
});
