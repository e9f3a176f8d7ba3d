// Owns the tests of deploy/docker: the broker runs with the libraries of the image alone, and the build context has all that
// it needs.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, realpathSync } from "node:fs";
import { basename, dirname } from "node:path";
import { describe, test } from "node:test";
import { freePort, until } from "../clients/broker.mjs";
import { binary, existsSync, files, join, ok, read, root, run, scratch, without } from "./tools.mjs";

/** Debian packages whose libraries an image has. Distroless is built from these very packages. */
const PACKAGES = { "gcr.io/distroless/cc-debian12:nonroot": ["libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libssl3"] };
/** Debian 12's glibc: a binary from a newer one would not start. */
const GLIBC = [2, 36];

const dockerfile = read("deploy/docker/Dockerfile").replace(/\\\n\s*/g, " ");
const stages = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, image]) => image);
const line = (instruction) => new RegExp(`^${instruction} (.*)$`, "m").exec(dockerfile)?.[1];
const [entry] = JSON.parse(line("ENTRYPOINT"));
const [uid, gid] = line("USER").split(":").map(Number);

test("hadolint has nothing to say", { skip: without("hadolint") }, () => {
  ok("hadolint", ["--failure-threshold", "style", join(root, "deploy/docker/Dockerfile")]);
});

