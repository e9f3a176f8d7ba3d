// Owns the tests of deploy/compose: the overlays fit Trigger.dev's compose files, and their parts are consistent.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { parse } from "yaml";
import { existsSync, join, ok, read, root, run, scratch, without } from "./tools.mjs";

/** The names in Trigger.dev's hosting/docker/worker/docker-compose.yml that the overlay relies on. */
const TRIGGER = `
version: "3.8"
services:
  supervisor:
    image: supervisor
    networks: [supervisor, docker-proxy, webapp]
    environment:
      TRIGGER_WORKLOAD_API_DOMAIN: supervisor
      DOCKER_RUNNER_NETWORKS: webapp,supervisor
networks:
  docker-proxy: { name: docker-proxy }
  supervisor: { name: supervisor }
  webapp: { name: webapp }
`;
const compose = run("docker", ["compose", "version"]).status === 0 ? ["docker", "compose"] : ["docker-compose"];
const skip = without(compose[0]);

const folder = scratch();
writeFileSync(join(folder, "trigger.yml"), TRIGGER);
const settings = { WARM_START_DIR: root.replace(/\/$/, ""), WORKLOAD_TOKEN_SECRET: "secret", GRAFANA_PASSWORD: "password" };

/** What compose makes of Trigger.dev's file and these overlays. */
function config(env, ...overlays) {
  const files = ["trigger.yml", ...overlays.map((name) => join(root, "deploy/compose", name))];
  const args = [...compose.slice(1), ...files.flatMap((file) => ["-f", file]), "config"];
  return run(compose[0], args, { cwd: folder, env: { PATH: process.env.PATH, ...env } });
}

/** It must succeed with these settings, and must not without any one of them. */
function needsAll(settings, ...overlays) {
  const { status, out } = config(settings, ...overlays);
  assert.equal(status, 0, out);
  for (const name of Object.keys(settings)) {
    const { status, out } = config({ ...settings, [name]: "" }, ...overlays);
    assert.ok(status !== 0 && out.includes(name), `${name}: ${out}`);
  }
}

