// Owns the tests of deploy/examples/lambda: its entry point in front of a base image's own one, with stock runtime clients and a
// real broker, and the files around it.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, describe, test } from "node:test";
import { parse } from "yaml";
import { Broker, endsWithThis, until } from "../clients/broker.mjs";
import { runtimes } from "../lambda/runtimes.mjs";
import { binary, join, ok, read, root, run, scratch, without } from "./tools.mjs";

const folder = join(root, "deploy/examples/lambda");
const entrypoint = join(folder, "entrypoint.sh");
const dockerfile = read("deploy/examples/lambda/Dockerfile");
const compose = run("docker", ["compose", "version"]).status === 0 ? ["docker", "compose"] : ["docker-compose"];
const config = () => parse(ok(compose[0], [...compose.slice(1), "-f", join(folder, "compose.yml"), "--profile", "call", "config"]));
const skip = without(compose[0]);

/** What a public base image has: an entry point that starts the emulator, unless a runtime API is there, and the runtime's start. */
function image(command) {
  const base = scratch();
  const put = (path, text) => {
    mkdirSync(dirname(join(base, path)), { recursive: true });
    writeFileSync(join(base, path), `#!/bin/sh\n${text}`);
    chmodSync(join(base, path), 0o755);
    return join(base, path);
  };
  const bootstrap = put("var/runtime/bootstrap", `exec ${command.map((word) => `'${word}'`).join(" ")}\n`);
  const emulator = put("usr/local/bin/aws-lambda-rie", 'echo "the emulator starts $1"\n');
  const own = `[ $# -eq 1 ] || exit 142
export _HANDLER="$1"
if [ -z "$AWS_LAMBDA_RUNTIME_API" ]; then exec ${emulator} ${bootstrap}; else exec ${bootstrap}; fi
`;
  return put("lambda-entrypoint.sh", own);
}

const PATH = `${dirname(binary)}:${process.env.PATH}`;

for (const [name, language] of [["greet", "Node"], ["total", "Python"]]) {
  const ours = runtimes.filter((runtime) => runtime.name.startsWith(language));
  const runtime = ours.find(({ skip }) => !skip);
  describe(`${name}, as its image starts it`, { skip: runtime ? false : ours[0].skip }, () => {
    const env = { PATH, LAMBDA_TASK_ROOT: join(folder, name), AWS_LAMBDA_FUNCTION_NAME: name, PYTHONDONTWRITEBYTECODE: "1" };
    const start = (more, command = runtime.command("handler")) =>
      [entrypoint, [image(command), "function.handler"], { cwd: join(folder, name), env: { ...env, ...more } }];
    let broker;
    before(async () => { broker = await Broker.start("--function", settings().PILOTLIGHT_FUNCTION); });
    after(() => broker.stop());
    const settings = () => parse(read("deploy/examples/lambda/compose.yml")).services.pilotlight.environment;

    function launch(t, more) {
      const worker = endsWithThis(spawn(...start({ BROKER_URL: broker.url, ...more })));
      t.after(() => worker.kill("SIGKILL"));
      return worker;
    }

    test("its slots wait, serve what callers post, and end with 0 when they are stopped", async (t) => {
      const worker = launch(t, { SLOTS: "2", TIMEOUT: "30s" });
      let log = "";
      for (const stream of [worker.stdout, worker.stderr]) stream.setEncoding("utf8").on("data", (text) => { log += text; });
      const ended = new Promise((resolve) => worker.once("exit", (code, signal) => resolve(code ?? signal)));
      await until("both slots wait", async () => (await broker.waitersOf(name)) === 2).catch((error) => assert.fail(`${error.message}\n${log}`));
      const invoke = async (event) => {
        const answer = await fetch(`${broker.url}/2015-03-31/functions/${name}/invocations`, { method: "POST", body: JSON.stringify(event) });
        return [answer.status, answer.headers.get("x-amz-function-error"), await answer.json()];
      };
      if (name === "greet") {
        const [status, failed, { greeting }] = await invoke({ name: "Ada" });
        assert.deepEqual([status, failed, greeting], [200, null, "Hello, Ada!"]);
        await until("its log has what it prints", () => log.includes("greeting Ada"));
      } else {
        assert.deepEqual(await invoke({ numbers: [1, 2, 3.5] }), [200, null, { total: 6.5 }]);
        const [status, failed, { errorType, errorMessage }] = await invoke({ numbers: [] });
        assert.deepEqual([status, failed, errorType, errorMessage], [200, "Unhandled", "ValueError", "there are no numbers"]);
      }
      worker.kill("SIGTERM");
      assert.equal(await ended, 0, log);
    });

    test("a version waits in a pool of its own", async (t) => {
      launch(t, { AWS_LAMBDA_FUNCTION_VERSION: "7" });
      await until("it waits", async () => (await broker.waitersOf(name)) === 1);
      const invoke = (query) => fetch(`${broker.url}/2015-03-31/functions/${name}/invocations${query}`, { method: "POST", body: '{"numbers":[1]}' });
      assert.equal((await invoke("")).status, 429);
      const answer = await invoke("?Qualifier=7");
      assert.deepEqual([answer.status, answer.headers.get("x-amz-executed-version")], [200, "7"]);
    });

    test("without a broker the emulator starts, and in AWS the runtime itself", () => {
      assert.match(ok(...start({})), /^the emulator starts .*\/var\/runtime\/bootstrap$/m);
      const aws = { AWS_LAMBDA_RUNTIME_API: "127.0.0.1:9001", BROKER_URL: broker.url };
      assert.equal(ok(...start(aws, ["sh", "-c", "echo $AWS_LAMBDA_RUNTIME_API $_HANDLER"])), "127.0.0.1:9001 function.handler\n");
    });

    test("it says what is missing", () => {
      const { status, out } = run(...start({ BROKER_URL: broker.url, AWS_LAMBDA_FUNCTION_NAME: "" }));
      assert.equal(status, 2);
      assert.match(out, /AWS_LAMBDA_FUNCTION_NAME/);
    });
  });
}

