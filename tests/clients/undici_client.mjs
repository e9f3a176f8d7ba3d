// Owns a controller that waits with undici's WebSocket, the standard API that Node and browsers have. It is the guide's
// client without what only `ws` has: pings are not visible here.
import { WebSocket } from "undici";
import { work } from "./work.mjs";

const { POOL_URL, CONTROLLER, TOKEN, SLOTS } = process.env;
const headers = { "pilotlight-controller": CONTROLLER, ...(TOKEN && { authorization: `Bearer ${TOKEN}` }) };
let socket, free = Number(SLOTS), failures = 0;
const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));

async function perform({ run, offer, contentType }, payload) {
  send({ type: "ack", run, offer });
  free -= 1;
  await work({ run, contentType }, payload);
  free += 1;
  send({ type: "ready", slots: 1 });
}

function connect() {
  let message;
  socket = new WebSocket(POOL_URL, { protocols: ["pilotlight.v1"], headers });
  socket.binaryType = "arraybuffer";
  socket.addEventListener("open", () => free && send({ type: "ready", slots: free }));
  socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string") message = JSON.parse(data);
    else perform(message, data);
  });
  socket.addEventListener("close", ({ code }) => {
    if (code === 4409 || code === 4410) return;
    failures += 1;
    setTimeout(connect, message?.retryInMs ?? Math.random() * Math.min(30_000, 500 * 2 ** failures));
  });
}
connect();
