// Owns the tests of the operator's console, in a real browser with a real broker.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { Broker, freePort, until } from "./broker.mjs";
import { BalancedCluster, needsNats } from "./cluster.mjs";
import { needs, nginx, startProxy } from "./proxy.mjs";

const executablePath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));
const browsed = { skip: executablePath ? false : "Chromium is not installed" };
const WIDE = { width: 1440, height: 900 };
const NARROW = { width: 390, height: 844 };
let browser;

before(async () => {
  if (executablePath) browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
});
after(() => browser?.close());

/** Starts nginx with its defaults in front of the console. Returns the console's URL below `path`, without the last slash. */
async function below(t, path, ops) {
  const port = await freePort();
  const server = `server { listen 127.0.0.1:${port}; location ${path}/ { proxy_pass http://127.0.0.1:${ops}/; } }`;
  await startProxy(t, "nginx", port, (folder) => nginx(folder, server));
  return `http://127.0.0.1:${port}${path}`;
}

/** A broker and its console. Any error of the page fails the test, except a lost connection if the test expects one. */
async function open(t, { viewport = WIDE, colorScheme = "light", mayLoseConnection = false, path = "", broker: given } = {}) {
  const broker = given ?? (await Broker.start());
  const leave = new AbortController();
  const page = await browser.newPage({ viewport, colorScheme });
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => {
    const lost = mayLoseConnection && /^Failed to load resource: net::/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !lost) complaints.push(message.text());
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`refused by the policy: ${event.blockedURI}`));
  });
  t.after(async () => {
    await page.close();
    leave.abort();
    if (!given) await broker.stop();
  });
  const address = path ? await below(t, path, broker.ops) : `http://127.0.0.1:${broker.ops}/`;
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(address);
  await text(page, "status", /^live$/);

  const pool = (deployment) => `${broker.url}/v1/pools/${encodeURIComponent(deployment)}/1/0.5/0.5`;
  return {
    broker,
    page,
    complaints,
    address,
    asked,
    /** Resolves to the status of a waiter's response. */
    wait: (deployment) => fetch(pool(deployment), { signal: leave.signal }).then((answer) => answer.text().then(() => answer.status), () => "left"),
    post: (deployment, run) =>
      fetch(pool(deployment), { method: "POST", headers: { "pilotlight-run": run }, body: "hello" }).then((answer) => answer.json()),
  };
}

function text(page, name, wanted, milliseconds = 15_000) {
  return until(`${name} is ${wanted}`, async () => wanted.test(await page.getByTestId(name).innerText()), milliseconds);
}

const dispatched = (page, run) => page.getByTestId("dispatch-row").filter({ hasText: run });
const deployments = (page) => page.getByTestId("pool-row").locator("td:first-child").allInnerTexts();

test("a run shows within a second of its dispatch", browsed, async (t) => {
  const { broker, page, complaints, wait, post } = await open(t);
  const waiter = wait("hello");
  await broker.waitForWaiters(1);
  assert.equal((await post("hello", "run_shown")).delivered, true);
  await dispatched(page, "run_shown").filter({ hasText: "received" }).waitFor({ timeout: 1000 });
  assert.equal(await waiter, 200);

  assert.equal((await post("nobody", "run_missed")).reason, "no_pool");
  await dispatched(page, "run_missed").filter({ hasText: "nobody waits for this deployment" }).waitFor({ timeout: 1000 });
  await text(page, "hit-ratio", /^50 %$/);
  await text(page, "latency-p50", /^[\d.]+ (µs|ms)$/);
  await text(page, "latency-p99", /^[\d.]+ (µs|ms|s)$/);
  await text(page, "rss", /^[\d.]+ MiB$/);

  await page.getByLabel("misses only").check();
  await dispatched(page, "run_shown").waitFor({ state: "detached" });
  assert.equal(await dispatched(page, "run_missed").count(), 1);
  assert.deepEqual(complaints, []);
});