test("the entry point is sh, and shellcheck has nothing to say", { skip: without("shellcheck") }, () => {
  ok("shellcheck", ["--shell=sh", "--severity=style", entrypoint]);
});

test("hadolint has nothing to say", { skip: without("hadolint") }, () => {
  ok("hadolint", ["--failure-threshold", "style", join(folder, "Dockerfile")]);
});

test("the image keeps the base's entry point behind ours, and has no root", () => {
  const [entry] = dockerfile.match(/^ENTRYPOINT .*$/m);
  assert.deepEqual(JSON.parse(entry.slice("ENTRYPOINT ".length)), ["/usr/local/bin/warm-entrypoint.sh", "/lambda-entrypoint.sh"]);
  assert.match(dockerfile, /^COPY --chmod=0755 entrypoint.sh \/usr\/local\/bin\/warm-entrypoint.sh$/m);
  assert.match(dockerfile, /^USER [1-9]\d*:\d+$/m);
});

/** Amazon Linux 2023's, which the base images have. */
const GLIBC = [2, 34];

test("the binary runs with the base images' glibc, unless this system's compiler linked against a newer one", (t) => {
  const [, major, minor] = /(\d+)\.(\d+)\s*$/m.exec(ok("ldd", ["--version"]).split("\n")[0]);
  // The broker's image is built on Debian 12.
  if (Number(major) !== GLIBC[0] || Number(minor) > 36) return t.skip(`built with glibc ${major}.${minor}`);
  const wanted = [...ok("readelf", ["-V", binary]).matchAll(/GLIBC_2\.(\d+)/g)].map(([, version]) => Number(version));
  assert.ok(Math.max(...wanted) <= GLIBC[1], `GLIBC_2.${Math.max(...wanted)}`);
});

describe("Compose", { skip }, () => {
  const { services, networks } = skip ? {} : config();

  test("callers reach the broker's port for calls, and functions only that for polls", () => {
    const joined = (network) => Object.entries(services).filter(([, service]) => network in service.networks).map(([name]) => name).sort();
    assert.deepEqual([joined("callers"), joined("functions")], [["call", "pilotlight"], ["greet", "pilotlight", "total"]]);
    const { environment: settings, networks: { callers } } = services.pilotlight;
    const subnet = (name) => networks[name].ipam.config[0].subnet;
    assert.deepEqual([settings.PILOTLIGHT_ALLOW_POLL, settings.PILOTLIGHT_ALLOW_DISPATCH], [subnet("functions"), subnet("callers")]);
    assert.ok(settings.PILOTLIGHT_DISPATCH_LISTEN.startsWith(`${callers.ipv4_address}:`));
    assert.equal(new URL(services.call.environment.AWS_ENDPOINT_URL_LAMBDA).host, settings.PILOTLIGHT_DISPATCH_LISTEN);
  });

  test("its broker starts with these settings, and knows both functions", () => {
    const settings = services.pilotlight.environment;
    const env = { PATH, ...settings, PILOTLIGHT_LISTEN: "127.0.0.1:0", PILOTLIGHT_DISPATCH_LISTEN: "127.0.0.2:0", PILOTLIGHT_OPS_LISTEN: "127.0.0.1:0" };
    assert.match(ok(binary, ["check"], { env }), /^OK: /m);
    assert.deepEqual(settings.PILOTLIGHT_FUNCTION.split(",").map((entry) => entry.split("=")[0]), ["greet", "total"]);
  });

  test("each function is built from its own folder, polls where the broker listens, and may end its invocations", () => {
    const port = services.pilotlight.environment.PILOTLIGHT_LISTEN.split(":")[1];
    for (const name of ["greet", "total"]) {
      const { build, environment, stop_grace_period: grace, user, read_only: readOnly, cap_drop: dropped } = services[name];
      assert.equal(build.args.FUNCTION, name);
      assert.deepEqual(Object.keys(build.args).sort(), [...dockerfile.matchAll(/^ARG (\w+)/gm)].map(([, name]) => name).sort());
      assert.equal(environment.BROKER_URL, `http://pilotlight:${port}`);
      assert.equal(environment.AWS_LAMBDA_FUNCTION_NAME, name);
      assert.ok(seconds(grace) > seconds(environment.TIMEOUT));
      assert.deepEqual([user, readOnly, dropped], ["65532:65532", true, ["ALL"]]);
    }
  });
});

/** Compose prints 70s as 1m10s. */
function seconds(duration) {
  const [, minutes = 0, seconds = 0] = /^(?:(\d+)m)?(?:(\d+)s)?$/.exec(duration);
  return Number(minutes) * 60 + Number(seconds);
}
