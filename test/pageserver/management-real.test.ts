/**
 * The routes of a real pageserver with a real database: every operation of the OpenAPI document is asked, every answer
 * must be as the document says, and what the answers say must be so.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { OPERATIONS } from "../../src/pageserver/service/openapi/operations.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { ApiLab, type Ask, fieldsOf, isFields, listOf } from "./api-lab.ts";
import { Child, configure } from "./child.ts";
import { TENANT, TempDirectory } from "./harness.ts";
import { clientOf, extract, importMain, startWriter } from "./real-compute.ts";

const T = "/v1/tenant/:tenant";
const TL = `${T}/timeline/:timeline`;
const OTHER = "b".repeat(32);

interface World {
  readonly lab: ApiLab;
  readonly compute: TestPostgres;
  readonly main: string;
  readonly workdir: string;
}

void test("management routes, with real data", { timeout: 300_000 }, async (t) => {
  using directory = new TempDirectory();
  const workdir = configure(directory, 'checkpoint_distance = "4MB"\ncompaction_period = 0\ngc_period = 0\n');
  await using server = new Child("real-pageserver.ts", workdir);
  const url = await server.ready();
  const client = clientOf(url);
  const main = await importMain(client);
  await using compute = await extract(client, main, { readOnly: false });
  await startWriter(client, main, "main", compute);
  await compute.query("create table t (id int primary key, v text)");
  await compute.query("insert into t select i, repeat('x', 100) from generate_series(1, 30000) i");
  const world: World = { lab: await ApiLab.of(url), compute, main, workdir };
  await t.test("tenants", () => tenants(world));
  await t.test("timelines", () => timelines(world));
  await t.test("moments", () => moments(world));
  await t.test("layers, key space and pages", () => layers(world));
  await t.test("settings of a tenant", () => config(world));
  await t.test("upkeep", () => upkeep(world));
  await t.test("branches, leases, files", () => branches(world));
  await t.test("deletion", () => deletion(world));
  await compute.stop();
  await t.test("what needs a compute that has stopped", () => stopped(world));
  await t.test("server and users", () => serverRoutes(world));
  await t.test("every operation of the document was asked", () => {
    const missing = Object.keys(OPERATIONS).filter((route) => !world.lab.asked.has(route));
    assert.deepEqual(missing, []);
  });
});

function onMain({ main }: World, ask: Ask = {}): Ask {
  return { ...ask, path: { timeline: main, ...ask.path } };
}

async function tenants({ lab }: World): Promise<void> {
  const [only, ...others] = listOf(await lab.ok("GET /v1/tenant"));
  assert.deepEqual(others, []);
  assert.deepEqual(
    [only?.["id"], only?.["tenant_id"], only?.["state"]],
    [TENANT, TENANT, { slug: "Active" }],
  );
  assert.ok(Number(only?.["current_physical_size"]) > 10_000_000);
  const details = fieldsOf(await lab.ok(`GET ${T}`));
  assert.equal((details["timelines"] as unknown[]).length, 1);
  assert.equal(details["walredo"], null);
  const put = { path: { tenant: OTHER }, body: { mode: "AttachedSingle", generation: 1, tenant_conf: {} } };
  const location = fieldsOf(await lab.ok(`PUT ${T}/location_config`, put));
  assert.deepEqual(location["shards"], [{ node_id: 1, shard_id: OTHER }]);
  // Once more: it is there already.
  await lab.ok(`PUT ${T}/location_config`, put);
  assert.equal(listOf(await lab.ok("GET /v1/tenant")).length, 2);
  const detached = { path: { tenant: OTHER }, body: { mode: "Detached", tenant_conf: {} } };
  await lab.refused(`PUT ${T}/location_config`, 501, detached);
  const odd = { path: { tenant: OTHER }, body: { mode: "Loose" } };
  assert.match(await lab.refused(`PUT ${T}/location_config`, 400, odd), /must be one of AttachedSingle/);
  await lab.ok(`DELETE ${T}`, { path: { tenant: OTHER } });
  await lab.refused(`GET ${T}`, 404, { path: { tenant: OTHER } });
  await lab.ok("POST /v1/tenant", { body: { tenant_id: OTHER, pg_version: 16 } });
  await lab.ok(`DELETE ${T}`, { path: { tenant: OTHER } });
}

async function timelines(world: World): Promise<void> {
  const { lab, main, compute } = world;
  const info = fieldsOf(await lab.ok(`GET ${TL}`, onMain(world)));
  assert.equal(info["timeline_id"], main);
  assert.equal(info["pg_version"], 17);
  assert.equal(info["state"], "Active");
  assert.match(String(info["wal_source_connstr"]), /^host=\S+ port=\d+ user=postgres$/);
  // A record that is under way may have been received in part.
  const [received = 0, last = 0] = [info["last_received_msg_lsn"], info["last_record_lsn"]].map((lsn) =>
    Number.parseInt(String(lsn).replace(/^0\//, ""), 16),
  );
  assert.ok(received >= last && last > 0, `${received} and ${last}`);
  const heardMs = Number(info["last_received_msg_ts"]) / 1000;
  assert.ok(heardMs > Date.now() - 600_000 && heardMs <= Date.now(), String(heardMs));
  const databases = Number(await compute.value("select count(*)::int from pg_database"));
  assert.equal(fieldsOf(info["directory_entries_counts"])["Db"], databases);
  const bytes = Number(await compute.value("select sum(pg_database_size(oid))::text from pg_database"));
  const logical = Number(info["current_logical_size"]);
  // Free space maps and files that are no relations are not in it.
  assert.ok(logical > bytes * 0.7 && logical < bytes * 1.1, `${logical} against ${bytes}`);
  const all = listOf(await lab.ok(`GET ${T}/timeline`));
  assert.equal(all.length, 1);
  const both = fieldsOf(await lab.ok(`GET ${T}/timeline_and_offloaded`));
  assert.deepEqual(
    [listOf(both["timelines"]).map(({ timeline_id: one }) => one), both["offloaded"]],
    [[main], []],
  );

  const id = "c".repeat(32);
  const make = { new_timeline_id: id, ancestor_timeline_id: main };
  const made = fieldsOf(await lab.ok(`POST ${T}/timeline`, { body: { ...make, pg_version: 17 } }));
  assert.equal(made["ancestor_timeline_id"], main);
  assert.equal(made["ancestor_lsn"], made["last_record_lsn"]);
  assert.deepEqual(made["branches"], ["timeline-cccccccc"]);
  // The same once more is the same; another start is a conflict.
  const again = fieldsOf(
    await lab.ok(`POST ${T}/timeline`, { body: { ...make, ancestor_start_lsn: made["ancestor_lsn"] } }),
  );
  assert.equal(again["ancestor_lsn"], made["ancestor_lsn"]);
  const elsewhere = { ...make, ancestor_start_lsn: info["initdb_lsn"] };
  await lab.refused(`POST ${T}/timeline`, 409, { body: elsewhere });
  const never = { ...make, new_timeline_id: "d".repeat(32), ancestor_start_lsn: "0/10" };
  assert.match(await lab.refused(`POST ${T}/timeline`, 406, { body: never }), /invalid branch start lsn/);
  await lab.refused(`POST ${T}/timeline`, 400, { body: { ...make, pg_version: 16 } });
  await lab.refused(`POST ${T}/timeline`, 501, { body: { new_timeline_id: id, pg_version: 17 } });
  await lab.refused(`POST ${T}/timeline`, 404, {
    body: { ...make, ancestor_timeline_id: id.replace("c", "e") },
  });
}

async function moments(world: World): Promise<void> {
  const { lab, main, compute } = world;
  const insert = async (id: number): Promise<{ lsn: string; time: string }> => {
    await compute.query(`insert into t values (${id}, 'moment')`);
    const time = await compute.value(
      "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    return { lsn: String(fieldsOf(await lab.ok(`GET ${TL}`, onMain(world)))["last_record_lsn"]), time };
  };
  const before = await insert(100_001);
  await insert(100_002);
  const at = async (timestamp: string): Promise<Record<string, unknown>> =>
    fieldsOf(
      await lab.ok(`GET ${TL}/get_lsn_by_timestamp`, onMain(world, { query: { timestamp, unknown: "1" } })),
    );
  assert.equal((await at(before.time))["kind"], "present");
  assert.equal((await at("2099-01-01T00:00:00Z"))["kind"], "future");
  assert.equal((await at("2001-01-01T00:00:00Z"))["kind"], "past");
  const leased = onMain(world, { query: { timestamp: before.time, with_lease: "true" } });
  const { lsn, valid_until: until } = fieldsOf(await lab.ok(`GET ${TL}/get_lsn_by_timestamp`, leased));
  assert.ok(Date.parse(String(until)) > Date.now());
  await lab.refused(`GET ${TL}/get_lsn_by_timestamp`, 400, onMain(world, { query: { timestamp: "noon" } }));

  const told = await lab.ok(`GET ${TL}/get_timestamp_of_lsn`, onMain(world, { query: { lsn: String(lsn) } }));
  assert.ok(Date.parse(String(told)) <= Date.parse(before.time));
  await lab.refused(`GET ${TL}/get_timestamp_of_lsn`, 404, onMain(world, { query: { lsn: "FFFF/0" } }));

  await lab.ok(`POST ${TL}/lsn_lease`, onMain(world, { body: { lsn } }));
  await lab.refused(`POST ${TL}/lsn_lease`, 412, onMain(world, { body: { lsn: "FFFF/0" } }));

  const timeout = { secs: 0, nanos: 50_000_000 };
  const reached = fieldsOf(await lab.ok(`POST ${T}/wait_lsn`, { body: { [main]: lsn, timeout } }));
  assert.deepEqual(reached, { [main]: true });
  const not = fieldsOf(await lab.ok(`POST ${T}/wait_lsn`, { body: { [main]: "FFFF/0", timeout: 0 } }));
  assert.deepEqual(not, { [main]: false });
  const text = fieldsOf(await lab.ok(`POST ${T}/wait_lsn`, { body: { [main]: "FFFF/0", timeout: "5ms" } }));
  assert.deepEqual(text, { [main]: false });
  await lab.refused(`POST ${T}/wait_lsn`, 400, { body: { [main]: lsn, timeout: "soon" } });
  await lab.refused(`POST ${T}/wait_lsn`, 400, { body: { main: lsn } });
}

async function layers(world: World): Promise<void> {
  const { lab, compute, main, workdir } = world;
  const map = fieldsOf(await lab.ok(`GET ${TL}/layer`, onMain(world)));
  const files = listOf(map["historic_layers"]);
  assert.ok(files.some(({ kind }) => kind === "Delta") && files.some(({ kind }) => kind === "Image"));
  for (const file of files) {
    const name = String(file["layer_file_name"]);
    const path = join(workdir, "tenants", TENANT, "timelines", main, "layers", name);
    assert.equal(statSync(path).size, file["layer_file_size"]);
  }
  await accesses(world);
  const name = String(files[0]?.["layer_file_name"]);
  const bytes = await lab.ok(`GET ${TL}/layer/:name`, onMain(world, { path: { name } }));
  assert.ok(bytes instanceof Uint8Array && bytes.length === files[0]?.["layer_file_size"]);
  assert.equal(Buffer.from(bytes.subarray(0, 8)).toString(), "NEONLAYR");
  await lab.ok(`DELETE ${TL}/layer/:name`, onMain(world, { path: { name } }));
  for (const other of ["../metadata.json", "x", "index.json"]) {
    await lab.refused(`GET ${TL}/layer/:name`, 404, onMain(world, { path: { name: other } }));
    await lab.refused(`DELETE ${TL}/layer/:name`, 404, onMain(world, { path: { name: other } }));
  }
  await lab.ok(`GET ${TL}/layer/:name`, onMain(world, { path: { name } }));

  await compute.query("checkpoint");
  const fields =
    "(select oid from pg_tablespace where spcname = 'pg_default') as spc, (select oid from pg_database where datname = current_database()) as db, pg_relation_filenode('t') as rel, pg_relation_size('t') / 8192 as blocks";
  const [row] = await compute.query(`select ${fields}`);
  const { spc, db, rel, blocks } = fieldsOf(row);
  const key = (block: number): string =>
    ["00", ...[spc, db, rel].map((value) => hex(Number(value))), "00", hex(block)].join("").toUpperCase();
  const space = fieldsOf(await lab.ok(`GET ${TL}/keyspace`, onMain(world)));
  const ranges = space["keys"] as [string, string][];
  assert.ok(ranges.some(([from, to]) => from === key(0) && to === key(Number(blocks))));
  assert.deepEqual(
    ranges.map(([from]) => from),
    ranges.map(([from]) => from).sort(),
  );

  // The page is the one that Postgres has, up to hint bits and checksum; so is the size.
  for (const before of [`GET ${TL}/keyspace`, `GET ${TL}/getpage`]) {
    const query = { key: key(0), lsn: "0/8", at_lsn: "0/8" };
    assert.match(await lab.refused(before, 404, onMain(world, { query })), /lies before the history of/);
  }
  const page = await lab.ok(`GET ${TL}/getpage`, onMain(world, { query: { key: key(0) } }));
  assert.ok(page instanceof Uint8Array && page.length === 8192);
  const size = await lab.ok(`GET ${TL}/getpage`, onMain(world, { query: { key: key(0xffffffff) } }));
  assert.ok(size instanceof Uint8Array);
  assert.equal(new DataView(size.buffer).getUint32(0, true), Number(blocks));
  const past = onMain(world, { query: { key: key(0), lsn: String(space["at_lsn"]) } });
  assert.deepEqual(await lab.ok(`GET ${TL}/getpage`, past), page);
  const xact = `01${hex(0)}${hex(1)}${hex(0)}00${hex(0)}`;
  const slru = await lab.ok(`GET ${TL}/getpage`, onMain(world, { query: { key: xact } }));
  assert.ok(slru instanceof Uint8Array && slru.length === 8192 && slru.some((byte) => byte !== 0));
  const none = `00${hex(1663)}${hex(1)}${hex(99_999_999)}00${hex(0)}`;
  await lab.refused(`GET ${TL}/getpage`, 404, onMain(world, { query: { key: none } }));
  for (const bad of ["", "00", "G".repeat(36), `62${"0".repeat(34)}`]) {
    await lab.refused(`GET ${TL}/getpage`, 400, onMain(world, { query: { key: bad } }));
  }
}

interface Access {
  readonly access_time: number;
  readonly residence_time: number;
  readonly visible: boolean;
  readonly access_count: number;
}

async function accessesOf(world: World): Promise<Access[]> {
  const map = fieldsOf(await world.lab.ok(`GET ${TL}/layer`, onMain(world)));
  return listOf(map["historic_layers"]).map(({ access_stats: access }) => access as Access);
}

/** A base backup reads all layers, and that shows. */
async function accesses(world: World): Promise<void> {
  const before = await accessesOf(world);
  await world.lab.ok(`GET ${TL}/basebackup`, onMain(world));
  const after = await accessesOf(world);
  for (const [index, { access_time, residence_time, visible, access_count }] of after.entries()) {
    assert.ok(access_count > (before[index]?.access_count ?? 0), `${index}: ${access_count}`);
    assert.ok(access_time >= (before[index]?.access_time ?? 0) && access_time <= Date.now());
    assert.ok(residence_time > Date.now() - 600_000 && residence_time <= access_time + 1000);
    assert.equal(visible, true);
  }
}

