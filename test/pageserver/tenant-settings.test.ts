/**
 * Settings of a tenant against a real pageserver with real data: each has its effect at once, on its own tenant only, and
 * still after a kill. And the table itself: what is read, shown and stored.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { NeonError } from "../../src/base/errors.ts";
import type { TimelineId } from "../../src/base/ids.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { formatDuration, parseDuration } from "../../src/pageserver/duration.ts";
import { JsonFields } from "../../src/pageserver/json-fields.ts";
import {
  DEFAULT_TENANT_SETTINGS,
  TENANT_SETTING_NAMES,
  effectiveSettings,
  loadTenantSettings,
  readTenantSettings,
  renderTenantSettings,
  storeTenantSettings,
} from "../../src/pageserver/timeline/tenant-settings.ts";
import { TENANT_SETTINGS } from "../../src/pageserver/service/openapi/schemas.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { ApiLab, fieldsOf, listOf } from "./api-lab.ts";
import { Child, configure, readJson } from "./child.ts";
import { TENANT, TOKEN, TempDirectory } from "./harness.ts";
import { clientOf, extract, importMain, startWriter } from "./real-compute.ts";

const T = "/v1/tenant/:tenant";
const TL = `${T}/timeline/:timeline`;
const OTHER = "b".repeat(32);

function fields(value: object): JsonFields {
  return new JsonFields(value, "", (message) => new NeonError("usage", message));
}

void test("times are read and shown as the original's clients write them", () => {
  const times: [string, number, string][] = [
    ["7 days", 7 * 86_400_000, "7days"],
    ["1d", 86_400_000, "1day"],
    ["90 min", 5_400_000, "1h 30m"],
    ["1h30m", 5_400_000, "1h 30m"],
    ["0s", 0, "0s"],
    ["1s 5ms", 1005, "1s 5ms"],
    ["2weeks", 14 * 86_400_000, "14days"],
  ];
  for (const [text, ms, shown] of times) {
    assert.equal(parseDuration(text), ms, text);
    assert.equal(formatDuration(ms), shown);
    assert.equal(parseDuration(shown), ms);
  }
  for (const bad of [
    "",
    " ",
    "5",
    "soon",
    "1 fortnight",
    "-1s",
    "1.5h",
    "s",
    "1s,2s",
    "9".repeat(20) + "s",
  ]) {
    assert.equal(parseDuration(bad), undefined, bad);
  }
});

void test("every setting is read, shown, stored and loaded as the same", () => {
  const shown = renderTenantSettings(DEFAULT_TENANT_SETTINGS);
  assert.deepEqual(Object.keys(shown).sort(), [...TENANT_SETTING_NAMES].sort());
  assert.deepEqual(Object.keys(TENANT_SETTINGS).sort(), [...TENANT_SETTING_NAMES].sort());
  assert.deepEqual(readTenantSettings(fields(shown)), DEFAULT_TENANT_SETTINGS);
  const stored = storeTenantSettings(DEFAULT_TENANT_SETTINGS);
  assert.deepEqual(loadTenantSettings(fields(stored)), DEFAULT_TENANT_SETTINGS);
  // As it is in files of releases that had two.
  assert.deepEqual(loadTenantSettings(fields({ gc_horizon_bytes: 5, pitr_interval_ms: null })), {
    gcHorizonBytes: 5,
  });
  assert.deepEqual(loadTenantSettings(fields({ compaction_threshold: 0 })), { flushedLayersMin: 1 });
  for (const name of TENANT_SETTING_NAMES) {
    for (const bad of [-1, 1.5, 2 ** 60, "", "x", true, {}, typeof shown[name] === "number" ? "1s" : 7]) {
      assert.throws(
        () => readTenantSettings(fields({ [name]: bad })),
        new RegExp(`"${name}" must`),
        JSON.stringify(bad),
      );
    }
  }
});

void test("what a tenant says of compaction decides when WAL waits for it", () => {
  const delay = (own: Parameters<typeof effectiveSettings>[1]): number =>
    effectiveSettings(DEFAULT_TENANT_SETTINGS, own).flushDelayLayers;
  assert.equal(delay({}), 32);
  assert.equal(delay({ flushedLayersMin: 2 }), 8);
  assert.equal(delay({ compactionPeriodMs: 0 }), 0);
  assert.equal(delay({ compactionPeriodMs: 0, flushDelayLayers: 5 }), 5);
});

interface World {
  readonly lab: ApiLab;
  readonly compute: TestPostgres;
  readonly main: TimelineId;
  readonly workdir: string;
}

void test("settings of a tenant, on a real server", { timeout: 300_000 }, async (t) => {
  using directory = new TempDirectory();
  const lines = 'listen_libpq = "127.0.0.1:0"\ncompaction_period = "5min"\npitr_interval = "1d"\n';
  const workdir = configure(directory, lines);
  const first = new Child("real-pageserver.ts", workdir);
  await using stack = new AsyncDisposableStack();
  stack.use(first);
  const url = await first.ready();
  const client = clientOf(url);
  const main = await importMain(client);
  await using compute = await extract(client, main, { readOnly: false });
  await startWriter(client, main, "main", compute);
  await compute.query("create table t (v text)");
  const world: World = { lab: await ApiLab.of(url), compute, main, workdir };
  await t.test("what is shown, changed and taken away", () => shown(world));
  await t.test("checkpoint_distance: small layers, at once", () => distance(world));
  await t.test("compaction_threshold and compaction_period: they are merged", () => merging(world));
  await t.test("image_creation_threshold: an image", () => images(world));
  await t.test("compaction_target_size: smaller files", () => targetSize(world));
  await t.test("checkpoint_timeout: an old layer is written", () => timeout(world));
  await t.test("gc_horizon, pitr_interval and gc_period: history goes by itself", () => garbage(world));
  await t.test("lsn_lease_length: leases are as long as it says", () => leases(world));
  await t.test("another tenant has none of it", () => another(world));
  const before = await configOf(world);
  first.signal("SIGKILL");
  await first.end();
  await using second = new Child("real-pageserver.ts", workdir);
  const again: World = { ...world, lab: await ApiLab.of(await second.ready()) };
  await t.test("after a kill they are as they were, and in effect", async () => {
    assert.deepEqual(await configOf(again), before);
    assert.equal(await generationOf(again), 5);
    await distance(again);
  });
});

async function patch({ lab }: World, body: object, tenant = TENANT): Promise<Record<string, unknown>> {
  return fieldsOf(await lab.ok("PATCH /v1/tenant/config", { body: { tenant_id: tenant, ...body } }));
}

async function configOf({ lab }: World): Promise<unknown> {
  return lab.ok(`GET ${T}/config`);
}

async function shown(world: World): Promise<void> {
  const { lab, workdir } = world;
  const usual = fieldsOf(fieldsOf(await configOf(world))["effective_config"]);
  assert.deepEqual(
    [usual["compaction_period"], usual["pitr_interval"], usual["checkpoint_distance"], usual["gc_period"]],
    ["5m", "1day", 64 << 20, "1h"],
  );
  const all = {
    checkpoint_distance: 8 << 20,
    checkpoint_timeout: "30s",
    gc_horizon: 1 << 20,
    gc_period: "0s",
    pitr_interval: "10days",
    compaction_target_size: 4 << 20,
    compaction_period: "0s",
    compaction_threshold: 3,
    image_creation_threshold: 5,
    l0_flush_delay_threshold: 7,
    lsn_lease_length: "1m",
    lsn_lease_length_for_ts: "30s",
  };
  const put = fieldsOf(await lab.ok("PUT /v1/tenant/config", { body: { tenant_id: TENANT, ...all } }));
  assert.deepEqual(put["tenant_specific_overrides"], all);
  assert.deepEqual({ ...fieldsOf(put["effective_config"]), ...all }, put["effective_config"]);
  const libpq = String(readJson(join(workdir, "pageserver.pid"))?.["listen_libpq"]);
  await using client = await connectLibpq(
    parseLibpqUri(`postgresql://neon:${TOKEN}@${libpq}?sslmode=disable`),
  );
  const column = async (command: string, name: string): Promise<unknown> => {
    const { columns, rows } = await client.query(command);
    return rows[0]?.[columns.indexOf(name)];
  };
  assert.equal(await column(`show ${TENANT}`, "compaction_threshold"), "3");
  assert.equal(await column("show", "compaction_threshold"), "8");
  // Null, and only null, takes one away.
  const { tenant_specific_overrides: left } = await patch(world, { gc_horizon: null, gc_period: "2h" });
  const { gc_horizon: _, ...rest } = all;
  assert.deepEqual(left, { ...rest, gc_period: "2h" });
  // What is refused changes nothing, whatever else is in the request.
  for (const [status, bad] of [
    [400, { checkpoint_distance: 5 }],
    [400, { gc_period: 20 }],
    [400, { compaction_threshold: "3" }],
    [501, { eviction_policy: { kind: "NoEviction" } }],
  ] as const) {
    const body = { tenant_id: TENANT, pitr_interval: "1s", ...bad };
    await lab.refused("PATCH /v1/tenant/config", status, { body });
    await lab.refused("PUT /v1/tenant/config", status, { body });
  }
  assert.deepEqual(fieldsOf(await configOf(world))["tenant_specific_overrides"], left);
  // Many at once: none is lost.
  const names = ["gc_horizon", "checkpoint_distance", "compaction_target_size"];
  await Promise.all(names.map((name) => patch(world, { [name]: 32 << 20 })));
  const merged = fieldsOf(fieldsOf(await configOf(world))["tenant_specific_overrides"]);
  assert.deepEqual(
    names.map((name) => merged[name]),
    names.map(() => 32 << 20),
  );
  assert.match(
    readFileSync(join(workdir, "tenants", TENANT, "tenant.json"), "utf8"),
    /"gc_period_ms": 7200000/,
  );
  const none = fieldsOf(await lab.ok("PUT /v1/tenant/config", { body: { tenant_id: TENANT } }));
  assert.deepEqual(none["tenant_specific_overrides"], {});
}

async function write({ compute }: World, megabytes: number): Promise<void> {
  for (let i = 0; i < megabytes; i++) {
    await compute.query("insert into t select repeat(md5(i::text), 30) from generate_series(1, 1000) i");
  }
}

async function layers({ lab, main }: World): Promise<Record<string, unknown>[]> {
  const map = fieldsOf(await lab.ok(`GET ${TL}/layer`, { path: { timeline: main } }));
  return listOf(map["historic_layers"]);
}

async function deltas(world: World): Promise<Record<string, unknown>[]> {
  return (await layers(world)).filter(({ kind }) => kind === "Delta");
}

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, what);
    await sleep(50);
  }
}

async function distance(world: World): Promise<void> {
  const before = (await layers(world)).length;
  await patch(world, { checkpoint_distance: 64 << 20 });
  await write(world, 4);
  const unflushed = (await layers(world)).length;
  await patch(world, { checkpoint_distance: 1 << 20 });
  await write(world, 6);
  await until("layers are written", async () => (await layers(world)).length >= unflushed + 4);
  assert.equal(unflushed, before);
}

async function merging(world: World): Promise<void> {
  const flushed = async (): Promise<number> => (await deltas(world)).filter(({ l0 }) => l0 === true).length;
  assert.ok((await flushed()) >= 4);
  await patch(world, { compaction_threshold: 3, compaction_period: "50ms" });
  await until("layers are merged", async () => (await flushed()) < 3);
  await patch(world, { compaction_threshold: null, compaction_period: null });
}

async function images(world: World): Promise<void> {
  const count = async (): Promise<number> =>
    (await layers(world)).filter(({ kind }) => kind === "Image").length;
  const before = await count();
  await patch(world, { image_creation_threshold: 1, compaction_period: "50ms" });
  await until("there is an image", async () => (await count()) > before);
  await patch(world, { image_creation_threshold: null, compaction_period: null });
}

async function targetSize(world: World): Promise<void> {
  const { lab, main } = world;
  await patch(world, { compaction_target_size: 1 << 20 });
  await write(world, 6);
  await lab.ok(`PUT ${TL}/compact`, { path: { timeline: main } });
  const newest = (await deltas(world)).map(({ layer_file_size: size }) => Number(size));
  assert.ok(newest.length >= 4, newest.join());
  await patch(world, { compaction_target_size: null });
}

async function timeout(world: World): Promise<void> {
  await patch(world, { checkpoint_distance: null, checkpoint_timeout: "1s" });
  const { lab, compute, main } = world;
  await compute.query("insert into t values ('old')");
  const lsn = await compute.value("select pg_current_wal_flush_lsn()::text");
  await until("the layer is written", async () => {
    const map = fieldsOf(await lab.ok(`GET ${TL}/layer`, { path: { timeline: main } }));
    const [open] = listOf(map["in_memory_layers"]);
    return open === undefined || number(open["lsn_start"]) >= number(lsn);
  });
  await patch(world, { checkpoint_timeout: null });
}

function number(lsn: unknown): number {
  const [high = "", low = ""] = String(lsn).split("/");
  return Number.parseInt(high, 16) * 2 ** 32 + Number.parseInt(low, 16);
}

async function garbage(world: World): Promise<void> {
  const { lab, main } = world;
  const cutoff = async (): Promise<number> =>
    number(fieldsOf(await lab.ok(`GET ${TL}`, { path: { timeline: main } }))["applied_gc_cutoff_lsn"]);
  const before = await cutoff();
  await patch(world, { gc_horizon: 0, pitr_interval: "0s" });
  assert.equal(await cutoff(), before);
  await patch(world, { gc_period: "100ms" });
  await until("the cutoff moves", async () => (await cutoff()) > before);
  await patch(world, { gc_horizon: null, pitr_interval: null, gc_period: null });
}

async function leases(world: World): Promise<void> {
  const { lab, main } = world;
  const path = { timeline: main };
  const lsn = String(fieldsOf(await lab.ok(`GET ${TL}`, { path }))["last_record_lsn"]);
  const query = { timestamp: "2099-01-01T00:00:00Z", with_lease: "true" };
  const lengths = async (): Promise<number[]> => {
    const asked = Date.now();
    const lease = fieldsOf(await lab.ok(`POST ${TL}/lsn_lease`, { path, body: { lsn } }));
    const timed = fieldsOf(await lab.ok(`GET ${TL}/get_lsn_by_timestamp`, { path, query }));
    return [lease, timed].map(({ valid_until: until }) => Date.parse(String(until)) - asked);
  };
  const [usual = 0] = await lengths();
  assert.ok(usual >= 600_000 && usual < 700_000, String(usual));
  await patch(world, { lsn_lease_length: "2h", lsn_lease_length_for_ts: "1h" });
  const [long = 0, timed = 0] = await lengths();
  assert.ok(long >= 7_200_000 && timed >= 3_600_000 && timed < 7_200_000, `${long}, ${timed}`);
}

async function generationOf({ lab }: World): Promise<unknown> {
  return fieldsOf(await lab.ok(`GET ${T}`, { path: { tenant: OTHER } }))["generation"];
}

async function another(world: World): Promise<void> {
  const { lab } = world;
  await lab.ok("POST /v1/tenant", { body: { tenant_id: OTHER, pg_version: 17 } });
  const config = async (): Promise<Record<string, unknown>> =>
    fieldsOf(await lab.ok(`GET ${T}/config`, { path: { tenant: OTHER } }));
  assert.deepEqual((await config())["tenant_specific_overrides"], {});
  // Of all that clients of the original send along, what there is here counts.
  const conf = { gc_period: "3h", eviction_policy: { kind: "NoEviction" }, checkpoint_distance: null };
  const put = { path: { tenant: OTHER }, body: { mode: "AttachedSingle", generation: 1, tenant_conf: conf } };
  await lab.ok(`PUT ${T}/location_config`, put);
  assert.deepEqual((await config())["tenant_specific_overrides"], { gc_period: "3h" });
  // The generation is the client's own, and never goes back.
  assert.equal(await generationOf(world), 1);
  await lab.ok(`PUT ${T}/location_config`, { ...put, body: { ...put.body, generation: 5 } });
  const older = { ...put, body: { ...put.body, generation: 4 } };
  assert.match(await lab.refused(`PUT ${T}/location_config`, 400, older), /there was 5 already/);
  assert.equal(await generationOf(world), 5);
  const wrong = { ...put, body: { ...put.body, generation: 5, tenant_conf: { gc_period: "soon" } } };
  await lab.refused(`PUT ${T}/location_config`, 400, wrong);
  await lab.ok(`PUT ${T}/location_config`, { ...put, body: { ...put.body, generation: 5, tenant_conf: {} } });
  assert.deepEqual((await config())["tenant_specific_overrides"], {});
}