test("a pool or a run is followed by its own topic, of which alone the stream then is", browsed, async (t) => {
  const { broker, page, complaints, wait, post, asked, address } = await open(t);
  const streams = () => asked.filter((url) => url.includes("events?")).map((url) => Object.fromEntries(new URL(url).searchParams));
  const kind = "dispatch,verdict,drain,retire,reply";
  assert.deepEqual(streams(), [{ kind }], "everything, at first");
  assert.equal(await page.getByTestId("topic").isVisible(), false);
  wait("hello");
  wait("other");
  await broker.waitForWaiters(2);
  await post("other", "run_other_1");
  await post("hello", "run_hello_1");
  await dispatched(page, "run_hello_1").waitFor();
  await dispatched(page, "run_other_1").waitFor();

  wait("hello");
  await page.getByTestId("pool-row").getByRole("link", { name: "hello", exact: true }).click();
  await page.getByTestId("topic").getByText("only hello · version 1").waitFor();
  await dispatched(page, "run_other_1").waitFor({ state: "detached" });
  await text(page, "status", /^live$/);
  assert.deepEqual(streams().slice(1), [{ kind, deployment: "hello", version: "1" }]);
  await post("other", "run_other_2");
  await post("hello", "run_hello_2");
  await dispatched(page, "run_hello_2").waitFor({ timeout: 1000 });
  assert.equal(await page.getByTestId("dispatch-row").count(), 2, "two runs of hello, none of other");
  await page.locator("#latency-of").getByText("this pool, 1 min").waitFor();

  await page.reload();
  await text(page, "status", /^live$/);
  await page.getByTestId("topic").getByText("only hello · version 1").waitFor();
  await post("other", "run_other_3");
  await post("hello", "run_hello_3");
  await dispatched(page, "run_hello_3").getByRole("link", { name: "run_hello_3" }).click();
  await page.getByTestId("topic").getByText("only run run_hello_3").waitFor();
  await text(page, "status", /^live$/);
  assert.deepEqual(streams().at(-1), { kind, run: "run_hello_3" });
  await post("hello", "run_hello_4");
  await post("hello", "run_hello_3");
  await until("the run's second dispatch", async () => (await dispatched(page, "run_hello_3").count()) === 2);
  assert.equal(await page.getByTestId("dispatch-row").count(), 2);

  await page.getByTestId("all-topics").click();
  await page.getByTestId("topic").waitFor({ state: "hidden" });
  await text(page, "status", /^live$/);
  assert.deepEqual(streams().at(-1), { kind });
  await post("other", "run_other_4");
  await dispatched(page, "run_other_4").waitFor({ timeout: 1000 });
  await page.goBack();
  await page.getByTestId("topic").getByText("only run run_hello_3").waitFor();

  await page.goto(`${address}#deployment=%00&version=`);
  await page.reload();
  await text(page, "status", /^live$/);
  assert.deepEqual(streams().at(-1), { kind }, "what cannot be a name is not asked for");
  assert.deepEqual(complaints, []);
});

test("a run that a waiter of another broker got shows the name of that broker", browsed, async (t) => {
  const { page, complaints } = await open(t);
  const at = Date.now();
  const offer = { at, run: "run_far", offer: 1, seconds: 0.002, controller: "one", broker: null, verdict: "frozen" };
  const rest = { deployment: "d", version: "1", cpu: 0.5, memory: 0.5, reason: null, proof: "received", offers: 2 };
  const events = [
    ["verdict", offer],
    ["verdict", { ...offer, offer: 2, controller: "two", broker: "<b>b2:7070</b>", verdict: "received" }],
    ["dispatch", { ...rest, at, run: "run_far", outcome: "hit", controller: "two", broker: "<b>b2:7070</b>", seconds: 0.01 }],
    ["dispatch", { ...rest, at, run: "run_near", outcome: "hit", controller: "three", broker: null, seconds: 0.01 }],
    ["dispatch", { ...rest, at, run: "run_nameless", outcome: "hit", controller: "", broker: "b3:7070", seconds: 0.01 }],
  ];
  const body = events.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("");
  await page.route(/\/events\?/, (route) => route.fulfill({ contentType: "text/event-stream", body }), { times: 1 });
  await page.reload();
  const far = dispatched(page, "run_far");
  await far.getByText("→ two at <b>b2:7070</b>", { exact: true }).waitFor({ timeout: 5_000 });
  const titles = await far.locator(".verdict").evaluateAll((marks) => marks.map((mark) => mark.title));
  assert.match(titles[0], /; one$/);
  assert.match(titles[1], /; two at <b>b2:7070<\/b>$/);
  await dispatched(page, "run_near").getByText("→ three", { exact: true }).waitFor({ timeout: 5_000 });
  await dispatched(page, "run_nameless").getByText("→ at b3:7070", { exact: true }).waitFor({ timeout: 5_000 });
  await text(page, "status", /^live$/);
  assert.deepEqual(complaints, []);
});