function hex(value: number): string {
  return value.toString(16).padStart(8, "0");
}

async function config({ lab }: World): Promise<void> {
  const usual = fieldsOf(await lab.ok(`GET ${T}/config`));
  assert.deepEqual(usual["tenant_specific_overrides"], {});
  assert.equal(fieldsOf(usual["effective_config"])["pitr_interval"], "7days");
  const put = (body: object): Promise<unknown> =>
    lab.ok("PUT /v1/tenant/config", { body: { tenant_id: TENANT, ...body } });
  const patch = (body: object): Promise<unknown> =>
    lab.ok("PATCH /v1/tenant/config", { body: { tenant_id: TENANT, ...body } });
  const own = async (answer: Promise<unknown>): Promise<unknown> =>
    fieldsOf(await answer)["tenant_specific_overrides"];
  assert.deepEqual(await own(put({ gc_horizon: 1000, pitr_interval: "1h 30m" })), {
    gc_horizon: 1000,
    pitr_interval: "1h 30m",
  });
  assert.deepEqual(await own(patch({ gc_horizon: 5 })), { gc_horizon: 5, pitr_interval: "1h 30m" });
  assert.deepEqual(await own(patch({ pitr_interval: null })), { gc_horizon: 5 });
  assert.deepEqual(await own(put({ pitr_interval: "7 days" })), { pitr_interval: "7days" });
  for (const pitr of ["", "soon", "5", "1 fortnight", "9999999 weeks"]) {
    await lab.refused("PUT /v1/tenant/config", 400, { body: { tenant_id: TENANT, pitr_interval: pitr } });
  }
  await lab.refused("PUT /v1/tenant/config", 501, { body: { tenant_id: TENANT, eviction_policy: {} } });
  const misspelt = { body: { tenant_id: TENANT, gc_perod: "1s" } };
  assert.match(await lab.refused("PATCH /v1/tenant/config", 400, misspelt), /"gc_perod" is no setting/);
  await lab.refused("PUT /v1/tenant/config", 404, { body: { tenant_id: OTHER } });
}