test("the last stage is a user without rights, and nothing asks for a shell", () => {
  assert.ok(uid > 0 && gid > 0);
  assert.match(stages.at(-1), /:nonroot$/);
  const last = dockerfile.slice(dockerfile.lastIndexOf("FROM "));
  assert.doesNotMatch(last, /^(RUN|SHELL|ADD) /m);
  assert.doesNotMatch(last, /^(ENTRYPOINT|CMD) [^[]/m);
  assert.match(last, /^HEALTHCHECK .*CMD \[/m);
  for (const label of ["title", "licenses", "version", "revision"]) assert.ok(last.includes(`org.opencontainers.image.${label}=`), label);
});

test("versions agree: the manifest, the image's label, every file that names the image", () => {
  const [, version] = /^version = "(.*)"$/m.exec(read("Cargo.toml"));
  assert.equal(/^ARG VERSION=(\S+)$/m.exec(dockerfile)[1], version);
  for (const path of files("deploy")) {
    for (const [named, tag] of read(path).matchAll(/\bpilotlight:(\d+\.\d[\w.-]*\w)/g)) assert.equal(tag, version, `${path}: ${named}`);
  }
  const [, rust] = /^rust-version = "(.*)"$/m.exec(read("Cargo.toml"));
  assert.equal(stages[0], `rust:${rust}-bookworm`);
});

test("what the build sees is all that it reads", () => {
  const rules = read("deploy/docker/Dockerfile.dockerignore").split("\n").filter((rule) => rule && !rule.startsWith("#"));
  assert.equal(rules.shift(), "*");
  const seen = rules.map((rule) => rule.replace(/^!/, ""));
  for (const path of seen) assert.ok(existsSync(join(root, path)), `${path} does not exist`);
  const needed = ["Cargo.toml", "Cargo.lock"];
  const [, members] = /^members = \[(.*)\]$/m.exec(read("Cargo.toml"));
  for (const [, member] of members.matchAll(/"([^"]+)"/g)) {
    const manifest = join(member, "Cargo.toml");
    needed.push(manifest, join(member, "src/"));
    for (const [, path] of read(manifest).matchAll(/^path = "([^"]+)"$/gm)) needed.push(join(member, path));
  }
  for (const path of [...files("src", /\.rs$/), ...files("bench/src", /\.rs$/), ...files("tests/reliability/src", /\.rs$/)]) {
    for (const [, included] of read(path).matchAll(/include(?:_str|_bytes)?!\("([^"]+)"\)/g)) needed.push(join(dirname(path), included));
  }
  const missing = needed.filter((path) => !seen.some((prefix) => path === prefix || path.startsWith(`${prefix}/`)));
  assert.deepEqual(missing, []);

  // With a compiler that always fails, cargo has found all files if it gets as far as calling the compiler.
  const folder = scratch();
  for (const path of seen) cpSync(join(root, path), join(folder, path), { recursive: true });
  const command = /cargo (build .*?) &&/.exec(dockerfile)[1].trim().split(/\s+/);
  const { out } = run("cargo", [...command, "--offline"], { cwd: folder, env: { ...process.env, RUSTC: "/bin/false" } });
  assert.match(out, /\/bin\/false -vV/, out);
});

const skip = process.getuid() !== 0 ? "needs root for chroot" : without("dpkg") || without("readelf");
describe("an empty root with the image's libraries", { skip }, () => {
  const folder = join(scratch(), "root");
  const put = (from, to) => {
    mkdirSync(dirname(join(folder, to)), { recursive: true });
    cpSync(from, join(folder, to), { dereference: true });
  };
  const libraries = PACKAGES[stages.at(-1)].flatMap((name) => {
    const { status, out } = run("dpkg", ["-L", name]);
    return status === 0 ? out.split("\n").filter((path) => /\/lib(64)?\/.*\.so(\.[\d.]+)?$/.test(path) && existsSync(path)) : [];
  });
  for (const library of libraries) put(realpathSync(library), library);
  // The binary names the loader's path, which exists in distroless because Debian merges /lib into /usr.
  const loader = "/lib64/ld-linux-x86-64.so.2";
  if (existsSync(loader)) put(realpathSync(loader), loader);
  put(binary, entry);
  const inside = (args) => ["--userspec", `${uid}:${gid}`, folder, entry, ...args];
  const nothing = { env: { PATH: process.env.PATH }, cwd: "/" };

  test("has every library that the binary names", () => {
    const needed = [...ok("readelf", ["-d", binary]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name);
    assert.ok(needed.includes("libc.so.6"));
    const there = new Set(libraries.map((path) => basename(path)).concat(basename(loader)));
    assert.deepEqual(needed.filter((name) => !there.has(name)), []);
  });

  test("has a glibc that is new enough, unless this system's compiler linked against a newer one", (t) => {
    const [, major, minor] = /(\d+)\.(\d+)\s*$/m.exec(ok("ldd", ["--version"]).split("\n")[0]);
    if (Number(major) !== GLIBC[0] || Number(minor) > GLIBC[1]) return t.skip(`built with glibc ${major}.${minor}`);
    const wanted = [...ok("readelf", ["-V", binary]).matchAll(/GLIBC_2\.(\d+)/g)].map(([, version]) => Number(version));
    assert.ok(Math.max(...wanted) <= GLIBC[1], `GLIBC_2.${Math.max(...wanted)}`);
  });

  test("has no shell", () => {
    assert.equal(run("chroot", ["--userspec", `${uid}:${gid}`, folder, "/bin/sh", "-c", "true"], nothing).status, 127);
  });

  test("runs --version, and check", () => {
    assert.match(ok("chroot", inside(["--version"]), nothing), /^pilotlight \d/);
    const free = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    assert.match(ok("chroot", inside([...free, "check"]), nothing), /^OK: the broker can start with these settings\.$/m);
  });

  test("serves, is healthy meanwhile, and leaves with 0 at SIGTERM", async () => {
    const [port, ops] = [await freePort(), await freePort()];
    const flags = ["--listen", `127.0.0.1:${port}`, "--ops-listen", `127.0.0.1:${ops}`, "--drain-window", "100ms"];
    const broker = spawn("chroot", inside(flags), { ...nothing, stdio: "ignore" });
    const ended = new Promise((resolve) => broker.once("exit", (code, signal) => resolve(code ?? signal)));
    await until("it is ready", () => fetch(`http://127.0.0.1:${ops}/readyz`).then((answer) => answer.ok, () => false));
    // The health check is another process in the same container, with the same environment.
    const [check, ...words] = JSON.parse(line("HEALTHCHECK").split(" CMD ")[1]);
    assert.equal(check, entry);
    const environment = { ...nothing, env: { ...nothing.env, PILOTLIGHT_OPS_LISTEN: `127.0.0.1:${ops}` } };
    ok("chroot", inside(words), environment);
    broker.kill("SIGTERM");
    assert.equal(await ended, 0);
    assert.equal(run("chroot", inside(words), environment).status, 1);
  });
});
