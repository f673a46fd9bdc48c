/** Which kinds of records a test has seen, and which of those that a version has it has not. */
import { rmgrName } from "../../src/postgres/constants.ts";
import { type RecordKinds, recordKindName } from "../../src/postgres/versions/record-kinds.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";

/** `Heap HOT_UPDATE`. Throws for a record of a kind that the version does not have. */
export function kindOfRecord(record: WalRecord, kinds: RecordKinds): string {
  const name = recordKindName(kinds, record.rmgr, record.info);
  if (name === undefined)
    throw new Error(`no kind is called ${rmgrName(record.rmgr)} 0x${record.info.toString(16)}`);
  return `${rmgrName(record.rmgr)} ${name}`;
}

/** Every kind of a version, as `kindOfRecord` calls it. */
export function allKinds(kinds: RecordKinds): string[] {
  return [...kinds].flatMap(([rmgr, { operations }]) =>
    [...operations.values()].map((name) => `${rmgrName(rmgr)} ${name}`),
  );
}
