/** The configuration files of a compute, rendered from `templates/`. */
import { readFileSync } from "node:fs";
import type { WriterEpoch } from "../base/ids.ts";
import { ErrorCode, NeonError, assert } from "../base/errors.ts";
import type { ControlFile } from "../postgres/control-file.ts";

/**
 * When COMMIT returns. `remote`: the pageserver has the WAL on disk, and the data directory may be thrown away at any
 * time. `local`: the compute has it on its own disk, and recovers in place after a crash.
 */
export type CommitMode = "remote" | "local";
export type ComputeMode = "read-write" | "read-only";

/** What the pageserver calls itself towards Postgres, and what `synchronous_standby_names` asks for. */
export const PAGESERVER_APPLICATION_NAME = "pageserver";

/** What initdb's own configuration would say. */
const DEFAULT_PARAMETERS = {
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 0,
  maxLocksPerTransaction: 64,
} as const;

const MEBIBYTE = 1024 * 1024;
/** Segments that `min_wal_size` and `max_wal_size` must have room for at least; Postgres' own limit is 2 for both. */
const MIN_WAL_SEGMENTS = 2;
const MAX_WAL_SEGMENTS = 4;

export interface ComputeSettings {
  readonly mode: ComputeMode;
  readonly commit: CommitMode;
  readonly port: number;
  /** Null: TCP only. */
  readonly socketDirectory: string | null;
  /** The epoch that a writing compute writes in; the pageserver asks for it before it takes any WAL. */
  readonly epoch: WriterEpoch | null;
}

export type Setting = readonly [name: string, value: string];

/**
 * Settings on which the promises of a compute depend. They are written into postgresql.conf, where people look, and
 * given on the command line as well, because ALTER SYSTEM wins over the former but not over the latter.
 */
export function fixedSettings(settings: ComputeSettings): Setting[] {
  const disposable = settings.mode === "read-only" || settings.commit === "remote";
  const list: Setting[] = [
    ["port", String(settings.port)],
    ["listen_addresses", "127.0.0.1"],
    ["unix_socket_directories", settings.socketDirectory ?? ""],
    // Where the pageserver is the durable copy, nothing here needs to survive the machine, and pages that a crash
    // tore are not repaired from WAL: the directory is built anew instead, so Postgres must not try by itself.
    ["fsync", disposable ? "off" : "on"],
    ["full_page_writes", disposable ? "off" : "on"],
    ["restart_after_crash", disposable ? "off" : "on"],
    ["wal_init_zero", disposable ? "off" : "on"],
    ["synchronous_standby_names", waitsForPageserver(settings) ? PAGESERVER_APPLICATION_NAME : ""],
  ];
  if (settings.epoch !== null) list.push(["neon.writer_epoch", settings.epoch]);
  return list;
}

/** Whether COMMIT waits for the pageserver. */
export function waitsForPageserver(settings: Pick<ComputeSettings, "mode" | "commit">): boolean {
  return settings.mode === "read-write" && settings.commit === "remote";
}

/**
 * postgresql.conf.
 * @param control pg_control. A standby with lower parameters than there refuses to start, and so does any server with
 *   fewer prepared transactions than there are; so they are lower bounds here. Postgres also refuses room for less than
 *   two segments of WAL.
 * @param userConfPath file with the user's own settings, outside of the data directory, which a rebuild replaces.
 */
export function renderPostgresqlConf(
  settings: ComputeSettings,
  control: Pick<ControlFile, "parameters" | "walSegmentSize">,
  userConfPath: string,
): string {
  const { parameters } = control;
  const segmentMb = control.walSegmentSize / MEBIBYTE;
  const atLeast = (name: keyof typeof DEFAULT_PARAMETERS): string =>
    String(Math.max(DEFAULT_PARAMETERS[name], parameters[name]));
  const fixed = fixedSettings(settings).map(([name, value]) => `${name} = ${quoteSetting(value)}`);
  return renderTemplate("postgresql.conf", {
    user_conf_path: userConfPath,
    user_conf: quoteSetting(userConfPath),
    max_connections: atLeast("maxConnections"),
    max_worker_processes: atLeast("maxWorkerProcesses"),
    max_prepared_transactions: atLeast("maxPreparedTransactions"),
    max_locks_per_transaction: atLeast("maxLocksPerTransaction"),
    max_wal_senders: atLeast("maxWalSenders"),
    max_wal_size: megabytes(Math.max(1024, MAX_WAL_SEGMENTS * segmentMb)),
    min_wal_size: megabytes(Math.max(80, MIN_WAL_SEGMENTS * segmentMb)),
    wal_keep_size: megabytes(Math.max(64, segmentMb)),
    track_commit_timestamp: parameters.trackCommitTimestamp ? "on" : "off",
    fixed_settings: fixed.join("\n"),
  });
}

/** `80MB`, `2GB`: as people write it. */
function megabytes(count: number): string {
  return count % 1024 === 0 ? `${count / 1024}GB` : `${count}MB`;
}

export function renderPgHbaConf(): string {
  return renderTemplate("pg_hba.conf", {});
}

/** A value as a configuration file takes it. Throws `usage` for line breaks, which no quoting can carry. */
export function quoteSetting(value: string): string {
  if (/[\0\r\n]/.test(value)) {
    throw new NeonError(ErrorCode.Usage, `${JSON.stringify(value)} cannot stand in a configuration file`, {
      hint: "Use a path without line breaks.",
    });
  }
  return `'${value.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
}

/** Fills in every `{{name}}` of a template; a name on one side only is a bug. */
function renderTemplate(file: string, values: Readonly<Record<string, string>>): string {
  // Two levels up from src/compute and from dist/compute alike.
  const text = readFileSync(new URL(`../../templates/${file}`, import.meta.url), "utf8");
  const used = new Set<string>();
  const rendered = text.replaceAll(/\{\{(\w+)\}\}/g, (_, name: string) => {
    const value = values[name];
    assert(value !== undefined, `template ${file} asks for "${name}"`);
    used.add(name);
    return value;
  });
  assert(used.size === Object.keys(values).length, `template ${file} uses every value`);
  return rendered;
}
