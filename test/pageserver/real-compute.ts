/** A pageserver program with real Postgres on top, over its HTTP API: what tests of whole servers begin with. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TimelineId, parseTenantId } from "../../src/base/ids.ts";
import type { Lsn } from "../../src/base/lsn.ts";
import { PageserverClient } from "../../src/client/pageserver-client.ts";
import { extractDataDirectory, packDataDirectory } from "../../src/compute/data-directory.ts";
import { TestPostgres, freePort } from "../support/postgres.ts";
import { TENANT, TOKEN } from "./harness.ts";

const SETTINGS = {
  fsync: "off",
  full_page_writes: "off",
  wal_level: "replica",
  max_wal_senders: 5,
  max_replication_slots: 5,
  synchronous_standby_names: "pageserver",
  shared_buffers: "16MB",
};
const HBA = "local all all trust\nlocal replication all trust\n";

export function clientOf(url: string, tenant = TENANT): PageserverClient {
  return new PageserverClient({ baseUrl: url, token: TOKEN, tenantId: parseTenantId(tenant) });
}

export async function importMain(client: PageserverClient): Promise<TimelineId> {
  await using fresh = await TestPostgres.create({ start: false });
  await client.createTenant({ pgVersion: 17 });
  const tar = packDataDirectory(fresh.dataDir);
  return (await client.importDataDirectory({ branch: "main", tar })).timelineId;
}

/** A Postgres on a base backup, not started. */
export async function extract(
  client: PageserverClient,
  timelineId: TimelineId,
  options: { lsn?: Lsn; readOnly: boolean },
): Promise<TestPostgres> {
  const server = await TestPostgres.create({ empty: true });
  const backup = await client.baseBackup(timelineId, options);
  rmSync(server.dataDir, { recursive: true });
  await extractDataDirectory(backup.stream, server.dataDir);
  writeFileSync(join(server.dataDir, "pg_hba.conf"), HBA);
  server.configure(options.readOnly ? { ...SETTINGS, hot_standby: "on" } : SETTINGS);
  server.ownDataDir();
  return server;
}

export async function startWriter(
  client: PageserverClient,
  timelineId: TimelineId,
  name: string,
  server: TestPostgres,
): Promise<void> {
  const port = await freePort();
  const source = { socketDirectory: server.socketDir, port, user: "postgres" };
  const { epoch } = await client.openWriter(timelineId, { name, source, takeover: false });
  await server.start({ port, "neon.writer_epoch": epoch });
}
