/** The real program, the real client and real Postgres: import, writer, branches, and a kill -9 in between. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { PageserverClient } from "../../src/client/pageserver-client.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { TestPostgres } from "../support/postgres.ts";
import { Child, configure } from "./child.ts";
import { TENANT, TempDirectory } from "./harness.ts";
import { clientOf, extract, importMain, startWriter } from "./real-compute.ts";

async function rowsIn(client: PageserverClient, branch: string): Promise<string> {
  const { timelineId } = await client.getBranch(branch);
  await using server = await extract(client, timelineId, { readOnly: true });
  await server.start();
  return await server.value("select count(*)::int from t");
}

void test(
  "branches hold what was committed, also when the pageserver is killed in between",
  { timeout: 300_000 },
  async () => {
    using directory = new TempDirectory();
    const workdir = configure(directory, 'checkpoint_distance = "4MB"\n');
    let server = new Child("real-pageserver.ts", workdir);
    try {
      let client = clientOf(await server.ready());
      const main = await importMain(client);
      await using compute = await extract(client, main, { readOnly: false });
      await startWriter(client, main, "main", compute);
      await compute.query("create table t (id int primary key, v text)");
      await compute.query("insert into t select i, repeat('x', 100) from generate_series(1, 20000) i");
      const middle = await compute.lsn();
      const created = await client.createBranch("one", { branch: "main" });
      assert.equal(created.ancestor?.name, "main");
      await compute.query("insert into t values (20001, 'y')");

      server.signal("SIGKILL");
      assert.equal(await server.end(), "SIGKILL");
      // A commit that begins now waits for the pageserver to come back.
      const insert = compute.query("insert into t values (20002, 'z')");
      server = new Child("real-pageserver.ts", workdir);
      client = clientOf(await server.ready());
      await insert;
      const { writer } = await client.getBranch("main");
      assert.equal(writer?.name, "main");
      await client.createBranch("two", { branch: "main" });
      await client.createBranch("past", { branch: "main", lsn: middle });
      assert.equal(await rowsIn(client, "one"), "20000");
      assert.equal(await rowsIn(client, "two"), "20002");
      assert.equal(await rowsIn(client, "past"), "20000");

      await compute.stop();
      const shutdown = await client.getBranch("main");
      assert.ok(shutdown.writer);
      await client.closeWriter(main, shutdown.writer.epoch);
      server.signal("SIGTERM");
      assert.equal(await server.end(), 0, server.log);
      assert.deepEqual(errorsIn(server.log), []);
    } finally {
      await server[Symbol.asyncDispose]();
    }
  },
);

void test("an import that is no data directory is refused and leaves nothing", async () => {
  using directory = new TempDirectory();
  await using server = new Child("real-pageserver.ts", configure(directory));
  const client = clientOf(await server.ready());
  await client.createTenant({ pgVersion: 17 });
  const other = join(directory.path, "other");
  mkdirSync(other);
  writeFileSync(join(other, "PG_VERSION"), "17\n");
  const tar = packDataDirectory(other);
  await assert.rejects(client.importDataDirectory({ branch: "main", tar }), { name: "NeonError" });
  const timelines = join(directory.path, "tenants", TENANT, "timelines");
  const deadline = performance.now() + 10_000;
  while (readdirSync(timelines).length > 0) {
    assert.ok(performance.now() < deadline, "the half timeline is removed");
    await sleep(10);
  }
  // It can be run again.
  await using fresh = await TestPostgres.create({ start: false });
  await client.importDataDirectory({ branch: "main", tar: packDataDirectory(fresh.dataDir) });
  assert.equal((await client.listBranches()).length, 1);
});

/** Messages of level error and above; that stored WAL ends somewhere is none after a kill. */
function errorsIn(log: string): string[] {
  const lines = log.split("\n").filter((line) => line.startsWith("{"));
  return lines
    .map((line): { level: number; msg: string } => JSON.parse(line))
    .filter((line) => line.level >= 50)
    .map((line) => line.msg)
    .filter((message) => message !== "end of stored WAL");
}
