/**
 * A data directory, as a tar, into keyed values: the base image of a tenant's first timeline. One that was stopped
 * cleanly belongs to the end of the shutdown checkpoint that pg_control names, and WAL goes on from there; a base backup
 * of a running server has the WAL in it that makes it whole.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { CHECKPOINT_SIZE } from "../../postgres/checkpoint.ts";
import { ClusterState, type ControlFile, parseControlFile } from "../../postgres/control-file.ts";
import { RECORD_HEADER_SIZE } from "../../postgres/wal/decode-record.ts";
import { recordEndLsn, withoutPageHeader } from "../../postgres/wal/layout.ts";
import type { Key } from "../../storage/key.ts";
import { KeptWal, isWalFile } from "../receive/kept-wal.ts";
import { BACKUP_LABEL, backupRedoLsn } from "./backup-label.ts";
import { importedValues, tablespaceError } from "./import-values.ts";
import type { Spool, SpooledFile } from "./spool.ts";
import { readTarFiles } from "./tar-reader.ts";

/** More than Postgres writes into them. */
const CONTROL_FILE_BYTES_MAX = 64 * 1024;
const LABEL_BYTES_MAX = 64 * 1024;

/** A checkpoint record: header, the two bytes that announce the main data, and the checkpoint. */
const CHECKPOINT_RECORD_SIZE = RECORD_HEADER_SIZE + 2 + CHECKPOINT_SIZE;
const CONTROL_FILE = "global/pg_control";

export interface ImportedCluster {
  readonly control: ControlFile;
  /** What the values are as of: the end of the shutdown checkpoint, or where WAL must be replayed from. */
  readonly lsn: Lsn;
  /** Of a base backup of a running server: where it begins, and the WAL that makes it whole. */
  readonly online?: { readonly redoLsn: Lsn; readonly wal: KeptWal };
  /** All values, in key order. */
  readonly values: AsyncIterable<readonly { key: Key; bytes: Uint8Array }[]>;
}

/**
 * Reads the tar. Throws `usage` if it is no data directory, `conflict` if it was not stopped cleanly. What it returns reads
 * from the spool, which must stay as long as that is used.
 */
export async function readDataDirectory(
  tar: AsyncIterable<Uint8Array>,
  spool: Spool,
): Promise<ImportedCluster> {
  const files = await readTar(tar, spool);
  const controlFile = files.get(CONTROL_FILE);
  if (controlFile === undefined) {
    throw new NeonError(ErrorCode.Usage, `the archive is no data directory: it has no ${CONTROL_FILE}`);
  }
  const template = await controlFile.read(0, CONTROL_FILE_BYTES_MAX);
  const control = parseControlFile(template);
  const label = files.get(BACKUP_LABEL);
  if (label !== undefined) {
    const redoLsn = backupRedoLsn(await label.read(0, LABEL_BYTES_MAX));
    return readOnlineBackup(files, { control, template, redoLsn });
  }
  if (control.state !== ClusterState.ShutDown) {
    throw new NeonError(ErrorCode.Conflict, "the data directory was not shut down cleanly", {
      hint: "Start Postgres on it once and stop it with pg_ctl stop -m fast, then import it.",
      data: { state: control.state },
    });
  }
  const lsn = recordEndLsn(control.checkpointLsn, CHECKPOINT_RECORD_SIZE, control.walSegmentSize);
  return { control, lsn, values: await importedValues(files, control, template) };
}

/**
 * A base backup of a running server: files from anywhere between its beginning and its end, which the WAL in between
 * makes one. Every page that is changed meanwhile is whole in the WAL, so what is in the files does not matter.
 */
async function readOnlineBackup(
  files: Map<string, SpooledFile>,
  from: { control: ControlFile; template: Uint8Array; redoLsn: Lsn },
): Promise<ImportedCluster> {
  const { control, template, redoLsn } = from;
  const lsn = withoutPageHeader(redoLsn, control.walSegmentSize);
  const wal = new Map([...files].filter(([path]) => isWalFile(path)));
  if (wal.size === 0) {
    throw new NeonError(ErrorCode.Usage, "the base backup of a running server has no WAL in its archive", {
      hint: "Take it with pg_basebackup -F tar -X fetch, which puts the WAL into base.tar; or stop the server and import its directory.",
    });
  }
  for (const path of [BACKUP_LABEL, ...wal.keys()]) files.delete(path);
  const cluster = {
    pgVersion: control.version,
    systemId: control.systemId,
    segmentSize: control.walSegmentSize,
  };
  return {
    control,
    lsn,
    values: await importedValues(files, control, template),
    online: { redoLsn, wal: await KeptWal.of(wal, cluster) },
  };
}

/** All files that matter, by path relative to the data directory. */
async function readTar(tar: AsyncIterable<Uint8Array>, spool: Spool): Promise<Map<string, SpooledFile>> {
  let link: string | undefined;
  // The label comes first, the WAL last. Of a server that was stopped the WAL is not needed.
  let isOnline = false;
  const wishes = {
    what: "data directory",
    wants: (path: string): boolean => {
      isOnline ||= path === BACKUP_LABEL;
      return path === BACKUP_LABEL || isImported(path) || (isOnline && isWalFile(path));
    },
    // What a link leads to is not in the archive; pg_wal may be one, and is not needed.
    onLink: (path: string): void => {
      if (isImported(path) || isImported(`${path}/`)) link ??= path;
    },
  };
  const files = await readTarFiles(tar, wishes, spool);
  if (link !== undefined) throw linkError(link);
  return files;
}

function linkError(path: string): NeonError {
  if (path.startsWith("pg_tblspc/")) return tablespaceError(path);
  return new NeonError(
    ErrorCode.Unsupported,
    `${path} in the data directory is a link, not a file or directory`,
    {
      hint: "Stop Postgres and put in the link's place what it leads to, then import.",
      data: { path },
    },
  );
}

const IMPORTED =
  /^(?:PG_VERSION$|global\/|base\/|pg_tblspc\/|pg_xact\/|pg_multixact\/|pg_commit_ts\/|pg_twophase\/|pg_logical\/replorigin_checkpoint$)/;

function isImported(path: string): boolean {
  return IMPORTED.test(path);
}