async function upkeep(world: World): Promise<void> {
  const { lab } = world;
  await lab.ok(`PUT ${TL}/checkpoint`, onMain(world, { query: { wait_until_uploaded: "true" } }));
  await lab.ok(`PUT ${TL}/compact`, onMain(world, { query: { force_image_layer_creation: "true" } }));
  // What tells of the history alone lies in a file of its own, which reads at the end do not need.
  assert.ok((await accessesOf(world)).some(({ visible }) => !visible));
  const kept = fieldsOf(await lab.ok(`PUT ${TL}/do_gc`, onMain(world)));
  // From here on the tenant keeps next to nothing, as its own settings say.
  const settings = { tenant_id: TENANT, gc_horizon: 0, pitr_interval: "0s" };
  await lab.ok("PUT /v1/tenant/config", { body: settings });
  const collected = fieldsOf(await lab.ok(`PUT ${TL}/do_gc`, onMain(world)));
  await lab.ok(`PUT ${TL}/do_gc`, onMain(world, { body: { gc_horizon: 1000 } }));
  assert.equal(kept["layers_removed"], 0);
  assert.ok(Number(collected["layers_removed"]) > 0, JSON.stringify(collected));
  await lab.ok(`POST ${T}/gc`, { body: { dry_run: true } });
  await lab.ok(`POST ${T}/compact`);
  await lab.ok(`GET ${T}/du`);
}

