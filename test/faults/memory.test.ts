/**
 * Many branches written to at once: the process stays under its memory limit, since the layers of all branches together
 * do, and nothing is lost. Needs `npm run build`.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../support/random.ts";
import { FakeCompute } from "./fake-compute.ts";
import { PageserverChild, TENANT } from "./pageserver-child.ts";
import { TINY_START, TinyWal, tinyTarBytes } from "./tiny-cluster.ts";

const MIB = 2 ** 20;
const BRANCHES = 50;
const WAL_BYTES = 4 * MIB;
const LIMIT_MIB = 384;
const WAIT_MS_MAX = 300_000;

test("fifty branches written to at once stay under the memory limit", { timeout: 600_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  const directory = mkdtempSync(join(tmpdir(), "neon-memory-"));
  const wal = new TinyWal(random, WAL_BYTES);
  await using stack = new AsyncDisposableStack();
  stack.defer(() => {
    rmSync(directory, { recursive: true, force: true });
  });
  const server = stack.use(
    new PageserverChild(directory, `memory_limit = "${LIMIT_MIB}MB"\ncache_size = "16MB"\n`),
  );
  await server.start();
  await server.ok("POST", "/v1/tenant", { tenant_id: TENANT, pg_version: 17 });
  await server.ok("POST", `${server.tenant}/import?branch=main`, tinyTarBytes());
  const computes: FakeCompute[] = [];
  for (let i = 0; i < BRANCHES; i++) {
    const place = mkdtempSync(join(directory, "c-"));
    const compute = stack.use(await FakeCompute.listen(wal, random, place));
    const name = `branch-${i}`;
    await server.ok("POST", `${server.tenant}/branch`, { name, point: { branch: "main" } });
    const { timeline_id: id } = await server.ok("GET", `${server.tenant}/branch/${name}`);
    const body = { name, source: compute.source };
    const { epoch, lsn } = await server.ok("POST", `${server.tenant}/timeline/${String(id)}/writer`, body);
    compute.begin(String(epoch), parseLsn(String(lsn)) ?? 0);
    computes.push(compute);
  }
  for (const compute of computes) compute.limit = wal.endLsn;
  const isDone = (compute: FakeCompute): boolean => compute.acknowledged >= wal.endLsn;
  for (const deadline = performance.now() + WAIT_MS_MAX; !computes.every(isDone); await sleep(20)) {
    assert.ok(performance.now() < deadline, `everything is acknowledged; the log:\n${server.log}`);
  }
  if (process.platform === "linux") {
    const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))?.[1]);
    t.diagnostic(`peak of resident memory: ${Math.round(peak / 1024)} MiB`);
    assert.ok(peak / 1024 < LIMIT_MIB, `${peak} kB`);
  }
  await server.kill();
  const killedAt = performance.now();
  await server.start();
  t.diagnostic(`ready again after ${((performance.now() - killedAt) / 1000).toFixed(1)} s`);
  const { branches } = await server.ok("GET", `${server.tenant}/branch`);
  for (const branch of branches as Record<string, unknown>[]) {
    const end = branch["name"] === "main" ? TINY_START : wal.endLsn;
    assert.ok((parseLsn(String(branch["last_record_lsn"])) ?? 0) >= end, String(branch["name"]));
  }
});
