// Owns the tests of names in the guides: the broker has every flag, variable, key and metric that they name.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, describe, test } from "node:test";
import { parse } from "yaml";
import { Broker } from "../clients/broker.mjs";
import { binary, files, guides, join, kustomization, ok, read, render, run, scratch, snippets } from "./tools.mjs";

const variables = new Set(ok(binary, ["config", "env"]).match(/PILOTLIGHT_[A-Z_]+(?==)/g));
const settings = new Set([...variables].map((name) => name.replace("PILOTLIGHT_", "").toLowerCase().replaceAll("_", "-")));
const listed = ok(binary, ["--help"]).split(/^Commands:$/m)[1].split(/^\S/m)[0];
const helped = [...listed.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name).filter((name) => name !== "help").map((command) => ok(binary, [command, "--help"])).join("\n");
const flags = new Set([...settings, ...[...helped.matchAll(/--([a-z][a-z-]*)/g)].map(([, name]) => name)]);

/** Variables of this project's tests and build, which the broker does not read. */
const OTHERS = new Set(["SEED", "PREVIEWS", "REVISION", "LONG", "SCHEDULE", "WRITE_COUNTS", "WRITE_DOCS"].map((name) => `PILOTLIGHT_${name}`));
/** Variables that `pilotlight worker` gives to its programs. */
const WORKERS = new Set(["exec", "spec"].flatMap((file) => [...read(`src/commands/worker/program/${file}.rs`).matchAll(/\.env\("(PILOTLIGHT_[A-Z_]+)"/g)].map(([, name]) => name)));
/** Flags of other programs that the guides name without their command. */
const FOREIGN = new Set(["--profile", "--release", "--sysctl", "--stop-timeout", "--conntrack-max-per-core", "--warm-containers"]);
/** Metrics that exist only with TLS, or with a cluster; alert rules may use them. */
const SLEEPING = /^pilotlight_(tls_|cluster_connected$)/;

const texts = [...guides(), ...files("deploy", /(?<!\.md)$/), ...files("dashboards", /\.ya?ml$/)];

/** Commands of the broker in shell snippets, with lines joined that a backslash continues. */
const commands = guides()
  .flatMap((path) => snippets(path).flatMap(({ where, text }) => text.replace(/\\\n\s*/g, " ").split("\n").map((line) => ({ where, line }))))
  .map(({ where, line }) => ({ where, line, own: /(?:^|[ /])(?:pilotlight(?::[\d.]+)?|cargo run --release --) (.*)$/.exec(line.split(" #")[0])?.[1] }))
  .filter(({ own, line }) => own && !line.includes("docker build"));

test("every flag in the guides is the broker's", () => {
  const wrong = [];
  let seen = 0;
  const look = (where, text) => {
    for (const [named, name] of text.matchAll(/(?<![\w-])--([a-z][a-z-]+)/g)) {
      seen += 1;
      if (!flags.has(name) && !FOREIGN.has(named)) wrong.push(`${where}: ${named}`);
    }
  };
  for (const path of guides()) {
    const prose = read(path).replace(/^```[\s\S]*?^```$/gm, "");
    // Inline code that begins with a flag or with the broker's name is about the broker.
    for (const [, span] of prose.matchAll(/`((?:pilotlight [a-z -]*)?--[^`]*)`/g)) look(path, span);
  }
  for (const { where, own } of commands) look(where, own);
  for (const path of files("deploy", /(?<!\.md)$/)) {
    // Comments in manifests, and the commands of units.
    for (const line of read(path).split("\n").filter((line) => /pilotlight .*--|^\s*#.*--[a-z]/.test(line) && !/docker build|helm upgrade/.test(line))) look(path, line);
  }
  assert.ok(seen > 40, `only ${seen} flags found`);
  assert.deepEqual(wrong, []);
});

test("every PILOTLIGHT_ variable is the broker's", () => {
  const wrong = texts.flatMap((path) =>
    [...new Set(read(path).match(/PILOTLIGHT_[A-Z_]+/g))].filter((name) => !variables.has(name) && !OTHERS.has(name) && !WORKERS.has(name)).map((name) => `${path}: ${name}`),
  );
  assert.deepEqual(wrong, []);
});

describe("the example of a configuration", () => {
  const example = read("deploy/systemd/pilotlight.toml");
  const folder = scratch();
  const check = (text) => {
    const file = join(folder, "pilotlight.toml");
    writeFileSync(file, text);
    return run(binary, ["--config", file, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--history", join(folder, "history.sqlite"), "check"]);
  };

  test("is accepted, and a typing error in it is not", () => {
    const { status, out } = check(example);
    assert.equal(status, 0, out);
    assert.notEqual(check(example.replace("drain-window", "drain-windows")).status, 0);
  });

  test("offers only keys that exist", () => {
    const keys = [...example.matchAll(/^(?:# )?([a-z][a-z-]+) = /gm)].map(([, key]) => key);
    assert.ok(keys.length > 8);
    assert.deepEqual(keys.filter((key) => !settings.has(key)), []);
  });
});

describe("what the manifests set", () => {
  const compose = parse(read("deploy/compose/pilotlight.yml").replace(/\$\{\w+:-([^}]*)\}/g, "$1")).services.pilotlight.environment;
  const copy = kustomization();
  writeFileSync(join(copy, "overlays/example/kustomization.yaml"), read("deploy/kustomize/overlays/example/kustomization.yaml"));
  const [deployment] = render(join(copy, "overlays/example")).filter(({ kind }) => kind === "Deployment");
  const pod = Object.fromEntries(deployment.spec.template.spec.containers[0].env.map(({ name, value }) => [name, value]));

  for (const [way, env] of Object.entries({ compose, kustomize: pod })) {
    test(`${way}: the broker would serve with it`, () => {
      const folder = scratch();
      const own = Object.entries(env).map(([name, value]) => {
        // The test's own secrets, and ports that are free here. The replaced address is not loopback either, so the same
        // restrictions apply.
        if (!value.startsWith("/")) return [name, value.replace(/^\d+\.\d+\.\d+\.\d+:\d+$/, "0.0.0.0:0")];
        mkdirSync(dirname(join(folder, value)), { recursive: true });
        writeFileSync(join(folder, value), "a-secret-that-is-long-enough-for-anyone");
        return [name, join(folder, value)];
      });
      const { status, out } = run(binary, ["check"], { env: Object.fromEntries(own) });
      assert.equal(status, 0, out);
      for (const name of Object.keys(env)) {
        const key = name.replace("PILOTLIGHT_", "").toLowerCase().replaceAll("_", "-");
        assert.match(out, new RegExp(`^${key} +\\S.* environment$`, "m"));
      }
    });
  }
});

describe("metrics", () => {
  let broker, exposed;
  before(async () => {
    broker = await Broker.start();
    const text = await fetch(`http://127.0.0.1:${broker.ops}/metrics`).then((answer) => answer.text());
    const types = [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)];
    exposed = new Set(types.flatMap(([, name, type]) => (type === "histogram" ? ["_bucket", "_sum", "_count"].map((end) => name + end) : [name])));
    assert.ok(exposed.size > 20);
  });
  after(() => broker?.stop());

  test("that rules, dashboards and manifests name are on /metrics", () => {
    const wrong = [];
    let seen = 0;
    for (const path of [...files("dashboards", /\.(json|ya?ml)$/), ...files("deploy", /\.ya?ml$/)]) {
      for (const name of new Set(read(path).match(/\b(?:pilotlight|process|allocator)_[a-z_]+\b/g))) {
        seen += 1;
        if (!exposed.has(name) && !exposed.has(`pilotlight_${name}`) && !SLEEPING.test(name)) wrong.push(`${path}: ${name}`);
      }
    }
    assert.ok(seen > 30, `only ${seen} metrics found`);
    assert.deepEqual(wrong, []);
  });
});