/** Every file that is mounted or built from exists, and every secret is declared. */
function hasItsFiles({ services, secrets }) {
  for (const [name, { volumes = [], secrets: wanted = [], build, environment = {} }] of Object.entries(services)) {
    const sources = volumes.map((volume) => volume.source ?? volume.split(":")[0]).filter((source) => source.startsWith("/"));
    for (const source of sources) assert.ok(existsSync(source), `${name}: ${source}`);
    for (const secret of wanted) assert.ok(secrets[secret.source ?? secret].file.startsWith(join(root, "deploy/compose/secrets/")), name);
    for (const path of Object.values(environment).filter((value) => /^\/run\/secrets\//.test(value))) {
      assert.ok(wanted.some((secret) => path === `/run/secrets/${secret.source ?? secret}`), `${name}: ${path}`);
    }
    if (build) assert.ok(existsSync(join(build.context, build.dockerfile)), build.dockerfile);
  }
}

describe("the overlay over Trigger.dev's compose file", { skip }, () => {
  const whole = () => {
    const { status, out, stdout } = config(settings, "pilotlight.yml");
    assert.equal(status, 0, out);
    return parse(stdout);
  };

  test("compose takes it, and refuses it without what only its user knows", () => needsAll(settings, "pilotlight.yml"));

  test("the supervisor keeps what it had", () => {
    const { supervisor } = whole().services;
    assert.deepEqual(Object.keys(supervisor.networks).sort(), ["docker-proxy", "pilotlight", "supervisor", "webapp"]);
    assert.equal(supervisor.environment.TRIGGER_WORKLOAD_API_DOMAIN, "supervisor");
  });

  test("runners reach the polls and nothing else", () => {
    const { services } = whole();
    const { networks, environment } = services.pilotlight;
    const runners = services.supervisor.environment.DOCKER_RUNNER_NETWORKS.split(",");
    const shared = Object.keys(networks).filter((network) => runners.includes(network));
    assert.deepEqual(shared, ["supervisor"]);
    const poll = new URL(services.supervisor.environment.TRIGGER_WARM_START_URL);
    assert.deepEqual([poll.hostname, `0.0.0.0:${poll.port}`], ["pilotlight", environment.PILOTLIGHT_LISTEN]);
    const { ipv4_address: address, aliases } = networks.pilotlight;
    const dispatch = new URL(services.supervisor.environment.TRIGGER_WARM_START_DISPATCH_URL);
    assert.deepEqual([[dispatch.hostname], environment.PILOTLIGHT_DISPATCH_LISTEN], [aliases, `${address}:${dispatch.port}`]);
    assert.equal(networks.supervisor?.aliases, undefined);
    assert.ok(environment.PILOTLIGHT_OPS_LISTEN.startsWith(`${address}:`));
    for (const name of ["prometheus", "grafana"]) assert.deepEqual(Object.keys(services[name].networks), ["pilotlight"], name);
  });

  test("the address is in the network's range, which alone may dispatch", () => {
    const { services, networks } = whole();
    const { subnet } = networks.pilotlight.ipam.config[0];
    assert.match(subnet, /\.0\/24$/);
    assert.equal(services.pilotlight.environment.PILOTLIGHT_ALLOW_DISPATCH, subnet);
    assert.ok(services.pilotlight.networks.pilotlight.ipv4_address.startsWith(subnet.replace("0/24", "")));
  });

  test("every file that is mounted or built from exists, and every secret is declared", () => hasItsFiles(whole()));

  test("a broker has its drain window before it is killed", () => {
    assert.ok(Number.parseInt(whole().services.pilotlight.stop_grace_period, 10) > 10);
  });

  test("Prometheus scrapes the broker, with the token that it has", () => {
    const { pilotlight, prometheus } = whole().services;
    const scrape = parse(read("deploy/compose/prometheus.yml"));
    const [{ authorization, static_configs: [{ targets }], job_name: job }] = scrape.scrape_configs;
    assert.match(job, /pilotlight/, "PilotlightDown looks for it");
    assert.deepEqual(targets, [`${pilotlight.networks.pilotlight.aliases[0]}:${pilotlight.environment.PILOTLIGHT_OPS_LISTEN.split(":")[1]}`]);
    assert.equal(authorization.credentials_file, pilotlight.environment.PILOTLIGHT_OPS_TOKEN_FILE);
    const mounts = JSON.stringify(prometheus.volumes);
    for (const rules of scrape.rule_files) assert.ok(mounts.includes(`/etc/prometheus/${rules}`), rules);
  });

  test("Grafana finds its dashboards and its data", () => {
    const { services } = whole();
    const mounts = JSON.stringify(services.grafana.volumes);
    const [{ options }] = parse(read("deploy/compose/grafana/dashboards.yml")).providers;
    for (const name of ["overview.json", "capacity.json"]) assert.ok(mounts.includes(`${options.path}/${name}`), name);
    assert.ok(services.grafana.environment.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH.startsWith(`${options.path}/`));
    const [{ url }] = parse(read("deploy/compose/grafana/datasources.yml")).datasources;
    assert.ok(services[new URL(url).hostname], url);
  });
});

describe("the overlay with two brokers", { skip }, () => {
  const both = { ...settings, WARM_START_NATS_PASSWORD: "1234" };
  const overlays = ["pilotlight.yml", "cluster.yml"];
  const whole = () => {
    const { status, out, stdout } = config(both, ...overlays);
    assert.equal(status, 0, out);
    return parse(stdout);
  };

  test("compose takes it, and refuses it without what only its user knows", () => needsAll(both, ...overlays));

  test("every file that is mounted or built from exists, and every secret is declared", () => hasItsFiles(whole()));

  test("the second broker is as the first, but for its address and its names", () => {
    const { pilotlight: first, "pilotlight-b": second } = whole().services;
    const addresses = [first, second].map(({ networks }) => networks.pilotlight.ipv4_address);
    assert.equal(new Set(addresses).size, 2);
    for (const [index, { networks, environment }] of [first, second].entries()) {
      assert.equal(environment.PILOTLIGHT_ADVERTISE, `http://${addresses[index]}:7070`);
      for (const name of ["DISPATCH", "OPS"]) assert.ok(environment[`PILOTLIGHT_${name}_LISTEN`].startsWith(`${addresses[index]}:`), name);
      assert.deepEqual([Object.keys(networks).sort(), networks.pilotlight.aliases], [["cluster", "pilotlight", "supervisor"], ["pilotlight-dispatch"]]);
    }
    const plain = (service) => JSON.stringify(service).replaceAll(addresses[1], addresses[0]);
    for (const service of [first, second]) {
      delete service.networks;
      delete service.environment.PILOTLIGHT_REDIRECT_TO;
    }
    assert.equal(plain(second), plain(first));
  });

  test("runners find both by one name, and each sends its controllers to the other", () => {
    const { services } = whole();
    const poll = new URL(services.supervisor.environment.TRIGGER_WARM_START_URL).hostname;
    const names = (service) => [service, ...(services[service].networks.supervisor?.aliases ?? [])];
    for (const [one, other] of [["pilotlight", "pilotlight-b"], ["pilotlight-b", "pilotlight"]]) {
      assert.ok(names(one).includes(poll), one);
      const { hostname, port } = new URL(services[one].environment.PILOTLIGHT_REDIRECT_TO);
      assert.ok(names(other).includes(hostname) && !names(one).includes(hostname) && port === "7070", `${one}: ${hostname}`);
    }
  });

  test("only the brokers reach NATS, whose password is text even if it looks like a number", () => {
    const { services, networks } = whole();
    assert.equal(networks.cluster.internal, true);
    const there = Object.entries(services).filter(([, { networks }]) => "cluster" in networks).map(([name]) => name);
    assert.deepEqual([there.sort(), Object.keys(services.nats.networks)], [["nats", "pilotlight", "pilotlight-b"], ["cluster"]]);
    assert.equal(services.nats.environment.NATS_PASSWORD, '"1234"');
    assert.equal(services.nats.command.join(" "), `--config ${services.nats.volumes[0].target ?? services.nats.volumes[0].split(":")[1]}`);
  });

  test("Prometheus scrapes both, by names that it can resolve", () => {
    const { services } = whole();
    const mounted = services.prometheus.volumes.map((volume) => volume.source ?? volume.split(":")[0]);
    assert.ok(mounted.includes(join(root, "deploy/compose/prometheus-cluster.yml")) && !mounted.includes(join(root, "deploy/compose/prometheus.yml")));
    const scrape = parse(read("deploy/compose/prometheus-cluster.yml"));
    const [{ static_configs: [{ targets }], ...job }] = scrape.scrape_configs;
    for (const target of targets) {
      const [name, port] = target.split(":");
      assert.ok(services[name].environment.PILOTLIGHT_OPS_LISTEN.endsWith(`:${port}`), target);
    }
    assert.equal(targets.length, 2);
    const single = parse(read("deploy/compose/prometheus.yml"));
    const [{ static_configs, ...sameJob }] = single.scrape_configs;
    assert.deepEqual([{ ...scrape, scrape_configs: [] }, job], [{ ...single, scrape_configs: [] }, sameJob]);
  });

  test("a broker has its drain window before it is killed", () => {
    for (const name of ["pilotlight", "pilotlight-b"]) assert.ok(Number.parseInt(whole().services[name].stop_grace_period, 10) > 20, name);
  });
});

test("promtool takes Prometheus' configurations", { skip: without("promtool") }, () => {
  for (const name of ["prometheus.yml", "prometheus-cluster.yml"]) {
    ok("promtool", ["check", "config", "--syntax-only", join(root, "deploy/compose", name)]);
  }
});