async function branches(world: World): Promise<void> {
  const { lab, main } = world;
  await lab.ok(`POST ${T}/branch`, { body: { name: "dev", point: { branch: "main" } } });
  await lab.ok(`GET ${T}/branch`);
  const dev = fieldsOf(await lab.ok(`GET ${T}/branch/:name`, { path: { name: "dev" } }));
  await lab.ok(`POST ${T}/branch/:name/rename`, { path: { name: "dev" }, body: { new_name: "feature/x" } });
  await lab.ok(`DELETE ${T}/branch/:name`, { path: { name: "feature/x" } });
  const old = { tenant_id: TENANT, name: "old", start_point: `main@${String(dev["last_record_lsn"])}` };
  const made = fieldsOf(await lab.ok("POST /v1/branch", { body: old }));
  assert.equal(made["ancestor_id"], main);
  assert.equal(listOf(await lab.ok("GET /v1/branch/:tenant")).length, 3);
  await lab.ok("GET /v1/branch/:tenant/:name", { path: { name: "old" } });
  const { lsn } = fieldsOf(
    await lab.ok(`POST ${TL}/resolve`, onMain(world, { body: { lsn: dev["last_record_lsn"] } })),
  );
  await lab.ok(`POST ${TL}/commit_time`, onMain(world, { body: { lsn } }));
  await lab.ok(`POST ${TL}/wait`, onMain(world, { body: { lsn, timeout_ms: 1000 } }));
  await lab.ok(`POST ${TL}/lease`, onMain(world, { body: { name: "l", lsn, duration_ms: 60_000 } }));
  await lab.ok(`GET ${TL}/lease`, onMain(world));
  await lab.ok(`DELETE ${TL}/lease/:name`, onMain(world, { path: { name: "l" } }));
  await lab.ok(`GET ${T}/fsck`);
  await lab.ok(`POST ${T}/repair`, { body: { apply: false } });
}