test("how a reply ended is shown with its run, and how many replies are open", browsed, async (t) => {
  const { page, complaints } = await open(t);
  assert.equal(await page.getByTestId("replies").isVisible(), false, "no run has asked for a reply");
  const at = Date.now();
  const pool = { at, deployment: "d", version: "1", cpu: 0.5, memory: 0.5 };
  const dispatch = { ...pool, outcome: "hit", reason: null, proof: "received", offers: 1, controller: "one", broker: null, seconds: 0.01 };
  const events = [
    ["dispatch", { ...dispatch, run: "run_replied" }],
    ["dispatch", { ...dispatch, run: "run_waits" }],
    ["dispatch", { ...dispatch, run: "run_left" }],
    ["reply", { ...pool, run: "run_replied", outcome: "replied", status: 201, first_byte_seconds: 0.02, seconds: 1.5, bytes: 1234 }],
    ["reply", { ...pool, run: "run_left", outcome: "cancelled", status: null, first_byte_seconds: null, seconds: 2, bytes: 0 }],
    ["reply", { ...pool, run: "<b>run_before</b>", outcome: "reply_timeout", status: 504, first_byte_seconds: null, seconds: 30, bytes: 0 }],
  ];
  const body = events.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("");
  await page.route(/\/events\?/, (route) => route.fulfill({ contentType: "text/event-stream", body }), { times: 1 });
  let [unended, replied] = [3, 0];
  await page.route(/\/metrics$/, (route) => {
    replied += 2;
    const series = `pilotlight_replies_open ${unended}\npilotlight_replies_total{outcome="replied"} ${replied}\npilotlight_replies_total{outcome="cancelled"} 7\n`;
    return route.fulfill({ contentType: "text/plain", body: series });
  });
  await page.reload();
  const reply = (run) => dispatched(page, run).getByTestId("reply");
  await reply("run_replied").getByText("replied 201 1.50 s", { exact: true }).waitFor({ timeout: 5_000 });
  assert.equal(await reply("run_replied").getAttribute("title"), "the caller has all of the worker's reply; first byte after 20 ms; 1,234 bytes");
  assert.equal(await reply("run_left").innerText(), "cancelled 2.00 s");
  assert.equal(await reply("run_waits").count(), 0);
  await page.getByTestId("recent").getByText("the reply to <b>run_before</b> ended: reply_timeout", { exact: true }).waitFor();
  await page.getByTestId("replies").getByText(/^3 open; in the last minute \d*[2468] replied$/).waitFor();
  unended = 0;
  await page.getByTestId("replies").getByText(/^0 open; in the last minute \d+ replied$/).waitFor();
  assert.deepEqual(complaints, []);
});

test("a cluster's brokers are shown, and which of them has a pool's waiters", { skip: browsed.skip || needsNats }, async (t) => {
  const cluster = await BalancedCluster.start();
  t.after(() => cluster.stop());
  const [near, far, last] = cluster.brokers;
  const { page, complaints, wait, address } = await open(t, { broker: near });
  const row = (broker) => page.getByTestId("broker-row").filter({ hasText: `:${broker.port}` });
  await row(near).getByText("this broker, connected to NATS").waitFor();
  for (const other of [far, last]) await row(other).getByText(/^heard \d s ago$/).waitFor();
  assert.equal(await page.getByTestId("broker-row").count(), 3);

  const leave = new AbortController();
  t.after(() => leave.abort());
  const waitAt = (broker) =>
    fetch(`${broker.url}/v1/pools/hello/1/0.5/0.5`, { signal: leave.signal }).then((answer) => answer.status, () => "left");
  const waiters = [wait("hello"), waitAt(far), waitAt(far)];
  const pool = page.getByTestId("pool-row").filter({ hasText: "hello" });
  await until("the waiters of both brokers", async () => {
    const where = await pool.getByTestId("holders").allInnerTexts();
    return new RegExp(`^2 at \\S+:${far.port}, 1 at \\S+:${near.port}$`).test(where.join("|"));
  });
  await row(far).getByText("1 pool").waitFor();
  await page.setViewportSize(NARROW);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(overflow <= NARROW.width, `${overflow} is wider than a telephone`);
  await page.setViewportSize(WIDE);

  last.process.kill("SIGSTOP");
  await row(last).getByText("silent", { exact: true }).waitFor();
  await text(page, "pools-missing", new RegExp(`^Not answered, so their waiters are not listed: \\S+:${last.port}$`));
  last.process.kill("SIGCONT");
  await page.getByTestId("pools-missing").waitFor({ state: "hidden" });

  await pool.getByTestId("retire").click();
  await page.getByRole("dialog").getByText("Retire 3 waiters?").waitFor();
  await page.getByTestId("confirm").click();
  assert.deepEqual(await Promise.all(waiters), [410, 410, 410]);
  assert.match(await page.locator("#pools-link").evaluate((link) => link.href), new RegExp(`^${address}pools\\?cluster=true$`));

  cluster.nats.process.kill("SIGSTOP");
  await row(near).getByText("this broker, not connected to NATS").waitFor();
  cluster.nats.process.kill("SIGCONT");
  assert.deepEqual(complaints, []);
});

