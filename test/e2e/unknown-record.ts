/** A record that no version of the pageserver will understand, put where only a server can put one. */
import assert from "node:assert/strict";
import { closeSync, openSync, readdirSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseLsn } from "../../src/base/lsn.ts";
import { Repository } from "../../src/repository/repository.ts";
import { segmentName } from "../../src/postgres/wal/layout.ts";
import { WalBuilder } from "../support/wal-builder.ts";
import { type Lab, killAndWait } from "./support.ts";

const SEGMENT_SIZE = 16 << 20;
/** An extension's resource manager. */
const CUSTOM_RMGR = 130;

/** Kills the pageserver and adds the record to the WAL that it has stored of the branch. */
export async function appendUnknownRecord(lab: Lab, branch: string): Promise<void> {
  const info = (await lab.branches()).get(branch);
  const timeline = String(info?.["timeline_id"]);
  const lsn = String(info?.["last_record_lsn"]);
  const { config } = await Repository.find(lab.directory);
  const path = `/v1/tenant/${config.defaultTenantId}/timeline/${timeline}/basebackup?lsn=${lsn}&read_only=true`;
  const response = await fetch(`http://${config.pageserver.listen}${path}`, {
    headers: { authorization: `Bearer ${config.pageserver.authToken}` },
  });
  await response.body?.cancel();
  const start = parseLsn(lsn);
  const previous = parseLsn(response.headers.get("x-neon-previous-lsn") ?? "");
  assert(start !== undefined && previous !== undefined, `${branch} ends with a record`);
  await killAndWait(await lab.pageserverPid());
  const wal = new WalBuilder({ start, previous, segmentSize: SEGMENT_SIZE });
  wal.add({ rmgr: CUSTOM_RMGR, main: Uint8Array.of(1) });
  const name = segmentName(1, start, SEGMENT_SIZE);
  const files = readdirSync(lab.neonDirectory, { recursive: true, encoding: "utf8" });
  const segment = files.find((file) => file.includes(timeline) && file.endsWith(`wal/${name}`));
  assert(segment !== undefined, `segment ${name} of ${timeline} is stored`);
  const descriptor = openSync(join(lab.neonDirectory, segment), "r+");
  writeSync(descriptor, wal.bytes, 0, wal.bytes.length, start % SEGMENT_SIZE);
  closeSync(descriptor);
}