async function deletion(world: World): Promise<void> {
  const { lab } = world;
  assert.match(await lab.refused(`DELETE ${TL}`, 412, onMain(world)), /has children/);
  const made = { path: { timeline: "c".repeat(32) } };
  await lab.ok(`DELETE ${TL}`, made);
  await lab.refused(`DELETE ${TL}`, 404, made);
  await lab.refused(`GET ${TL}`, 404, made);
  await lab.ok(`DELETE ${T}/branch/:name`, { path: { name: "old" } });
  // Somebody writes to it.
  assert.match(await lab.refused(`DELETE ${TL}`, 409, onMain(world)), /in use by compute "main"/);
}

async function stopped(world: World): Promise<void> {
  const { lab, compute } = world;
  const info = fieldsOf(await lab.ok(`GET ${T}/branch/:name`, { path: { name: "main" } }));
  const epoch = String(fieldsOf(info["writer"])["epoch"]);
  const { lsn } = fieldsOf(await lab.ok(`DELETE ${TL}/writer/:epoch`, onMain(world, { path: { epoch } })));
  const verify = onMain(world, { body: { directory: compute.dataDir, lsn } });
  const found = fieldsOf(await lab.ok(`POST ${TL}/verify`, verify));
  assert.deepEqual(found["differences"], []);
  const plan = fieldsOf(await lab.ok(`POST ${TL}/recovery`, onMain(world, { body: { lsns: [lsn] } })));
  const [step] = listOf(plan["steps"]);
  const query = { checkpoint: String(step?.["checkpoint_lsn"]), lsn: String(step?.["lsn"]) };
  await lab.ok(`GET ${TL}/recovery`, onMain(world, { query }));
  await lab.ok(`GET ${TL}/basebackup`, onMain(world, { query: { lsn: String(lsn) } }));
  const future = {
    new_timeline_id: "d".repeat(32),
    ancestor_timeline_id: world.main,
    ancestor_start_lsn: "FFFF/0",
  };
  assert.match(await lab.refused(`POST ${T}/timeline`, 406, { body: future }), /lies in the future/);
  const source = { host: "127.0.0.1", port: 1, user: "postgres" };
  const opened = fieldsOf(await lab.ok(`POST ${TL}/writer`, onMain(world, { body: { name: "x", source } })));
  await lab.ok(`DELETE ${TL}/writer/:epoch`, onMain(world, { path: { epoch: String(opened["epoch"]) } }));

  // A directory that was stopped can be imported into another tenant, in two ways.
  await lab.ok("POST /v1/tenant", { body: { tenant_id: OTHER, pg_version: 17 } });
  const tar = Buffer.concat(await chunksOf(packDataDirectory(compute.dataDir)));
  const imported = { tenant: OTHER, timeline: "d".repeat(32) };
  const wrong = { path: imported, query: { end_lsn: "0/10" }, body: tar };
  assert.match(await lab.refused(`PUT ${TL}/import_basebackup`, 400, wrong), /ends at/);
  const right = { path: imported, query: { base_lsn: String(lsn), pg_version: "17" }, body: tar };
  const timeline = fieldsOf(await lab.ok(`PUT ${TL}/import_basebackup`, right));
  assert.equal(timeline["ancestor_timeline_id"], null);
  await lab.ok(`POST ${T}/import`, { path: { tenant: OTHER }, query: { branch: "again" }, body: tar });

  // It goes on by itself, and what it has written follows.
  compute.configure({ synchronous_standby_names: "", autovacuum: "off" });
  await compute.start();
  await compute.query("insert into t values (200001, 'more')");
  const end = await compute.value("select pg_current_wal_insert_lsn()::text");
  await compute.query("select pg_switch_wal()");
  await compute.stop();
  const wal = join(compute.dataDir, "pg_wal");
  const segments = readdirSync(wal).filter((name) => /^[0-9A-F]{24}$/.test(name));
  const archive = execFileSync("tar", ["-cf", "-", "-C", wal, ...segments], { maxBuffer: 2 ** 30 });
  const from = String(timeline["last_record_lsn"]);
  const follow = (query: Record<string, string>): Ask => ({ path: imported, query, body: archive });
  await lab.refused(`PUT ${TL}/import_wal`, 400, follow({ start_lsn: from }));
  await lab.refused(`PUT ${TL}/import_wal`, 409, follow({ start_lsn: "0/10", end_lsn: end }));
  const grown = fieldsOf(await lab.ok(`PUT ${TL}/import_wal`, follow({ start_lsn: from, end_lsn: end })));
  assert.equal(grown["last_record_lsn"], end);
}