test("without a cluster nothing of one is shown", browsed, async (t) => {
  const { page, complaints, wait, asked } = await open(t);
  wait("hello");
  const pool = page.getByTestId("pool-row").filter({ hasText: "hello" });
  await pool.waitFor();
  await page.locator("#version").filter({ hasText: /./ }).waitFor();
  for (const name of ["brokers", "pools-missing", "holders"]) assert.equal(await page.getByTestId(name).isVisible(), false, name);
  assert.deepEqual(asked.filter((url) => /brokers$|cluster/.test(url)), []);
  assert.deepEqual(complaints, []);
});

test("the console works below a path, behind a proxy", { skip: browsed.skip || needs("nginx").skip }, async (t) => {
  const { broker, page, complaints, wait, post, address, asked } = await open(t, { path: "/a/pilotlight" });
  const waiter = wait("hello");
  await page.getByTestId("pool-row").filter({ hasText: "hello" }).waitFor();
  assert.equal((await post("hello", "run_shown")).delivered, true);
  assert.equal(await waiter, 200);
  await dispatched(page, "run_shown").filter({ hasText: "received" }).waitFor({ timeout: 5_000 });

  // The row of hello is still there for a moment, and "old" would be in each row: in "oldest".
  const stale = wait("stale");
  await page.getByTestId("pool-row").filter({ hasText: "stale" }).getByTestId("retire").click();
  await page.getByTestId("confirm").click();
  assert.equal(await stale, 410);
  assert.match(await page.locator("#curl-poll").innerText(), new RegExp(`127.0.0.1:${broker.port}/v1/pools`));
  for (const link of await page.locator("footer a").all()) {
    const href = await link.evaluate((node) => node.href);
    assert.equal((await fetch(href)).status, 200, href);
  }
  assert.deepEqual(asked.filter((url) => !url.startsWith(address)), [], "nothing is asked for above the path");
  assert.ok(["console.css", "figures.js", "events", "metrics"].every((name) => asked.some((url) => url.includes(`/a/pilotlight/${name}`))));
  assert.deepEqual(complaints, []);
});

test("a restart of the broker is survived", browsed, async (t) => {
  const { broker, page, complaints, wait, post } = await open(t, { mayLoseConnection: true });
  await post("hello", "run_before");
  await dispatched(page, "run_before").waitFor();
  broker.process.kill("SIGKILL");
  await text(page, "status", /^reconnecting…$/);
  await broker.ended;
  await broker.launch();
  await text(page, "status", /^live$/);
  const waiter = wait("hello");
  await broker.waitForWaiters(1);
  await text(page, "waiters", /^1$/);
  await post("hello", "run_after");
  await dispatched(page, "run_after").waitFor({ timeout: 1000 });
  assert.equal(await waiter, 200);
  assert.equal(await dispatched(page, "run_before").count(), 1);
  assert.deepEqual(complaints, []);
});

test("without waiters it says what to try, and that works", browsed, async (t) => {
  const { broker, page, complaints, wait } = await open(t);
  const empty = page.getByTestId("empty-state");
  await empty.getByText("no waiters yet").waitFor();
  const url = `${broker.url}/v1/pools/hello/1/0.5/0.5`;
  await empty.getByText(`curl -N "${url}"`, { exact: true }).waitFor();
  await empty.getByText(`curl -X POST -d 'hello' "${url}"`, { exact: true }).waitFor();
  assert.equal(await page.getByTestId("pools-table").isVisible(), false);
  wait("hello");
  await page.getByTestId("pool-row").filter({ hasText: "hello" }).waitFor();
  assert.equal(await empty.isVisible(), false);
  assert.deepEqual(complaints, []);
});

