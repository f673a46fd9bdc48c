/** WAL of a real server under pgbench, read from its segment files: for benchmarks of what takes it in. */
import { execFile } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { parseSegmentName } from "../src/postgres/wal/layout.ts";
import type { TestPostgres } from "../test/support/postgres.ts";

const SEGMENT = 16 << 20;
export const CHUNK = 128 << 10;

/** Runs pgbench of an installed Postgres against a server; returns what it prints. */
export async function pgbench(server: TestPostgres, ...args: string[]): Promise<string> {
  const where = ["-h", server.socketDir, "-p", String(server.port), "-U", "postgres"];
  const program = "/usr/lib/postgresql/15/bin/pgbench";
  return (await promisify(execFile)(program, [...where, ...args, "postgres"])).stdout;
}

/** All WAL of a stopped server from an LSN on, in chunks as a receiver sees them. */
export function* readWal(
  dataDir: string,
  from: number,
  to: number,
): Generator<{ lsn: number; bytes: Uint8Array }> {
  const names = readdirSync(join(dataDir, "pg_wal"))
    .filter((name) => parseSegmentName(name, SEGMENT) !== undefined)
    .sort();
  for (const name of names) {
    const start = parseSegmentName(name, SEGMENT)?.startLsn ?? 0;
    if (start + SEGMENT <= from || start >= to) continue;
    const bytes = readFileSync(join(dataDir, "pg_wal", name));
    for (let at = Math.max(from, start); at < Math.min(to, start + SEGMENT);) {
      const end = Math.min(at + CHUNK, start + SEGMENT, to);
      yield { lsn: at, bytes: bytes.subarray(at - start, end - start) };
      at = end;
    }
  }
}