async function chunksOf(stream: AsyncIterable<unknown>): Promise<Buffer[]> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) if (chunk instanceof Uint8Array) chunks.push(Buffer.from(chunk));
  return chunks;
}

async function serverRoutes({ lab }: World): Promise<void> {
  const status = fieldsOf(await lab.ok("GET /v1/status"));
  assert.deepEqual([status["id"], status["state"]], [1, "ready"]);
  const metrics = await lab.ok("GET /metrics");
  assert.ok(metrics instanceof Uint8Array);
  const text = Buffer.from(metrics).toString();
  assert.match(
    text,
    /^neon_timeline_layers\{tenant="\w+",branch="main",timeline="\w+",kind="image"\} [1-9]/m,
  );
  for (const cache of ["pages", "blocks", "index"]) {
    assert.match(text, new RegExp(`^neon_cache_hits_total\\{cache="${cache}"\\} [1-9]`, "m"));
  }
  const document = fieldsOf(await lab.ok("GET /v1/openapi.json"));
  const yaml = await lab.ok("GET /swagger.yml");
  assert.ok(yaml instanceof Uint8Array);
  assert.deepEqual(JSON.parse(Buffer.from(yaml).toString()), document);
  await lab.ok("GET /v1/doc");
  const full = fieldsOf(await lab.ok("GET /v1/utilization"));
  const wanted = listOf(await lab.ok("GET /v1/tenant")).reduce(
    (sum, { current_physical_size: size }) => sum + Number(size),
    0,
  );
  assert.equal(full["disk_wanted_bytes"], wanted);
  const disk = Number(full["disk_usage_bytes"]) + Number(full["free_space_bytes"]);
  assert.equal(full["utilization_score"], Math.ceil((wanted / disk) * 1e6));
  const verifier = `SCRAM-SHA-256$4096:${"A".repeat(22)}==$${"A".repeat(43)}=:${"A".repeat(43)}=`;
  await lab.ok("POST /v1/user", { body: { name: "u", verifier, tenants: [TENANT] } });
  const users = fieldsOf(await lab.ok("GET /v1/user"));
  assert.equal(listOf(users["users"]).length, 1);
  await lab.ok("DELETE /v1/user/:name", { path: { name: "u" } });
  const keys = await lab.send("POST /v1/reload_auth_validation_keys", { body: {} });
  assert.ok(keys.status === 400 && isFields(keys.json));
  lab.asked.add("POST /v1/reload_auth_validation_keys");
}
