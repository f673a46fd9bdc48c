/** Reads a record's main data from front to back, where its layout depends on its content. Little-endian. */
import { NeonError, assert, corrupt } from "../../base/errors.ts";
import type { PgVersion } from "../versions/version.ts";
import type { WalRecord } from "../wal/record.ts";
import { locateRecord } from "./record-errors.ts";

/** Milliseconds from 1970 to 2000, where Postgres' time begins. */
const EPOCH_2000_US = 946_684_800_000_000;
/** The last page of the SLRU with the largest entries: pg_commit_ts has 819 of its 2^32 on a page. */
const SLRU_PAGE_MAX = Math.floor(0xffffffff / 819);
const TWO_32 = 2 ** 32;
const utf8 = new TextDecoder("utf-8", { fatal: false });

/** Every read is checked against the end of the main data and throws `corrupt` beyond it. */
export class PayloadCursor {
  private readonly record: WalRecord;
  private readonly start: number;
  private readonly end: number;
  private at: number;

  constructor(record: WalRecord) {
    this.record = record;
    this.start = record.mainOffset;
    this.end = record.mainOffset + record.mainLength;
    this.at = this.start;
  }

  /** An error that says which record it is about, and where in its main data. */
  corrupt(message: string): NeonError {
    const error = locateRecord(corrupt(message, { offset: this.at - this.start }), this.record);
    assert(error instanceof NeonError, "a located error stays what it is");
    return error;
  }

  private take(size: number): number {
    const { at } = this;
    if (size > this.end - at) throw this.corrupt(`${size} bytes wanted, ${this.end - at} left`);
    this.at = at + size;
    return at;
  }

  skip(size: number): void {
    this.take(size);
  }

  /** Goes to an offset from the start. */
  seek(offset: number): void {
    this.at = this.start;
    this.take(offset);
  }

  /** Goes to the next multiple of 8 from the start, or to the end if that comes first. */
  align(): void {
    const offset = this.at - this.start;
    this.at = Math.min(this.end, this.start + ((offset + 7) & ~7));
  }

  u16(): number {
    return this.record.view.getUint16(this.take(2), true);
  }

  u32(): number {
    return this.record.view.getUint32(this.take(4), true);
  }

  u64(): bigint {
    return this.record.view.getBigUint64(this.take(8), true);
  }

  /** A time of Postgres (i64, microseconds since 2000) in milliseconds since 1970, with a fraction. */
  postgresTime(): number {
    const at = this.take(8);
    const { view } = this.record;
    const microseconds = view.getInt32(at + 4, true) * TWO_32 + view.getUint32(at, true);
    // Rounded once, as a time that is given in microseconds is.
    return (microseconds + EPOCH_2000_US) / 1000;
  }

  /** The number of an SLRU page: a 64-bit number from 17 on. */
  slruPage(version: PgVersion): number {
    const low = this.u32();
    const high = version.redo.slruPageNumberSize === 8 ? this.u32() : 0;
    if (high !== 0 || low > SLRU_PAGE_MAX) throw this.corrupt(`SLRU page ${high * TWO_32 + low}`);
    return low;
  }

  /** A count u32 of entries of `entrySize` bytes, all of which lie ahead. */
  count(entrySize: number): number {
    return this.checkedCount(this.u32(), entrySize);
  }

  /** Throws `corrupt` unless `count` entries lie ahead. */
  checkedCount(count: number, entrySize: number): number {
    if (count * entrySize > this.end - this.at) {
      throw this.corrupt(`${count} entries of ${entrySize} bytes claimed, ${this.end - this.at} bytes left`);
    }
    return count;
  }

  /** Text up to a NUL, which is consumed. */
  cstring(): string {
    const stop = this.record.bytes.indexOf(0, this.at);
    if (stop < 0 || stop >= this.end) throw this.corrupt("a text does not end");
    return this.cstringOf(stop + 1 - this.at);
  }

  /** Text in `size` bytes, the last of which is a NUL. */
  cstringOf(size: number): string {
    const at = this.take(size);
    return utf8.decode(this.record.bytes.subarray(at, at + Math.max(0, size - 1)));
  }

  /** Throws `corrupt` unless everything has been read. */
  checkEnd(): void {
    if (this.at !== this.end) throw this.corrupt(`${this.end - this.at} bytes too many`);
  }
}
