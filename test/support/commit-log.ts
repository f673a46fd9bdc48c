/** Which transactions are committed at an LSN, from the WAL itself. */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Lsn } from "../../src/base/lsn.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { parseSegmentName } from "../../src/postgres/wal/layout.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";

export interface Commit {
  readonly xid: number;
  /** End of the commit record. */
  readonly lsn: Lsn;
}

/** All commits in a data directory's pg_wal between two LSNs, in order. */
export function readCommits(
  dataDir: string,
  options: { version: PgVersion; segmentSize: number; from: Lsn; to: Lsn },
): Commit[] {
  const { version, segmentSize, from, to } = options;
  const stream = new WalStream({ version, segmentSize, startLsn: from });
  const commits: Commit[] = [];
  const directory = join(dataDir, "pg_wal");
  const segments = readdirSync(directory)
    .flatMap((name) => {
      const parsed = parseSegmentName(name, segmentSize);
      return parsed ? [{ name, startLsn: parsed.startLsn }] : [];
    })
    .sort((a, b) => a.startLsn - b.startLsn);
  for (const { name, startLsn } of segments) {
    if (startLsn + segmentSize <= from || startLsn >= to) continue;
    const bytes = readFileSync(join(directory, name));
    const first = Math.max(from, startLsn);
    const last = Math.min(to, startLsn + segmentSize);
    stream.feed(first as Lsn, bytes.subarray(first - startLsn, last - startLsn));
    for (let record = stream.next(); record !== undefined; record = stream.next()) {
      if (record.rmgr !== Rmgr.Xact) continue;
      const xact = parseXactRecord(record, version);
      if (xact.kind === "commit" || xact.kind === "commit_prepared")
        commits.push({ xid: xact.xid, lsn: record.endLsn });
    }
  }
  return commits;
}
