/**
 * A record that is not understood, here of an extension with a resource manager of its own: it stops its timeline, what came
 * before stays, and other timelines go on.
 */
import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { formatLsn } from "../../src/base/lsn.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { segmentName } from "../../src/postgres/wal/layout.ts";
import { type RecordSpec, WalBuilder } from "../support/wal-builder.ts";
import { Lab } from "./branch-harness.ts";

/** Puts a record behind the last one of a closed timeline's stored WAL, as if a server had written it. */
async function appendRecord(lab: Lab, timeline: Timeline, spec: RecordSpec): Promise<void> {
  const { previousLsn, endLsn } = await timeline.recordBoundary(timeline.lastRecordLsn);
  const { systemId, segmentSize, pgVersion } = timeline.cluster;
  await timeline.close();
  const start = { start: endLsn, previous: previousLsn };
  const wal = new WalBuilder({ ...start, systemId, segmentSize, magic: pgVersion.walPageMagic });
  wal.add(spec);
  const path = join(lab.directory, timeline.id, "wal", segmentName(1, endLsn, segmentSize));
  const file = openSync(path, "r+");
  writeSync(file, wal.bytes, 0, wal.bytes.length, endLsn % segmentSize);
  closeSync(file);
}

const CASES: readonly (readonly [string, RecordSpec, RegExp])[] = [
  [
    "an extension's resource manager",
    { rmgr: 129 },
    /resource manager custom 129 \(reserved for OrioleDB\) is not supported/,
  ],
  ["an unknown operation", { rmgr: 5, info: 0x70 }, /Tblspc has no operation 0x70/],
];

for (const [name, spec, message] of CASES) {
  test(`${name} stops the timeline, and what came before stays`, { timeout: 300_000 }, async () => {
    await using lab = new Lab();
    const main = await lab.init();
    const compute = await lab.compute(main);
    await compute.query("create table t as select 1 as i");
    await main.syncWithWriter(60_000);
    const other = await lab.branch(main);
    const otherCompute = await lab.compute(other);
    await compute.stop("immediate");
    const lsn = main.lastRecordLsn;
    await appendRecord(lab, main, { ...spec, main: Uint8Array.of(1, 2, 3, 4) });
    const stopped = await lab.reopen(main);
    await stopped.resume();
    assert.equal(stopped.state, "stopped");
    assert.match(stopped.error ?? "", new RegExp(`^WAL record at ${formatLsn(lsn)} cannot be ingested: `));
    assert.match(stopped.error ?? "", message);
    assert.equal(stopped.lastRecordLsn, lsn);
    const source = { socketDirectory: compute.socketDir, port: 1, user: "postgres" };
    await assert.rejects(
      stopped.openWriter({ name: "again", source }),
      (error) => error instanceof NeonError && error.code === ErrorCode.Unsupported,
    );
    // Other timelines go on.
    await otherCompute.query("insert into t values (3)");
    await other.syncWithWriter(60_000);
    assert.equal(other.error, undefined);
    await otherCompute.stop();
    const server = await lab.compute(await lab.branch(stopped, lsn));
    assert.equal(await server.value("select i from t"), "1");
    await server.query("insert into t values (2)");
  });
}
