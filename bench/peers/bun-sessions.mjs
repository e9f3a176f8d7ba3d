// Owns the session peer for Bun: Bun.serve with its own WebSockets, and streams of events.
import { HEARTBEAT, Session, controlMessage, dispatch, keyOf, receipt, runEvent, runMessage } from "./sessions.mjs";

class SocketSession extends Session {
  socket = undefined;

  write(offer) {
    // Both frames leave in one write.
    this.socket.cork(() => {
      this.socket.send(runMessage(offer));
      this.socket.send(offer.payload);
    });
  }
}

class StreamSession extends Session {
  constructor(key, controller) {
    super(key);
    this.controller = controller;
  }

  write(offer) {
    this.say(runEvent(offer));
  }

  say(text) {
    this.controller.write(text);
    this.controller.flush();
  }
}

const streams = new Set();
setInterval(() => streams.forEach((session) => session.say(":\n\n")), HEARTBEAT.events);

const keyOfPath = ({ deployment, version, cpu, memory }) => keyOf(deployment, version, cpu, memory);

function wait(request, server) {
  const key = keyOfPath(request.params);
  if (request.headers.get("upgrade")?.toLowerCase() === "websocket") {
    if (request.headers.get("sec-websocket-protocol") !== "pilotlight.v1") return new Response(null, { status: 400 });
    const upgraded = server.upgrade(request, {
      data: new SocketSession(key),
      headers: { "sec-websocket-protocol": "pilotlight.v1" },
    });
    return upgraded ? undefined : new Response(null, { status: 400 });
  }
  const slots = Number(new URL(request.url).searchParams.get("slots") ?? 1);
  return new Response(stream(key, slots, request.signal), {
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
  });
}

/** A stream is open until its request is aborted. */
function stream(key, slots, signal) {
  return new ReadableStream({
    type: "direct",
    pull(controller) {
      const session = new StreamSession(key, controller);
      session.say("retry: 1000\n\n");
      streams.add(session);
      session.ready(slots);
      return new Promise((resolve) => {
        signal.addEventListener("abort", () => {
          streams.delete(session);
          session.end();
          resolve();
        });
      });
    },
  });
}

let unnamed = 0;

async function post(request) {
  const run = request.headers.get("pilotlight-run") ?? `run_${++unnamed}`;
  const contentType = request.headers.get("content-type") ?? "application/octet-stream";
  const body = await dispatch(keyOfPath(request.params), run, contentType, await request.bytes());
  return new Response(body, { headers: { "content-type": "application/json" } });
}

function receive(isReady) {
  return (request) => {
    const { searchParams } = new URL(request.url);
    return new Response(null, { status: receipt(request.params.run, searchParams, isReady) });
  };
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT ?? 7070),
  // In seconds; 0 means never. A stream is always idle.
  idleTimeout: 0,
  development: false,
  routes: {
    "/v1/pools/:deployment/:version/:cpu/:memory": { GET: wait, POST: post },
    "/v1/runs/:run/ack": { POST: receive(false) },
    "/v1/runs/:run/ready": { POST: receive(true) },
  },
  fetch: () => new Response(null, { status: 404 }),
  websocket: {
    perMessageDeflate: false,
    maxPayloadLength: 4096,
    // Bun pings a socket before it has been idle for so long, in seconds, and ends it afterwards.
    idleTimeout: (2 * HEARTBEAT.webSocket) / 1000,
    sendPings: true,
    open(socket) {
      socket.data.socket = socket;
    },
    message(socket, message) {
      if (typeof message !== "string") return socket.close(1003, "a binary message");
      const error = controlMessage(socket.data, message);
      if (error) socket.close(1008, error);
    },
    close(socket) {
      socket.data.end();
    },
  },
});

process.stdout.write(`listening on http://127.0.0.1:${server.port} \n`);
