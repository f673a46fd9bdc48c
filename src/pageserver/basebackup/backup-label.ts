/**
 * The file by which a base backup of a running server says from where it must be recovered.
 * Source: PostgreSQL 14-18, src/backend/access/transam/xlogbackup.c.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, parseLsn } from "../../base/lsn.ts";

export const BACKUP_LABEL = "backup_label";

/** Where replay begins. Throws `usage` for what is no label, `unsupported` for a backup that cannot be imported. */
export function backupRedoLsn(bytes: Uint8Array): Lsn {
  const text = Buffer.from(bytes.subarray(0, LABEL_SIZE_MAX)).toString("utf8");
  const lsn = parseLsn(/^START WAL LOCATION: (\S+) /m.exec(text)?.[1] ?? "");
  if (lsn === undefined)
    throw new NeonError(ErrorCode.Usage, `${BACKUP_LABEL} does not say where the backup begins`);
  const from = /^BACKUP FROM: (\w+)/m.exec(text)?.[1];
  if (from !== "primary") {
    throw new NeonError(
      ErrorCode.Unsupported,
      `a base backup of a ${from ?? "server of unknown kind"} cannot be imported: its WAL does not say where it is consistent`,
      { hint: "Take the backup from the primary, or import a data directory that was stopped cleanly." },
    );
  }
  return lsn;
}

const LABEL_SIZE_MAX = 4096;