test("pools are filtered and sorted", browsed, async (t) => {
  const { broker, page, complaints, wait } = await open(t);
  for (const deployment of ["gamma", "alpha", "beta", "beta"]) wait(deployment);
  await broker.waitForWaiters(4);
  await until("three pools", async () => (await deployments(page)).length === 3);
  assert.deepEqual(await deployments(page), ["beta", "alpha", "gamma"], "most waiters first, then by name");

  const header = page.getByRole("columnheader", { name: "Deployment" });
  await header.getByRole("button").click();
  assert.equal(await header.getAttribute("aria-sort"), "ascending");
  assert.deepEqual(await deployments(page), ["alpha", "beta", "gamma"]);
  await header.getByRole("button").press("Enter");
  assert.equal(await header.getAttribute("aria-sort"), "descending");
  assert.deepEqual(await deployments(page), ["gamma", "beta", "alpha"]);
  assert.equal(await page.locator("th[aria-sort=ascending], th[aria-sort=descending]").count(), 1);

  await page.getByTestId("pool-filter").fill("BET 0.5");
  assert.deepEqual(await deployments(page), ["beta"]);
  await page.getByTestId("pool-filter").fill("delta");
  await page.getByText("No pool fits “delta”.").waitFor();
  await page.getByTestId("pool-filter").fill("");
  assert.equal((await deployments(page)).length, 3);
  assert.deepEqual(complaints, []);
});

test("retire asks first, then ends the pool's waiters with 410", browsed, async (t) => {
  const { broker, page, complaints, wait } = await open(t);
  const [old, current] = [wait("old"), wait("current")];
  await broker.waitForWaiters(2);
  const button = page.getByTestId("pool-row").filter({ hasText: "old" }).filter({ hasNotText: "current" }).getByTestId("retire");
  await button.click();
  await page.getByRole("dialog").getByText("Stock controllers exit").waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").isVisible(), false);
  assert.equal(await broker.waiters(), 2, "a dialog that is closed does nothing");
  assert.ok(await button.evaluate((node) => node === document.activeElement), "the focus returns to where it was");

  await button.click();
  await page.getByTestId("confirm").click();
  assert.equal(await old, 410);
  await until("one pool is left", async () => (await deployments(page)).join() === "current");
  assert.equal(await broker.waiters(), 1);
  await page.getByTestId("recent").getByText(/retired 1 waiter of deployment old/).waitFor();
  assert.equal(await Promise.race([current, "waits"]), "waits");
  assert.deepEqual(complaints, []);
});

test("drain asks first, then is shown", browsed, async (t) => {
  const { broker, page, complaints, wait, post } = await open(t);
  const waiter = wait("hello");
  await broker.waitForWaiters(1);
  await page.getByTestId("drain").click();
  await page.getByTestId("cancel").click();
  assert.equal(await broker.waiters(), 1);
  await page.getByTestId("drain").click();
  await page.getByTestId("confirm").click();
  await text(page, "status", /draining/);
  assert.equal(await waiter, 204);
  assert.ok(await page.getByTestId("drain").isDisabled());
  await page.getByTestId("empty-state").getByText("the broker is draining").waitFor();
  assert.equal((await post("hello", "run_late")).reason, "draining");
  await dispatched(page, "run_late").filter({ hasText: "the broker is draining" }).waitFor();
  assert.deepEqual(complaints, []);
});

test("names are text, whatever is in them", browsed, async (t) => {
  const { page, complaints, wait, post } = await open(t);
  const name = "<img src=x onerror=alert(1)>";
  wait(name);
  await page.getByTestId("pool-row").filter({ hasText: name }).waitFor();
  await post(name, "<b>run</b>");
  await dispatched(page, "<b>run</b>").waitFor();
  assert.equal(await page.locator("img, b").count(), 0);
  assert.deepEqual(complaints, []);
});

