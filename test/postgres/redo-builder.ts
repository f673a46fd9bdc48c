/** Makes records and pages for redo's unit tests, from byte lists written out by hand. */
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PageBuffer, pageInit } from "../../src/postgres/page/layout.ts";
import { insertItemBytes } from "../../src/postgres/page/items.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { decodeRecord } from "../../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import { type BlockSpec, type RecordSpec, buildRecord } from "../support/wal-builder.ts";

export const RELATION = [1663, 5, 16384] as const;
export const RECORD_LSN = toLsn(0x7_0000_1000);
export const END_LSN = toLsn(0x7_0000_1040);

export const u16 = (value: number): number[] => [value & 255, (value >>> 8) & 255];
export const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];
/** A TID as it lies on pages: block high, block low, offset number. */
export const tid = (block: number, offset: number): number[] => [
  ...u16(block >>> 16),
  ...u16(block & 0xffff),
  ...u16(offset),
];
export const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

export function makeRecord(spec: RecordSpec, lsn: Lsn = RECORD_LSN, endLsn: Lsn = END_LSN): WalRecord {
  const raw = new Uint8Array(buildRecord(spec, 0));
  const record = new WalRecord();
  decodeRecord(record, raw, new DataView(raw.buffer), 0, raw.length, POSTGRES_17);
  record.lsn = lsn;
  record.endLsn = endLsn;
  return record;
}

export function block(id: number, blockNumber: number, more: Partial<BlockSpec> = {}): BlockSpec {
  return { id, relation: RELATION, block: blockNumber, ...more };
}

export function redo(
  page: PageBuffer,
  record: WalRecord,
  blockIndex = 0,
  hintBitsLogged = true,
  version: PgVersion = POSTGRES_17,
): void {
  redoBlock(page, record, blockIndex, new RedoContext({ version, hintBitsLogged }));
}

export function newPage(specialSize: number): PageBuffer {
  const page = new PageBuffer();
  pageInit(page, specialSize);
  return page;
}

/** Adds items 1, 2, 3… */
export function addItems(page: PageBuffer, items: readonly (readonly number[])[]): void {
  items.forEach((item, i) => {
    insertItemBytes(page, i + 1, Uint8Array.from(item), 0, item.length);
  });
}

/** True for what redo must say about damage: `corrupt`, with resource manager, info and LSN. */
export function isLocatedCorruption(error: unknown): boolean {
  return (
    error instanceof NeonError &&
    error.code === ErrorCode.Corrupt &&
    error.data["lsn"] === "7/1000" &&
    typeof error.data["rmgr"] === "string" &&
    typeof error.data["info"] === "string" &&
    error.message.includes("7/1000")
  );
}
