import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { rmgrName } from "../constants.ts";
import type { WalRecord } from "../wal/record.ts";

/** Throws `unsupported` for a record that redo does not know: nothing is ever skipped. */
export function unknownRecord(record: WalRecord): never {
  const name = rmgrName(record.rmgr);
  const info = `0x${(record.info & 0xf0).toString(16).padStart(2, "0")}`;
  throw new NeonError(
    ErrorCode.Unsupported,
    `WAL record of kind ${name} ${info} at ${formatLsn(record.lsn)} is not supported`,
    { data: { rmgr: name, info, lsn: formatLsn(record.lsn) } },
  );
}
