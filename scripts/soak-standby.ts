/**
 * A stock standby that is moved along the WAL of a branch: it recovers to an LSN, shuts down there with every page
 * written, and goes on to the next one when asked. It starts from the directory that initdb made, and the pageserver
 * has no part in what it does.
 *
 * A server that ends in recovery writes its pages only if it has replayed a checkpoint since it did so last, which is
 * why there has to be a checkpoint between two of its stops (xlog.c, CreateRestartPoint).
 */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { INVALID_LSN, type Lsn, formatLsn, parseLsn } from "../src/base/lsn.ts";
import { ClusterState, parseControlFile } from "../src/postgres/control-file.ts";
import type { Settings, TestPostgres } from "../test/support/postgres.ts";

export class Standby implements AsyncDisposable {
  private readonly server: TestPostgres;
  private readonly settings: Settings;
  /** Start of the record that it has not replayed any more. */
  nextLsn: Lsn = INVALID_LSN;
  private logRead = 0;

  private constructor(server: TestPostgres, settings: Settings) {
    this.server = server;
    this.settings = settings;
  }

  /** `base` is the directory that was imported; `archive` holds all WAL since. */
  static async create(base: TestPostgres, archive: string, settings: Settings): Promise<Standby> {
    const server = await base.clone();
    const wal = join(server.dataDir, "pg_wal");
    for (const name of readdirSync(wal, { withFileTypes: true }))
      if (name.isFile()) rmSync(join(wal, name.name));
    for (const name of readdirSync(archive)) {
      copyFileSync(join(archive, name), join(wal, name));
      server.own(join(wal, name));
    }
    const signal = join(server.dataDir, "recovery.signal");
    writeFileSync(signal, "");
    server.own(signal);
    return new Standby(server, settings);
  }

  get directory(): string {
    return this.server.dataDir;
  }

  /**
   * Recovers everything before `lsn`, the end of a record. Throws if it has not written its pages.
   */
  async moveTo(lsn: Lsn): Promise<void> {
    const { server } = this;
    const before = this.control().checkpointLsn;
    server.configure({
      // All WAL is in pg_wal already.
      restore_command: "false",
      recovery_target_lsn: formatLsn(lsn),
      recovery_target_inclusive: "off",
      recovery_target_action: "shutdown",
      hot_standby: "off",
      max_prepared_transactions: 10,
      wal_keep_size: "20GB",
      fsync: "off",
      ...this.settings,
    });
    const code = await server.runToEnd();
    const log = server.log();
    const said = log.slice(this.logRead);
    this.logRead = log.length;
    const where = `standby at ${formatLsn(lsn)}`;
    const stopped = parseLsn(/recovery stopping before WAL location \(LSN\) "([^"]+)"/.exec(said)?.[1] ?? "");
    assert.equal(code, 0, `${where}: ${said.slice(-3000)}`);
    assert.ok(stopped !== undefined, `${where} stopped at its target: ${said.slice(-3000)}`);
    const control = this.control();
    assert.equal(control.state, ClusterState.ShutDownInRecovery, where);
    assert.ok(control.checkpointLsn > before, `${where} has replayed a checkpoint and so written its pages`);
    this.nextLsn = stopped;
  }

  private control(): ReturnType<typeof parseControlFile> {
    return parseControlFile(readFileSync(join(this.directory, "global", "pg_control")));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server[Symbol.asyncDispose]();
  }
}
