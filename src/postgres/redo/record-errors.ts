/** Errors about a record say which one: resource manager, info, LSN and, where it is about one, the page. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { formatLsn } from "../../base/lsn.ts";
import { rmgrName } from "../constants.ts";
import type { BlockRef, WalRecord } from "../wal/record.ts";

/** Throws `unsupported` for a record that redo does not know: nothing is ever skipped. */
export function unknownRecord(record: WalRecord): never {
  const { rmgr, info, lsn } = describe(record);
  throw new NeonError(
    ErrorCode.Unsupported,
    `WAL record of kind ${rmgr} ${info} at ${lsn} is not supported`,
    {
      data: { rmgr, info, lsn },
    },
  );
}

/** A `corrupt` error with what a reader needs to find record and page. Any other error stays as it is. */
export function locateRecord(error: unknown, record: WalRecord, block?: BlockRef): unknown {
  if (!(error instanceof NeonError) || error.code !== ErrorCode.Corrupt) return error;
  const { rmgr, info, lsn } = describe(record);
  const data = { ...error.data, rmgr, info, lsn };
  if (block === undefined) {
    const message = `WAL record ${rmgr} ${info} at ${lsn}: ${error.message}`;
    return new NeonError(ErrorCode.Corrupt, message, { data, cause: error });
  }
  const page = `${block.spcOid}/${block.dbOid}/${block.relNumber} fork ${block.fork} block ${block.blockNumber}`;
  const message = `redo of WAL record ${rmgr} ${info} at ${lsn} on ${page}: ${error.message}`;
  return new NeonError(ErrorCode.Corrupt, message, {
    data: { ...data, block_id: block.id, page },
    cause: error,
  });
}

function describe(record: WalRecord): { rmgr: string; info: string; lsn: string } {
  return {
    rmgr: rmgrName(record.rmgr),
    info: `0x${record.info.toString(16).padStart(2, "0")}`,
    lsn: formatLsn(record.lsn),
  };
}