test("nothing is wider than a telephone", browsed, async (t) => {
  const { broker, page, complaints, wait, post } = await open(t, { viewport: NARROW, mayLoseConnection: true });
  const fits = async (what) => {
    const beyond = await page.evaluate((width) => {
      const sticksOut = (node) => node.getBoundingClientRect().right > width && node.checkVisibility();
      const nodes = [document.documentElement, ...document.querySelectorAll("body *")];
      return nodes.filter((node) => sticksOut(node) || node.scrollWidth > width).map((node) => node.outerHTML.slice(0, 80));
    }, NARROW.width);
    assert.deepEqual(beyond, [], what);
  };
  await fits("empty");
  const long = "deployment".repeat(12);
  wait(long);
  wait("another");
  await page.getByTestId("pool-row").nth(1).waitFor();
  await post(long, "run_".repeat(25));
  await dispatched(page, "run_").waitFor();
  await fits("with long names");
  await page.getByTestId("retire").first().click();
  await fits("with a dialog");
  await page.getByTestId("cancel").click();
  await page.getByTestId("drain").click();
  await page.getByTestId("confirm").click();
  await text(page, "status", /draining/);
  await fits("while draining");
  broker.process.kill("SIGKILL");
  await text(page, "status", /reconnecting/);
  await fits("while reconnecting");
  assert.deepEqual(complaints, []);
});

/** Runs in the page: every visible text, with its contrast to the background. */
function contrasts() {
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const seen = [...document.querySelectorAll("body *")].filter((node) => {
    const own = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
    return own && node.checkVisibility() && !node.disabled;
  });
  return seen.map((node) => {
    const [high, low] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
    return { text: node.textContent.trim().slice(0, 40), contrast: (high + 0.05) / (low + 0.05) };
  });
}

for (const colorScheme of ["light", "dark"]) {
  test(`text is legible when it is ${colorScheme}`, browsed, async (t) => {
    const { broker, page, complaints, wait, post } = await open(t, { colorScheme });
    const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
    assert.equal(ground[0] > 128, colorScheme === "light", `the ground is ${ground}`);
    const look = async (what) => {
      const found = await page.evaluate(contrasts);
      assert.ok(found.length > 20, `${what}: ${found.length} texts`);
      assert.deepEqual(found.filter(({ contrast }) => contrast < 4.5), [], what);
    };
    await look("empty");
    wait("hello");
    wait("again");
    await broker.waitForWaiters(2);
    await post("hello", "run_hit");
    await post("nobody", "run_miss");
    await dispatched(page, "run_miss").waitFor();
    await page.getByTestId("pool-row").filter({ hasText: "again" }).waitFor();
    await look("full");
    await page.getByTestId("drain").click();
    await look("asking");
    await page.getByTestId("confirm").click();
    await text(page, "status", /draining/);
    await look("draining");
    assert.deepEqual(complaints, []);
  });
}

test("every control is reached by keyboard, and shows that it has the focus", browsed, async (t) => {
  const { page, complaints, wait } = await open(t);
  const controls = () =>
    page.evaluate(() => {
      const all = [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")];
      return all.filter((node) => node.checkVisibility() && !node.disabled).map((node, index) => (node.dataset.control = String(index)));
    });
  const walk = async () => {
    const reached = new Set();
    await page.evaluate(() => document.activeElement.blur());
    for (let presses = 0; presses < 60; presses += 1) {
      await page.keyboard.press("Tab");
      const [control, outline] = await page.evaluate(() => [document.activeElement.dataset.control, getComputedStyle(document.activeElement).outlineStyle]);
      if (control === undefined) continue;
      if (reached.has(control)) break;
      assert.notEqual(outline, "none", `control ${control} shows its focus`);
      reached.add(control);
    }
    return [...reached].sort((a, b) => a - b);
  };
  let wanted = await controls();
  assert.deepEqual(await walk(), wanted, "empty");
  wait("hello");
  await page.getByTestId("pool-row").waitFor();
  wanted = await controls();
  assert.deepEqual(await walk(), wanted, "with a pool");

  wait("above");
  wait("above");
  await until("above is first", async () => (await deployments(page)).join() === "above,hello");
  await page.getByTestId("retire").nth(1).focus();
  wait("hello");
  wait("hello");
  await until("hello has moved up", async () => (await deployments(page)).join() === "hello,above");
  assert.match(await page.locator("tr:focus-within").innerText(), /^hello/, "a row that moves keeps the focus");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "cancel", "a dialog begins at its harmless end");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "confirm");
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.dataset.testid), "retire");
  assert.deepEqual(complaints, []);
});
