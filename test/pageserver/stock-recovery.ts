/** Stock Postgres' opinion of a moment: its own recovery from the first data directory to an LSN. */
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import { parseSegmentName } from "../../src/postgres/wal/layout.ts";
import type { Settings, TestPostgres } from "../support/postgres.ts";

/**
 * Makes an archive of all WAL since `startLsn`: the compute's segments, the first one completed with what the first
 * data directory has before that LSN (a compute's own begins there).
 */
export function archiveWal(
  base: TestPostgres,
  compute: TestPostgres,
  options: { startLsn: Lsn; segmentSize: number },
): string {
  const { startLsn, segmentSize } = options;
  const archive = join(base.root, "archive");
  mkdirSync(archive, { recursive: true });
  base.own(archive);
  for (const name of readdirSync(join(compute.dataDir, "pg_wal"))) {
    const segment = parseSegmentName(name, segmentSize);
    if (segment === undefined) continue;
    const target = join(archive, name);
    copyFileSync(join(compute.dataDir, "pg_wal", name), target);
    if (segment.startLsn < startLsn && startLsn < segment.startLsn + segmentSize) {
      const whole = readFileSync(target);
      const before = readFileSync(join(base.dataDir, "pg_wal", name));
      before.copy(whole, 0, 0, startLsn - segment.startLsn);
      writeFileSync(target, whole);
    }
    base.own(target);
  }
  return archive;
}

/** A running server that stock recovery has brought to exactly `lsn`, the end of a record. */
export async function recoverTo(
  base: TestPostgres,
  archive: string,
  lsn: Lsn,
  settings: Settings = {},
): Promise<TestPostgres> {
  const server = await base.clone();
  server.configure({
    restore_command: `cp ${archive}/%f %p`,
    recovery_target_lsn: formatLsn(lsn),
    recovery_target_inclusive: "off",
    recovery_target_action: "promote",
    // Nobody may look before it is over: a snapshot would only hold recovery up.
    hot_standby: "off",
    max_prepared_transactions: 10,
    fsync: "off",
    autovacuum: "off",
    ...settings,
  });
  const signal = join(server.dataDir, "recovery.signal");
  writeFileSync(signal, "");
  server.own(signal);
  try {
    await server.start();
    await untilOpen(server);
  } catch (error) {
    throw new Error(`recovery to ${formatLsn(lsn)} failed:\n${server.log().slice(-3000)}`, { cause: error });
  }
  return server;
}

/** Connections are refused until recovery is over. */
async function untilOpen(server: TestPostgres): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    try {
      const client = await server.connect();
      await client.end();
      return;
    } catch (error) {
      if (Date.now() > deadline || !server.running) throw error;
      await sleep(50);
    }
  }
}

/** A digest of every permanent table and sequence, by name. */
export async function digest(server: TestPostgres): Promise<Record<string, string>> {
  const relations = await server.query(
    `select c.oid::regclass::text as name, c.relkind::text as kind from pg_class c
     join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = 'public' and c.relkind in ('r', 'S') and c.relpersistence = 'p' order by 1`,
  );
  const result: Record<string, string> = {};
  for (const { name, kind } of relations as { name: string; kind: string }[]) {
    const columns = kind === "S" ? "last_value, is_called" : "*";
    result[name] = await server.value(
      `select count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' order by t::text)), '') from (select ${columns} from ${name}) t`,
    );
  }
  result["prepared"] = await server.value(
    "select count(*) || ' ' || coalesce(string_agg(gid, ',' order by gid), '') from pg_prepared_xacts",
  );
  result["databases"] = await server.value(
    "select string_agg(datname, ',' order by datname) from pg_database",
  );
  return result;
}
