/**
 * Raw WAL to records: fed bytes in order, asked for records until it has none left. Every page header, every CRC and
 * every link to the record before is checked; damage is a `corrupt` error with the LSN, after which the stream stays
 * failed and `position` still is the end of the last good record.
 *
 * A record that lies within one fed chunk and one page is decoded in place; any other is gathered in a buffer that
 * belongs to the stream and grows only as its bytes arrive, whatever length it claims.
 */
import { assert, corrupt, messageOf, NeonError } from "../../base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn, lsnAdd, lsnAlignUp, lsnFromWords } from "../../base/lsn.ts";
import { PAGE_SIZE, Rmgr } from "../constants.ts";
import type { PgVersion } from "../versions/version.ts";
import { decodeRecord, RECORD_HEADER_SIZE, recordCrcOk } from "./decode-record.ts";
import { RECORD_ALIGNMENT } from "./layout.ts";
import {
  checkPageHeader,
  LONG_HEADER_SIZE,
  PageFlag,
  pageHeaderSize,
  type WalIdentity,
} from "./page-header.ts";
import { WalRecord } from "./record.ts";

const XLOG_SWITCH = 0x40;
const XLOG_OVERWRITE_CONTRECORD = 0xd0;
const OPCODE_MASK = 0xf0;
const GATHER_CAPACITY_BYTES = 4 * PAGE_SIZE;
/** A larger buffer is given back once the record that needed it is done. */
const GATHER_KEPT_MAX_BYTES = 1024 * 1024;
const EMPTY = new Uint8Array(0);

export interface WalStreamOptions {
  readonly version: PgVersion;
  readonly segmentSize: number;
  /** Compared with the page headers at segment starts when given. */
  readonly systemId?: bigint | undefined;
  /** End of a record, a multiple of 8; may be a page or segment boundary. The first byte fed is the one at it. */
  readonly startLsn: Lsn;
  /** Start of the record that ends at `startLsn`; when absent the first record's link is taken on trust. */
  readonly previousLsn?: Lsn | undefined;
}

export class WalStream {
  private readonly version: PgVersion;
  private readonly identity: WalIdentity;
  private readonly record = new WalRecord();

  private chunk: Uint8Array = EMPTY;
  private view: DataView = new DataView(EMPTY.buffer);
  /** Next unread byte of the chunk; its LSN is `chunkLsn + index`. */
  private index = 0;
  private chunkLsn: Lsn;
  /** Bytes of the current page from `index` on; 0 when a page header comes next. */
  private pageLeft: number;
  /** Bytes to pass over unread: padding. Never reaches beyond the page. */
  private padding = 0;
  /** After XLOG_SWITCH: everything before this LSN is void, page headers included. */
  private voidUntil: Lsn = INVALID_LSN;

  private gather = new Uint8Array(GATHER_CAPACITY_BYTES);
  private gatherView = new DataView(this.gather.buffer);
  private gathered = 0;
  /** Start of the record being gathered; meaningful while `gathered` > 0. */
  private gatherLsn: Lsn = INVALID_LSN;

  private readonly pageHeader = new Uint8Array(LONG_HEADER_SIZE);
  private readonly pageHeaderView = new DataView(this.pageHeader.buffer);
  private pageHeaderGot = 0;
  private timeline = 0;

  /** Start of a record that was abandoned halfway; the next record must say so. */
  private abandonedLsn: Lsn = INVALID_LSN;
  private abandonedBytes: Uint8Array | undefined;
  private end: Lsn;
  private previous: Lsn;
  private previousKnown: boolean;
  private failure: unknown;

  constructor(options: WalStreamOptions) {
    const { version, segmentSize, systemId, startLsn, previousLsn } = options;
    assert(segmentSize > 0 && segmentSize % PAGE_SIZE === 0, `segment size ${segmentSize}`);
    assert(
      startLsn % RECORD_ALIGNMENT === 0,
      `WAL stream starts at ${formatLsn(startLsn)}, not a record end`,
    );
    this.version = version;
    this.identity = { magic: version.walPageMagic, segmentSize, systemId };
    this.chunkLsn = startLsn;
    this.pageLeft = (PAGE_SIZE - (startLsn % PAGE_SIZE)) % PAGE_SIZE;
    this.end = startLsn;
    this.previous = previousLsn ?? INVALID_LSN;
    this.previousKnown = previousLsn !== undefined;
  }

  /** End of the last complete record, as redo stamps it on pages: a multiple of 8, never behind a page header. */
  get position(): Lsn {
    return this.end;
  }

  /** Start of the last complete record. */
  get previousLsn(): Lsn {
    return this.previous;
  }

  /** The LSN of the byte that must be fed next. */
  get fedLsn(): Lsn {
    return lsnAdd(this.chunkLsn, this.chunk.length);
  }

  /**
   * Gives the next bytes, which must follow those fed before and stay unchanged until `next()` has returned
   * undefined. Ends the validity of the last record.
   */
  feed(lsn: Lsn, bytes: Uint8Array): void {
    const expected = this.fedLsn;
    if (lsn !== expected) {
      throw corrupt(`WAL arrived for ${formatLsn(lsn)}, expected ${formatLsn(expected)}`, {
        lsn: formatLsn(lsn),
        expected: formatLsn(expected),
      });
    }
    const rest = this.chunk.length - this.index;
    let chunk = bytes;
    if (rest > 0) {
      chunk = new Uint8Array(rest + bytes.length);
      chunk.set(this.chunk.subarray(this.index));
      chunk.set(bytes, rest);
    }
    this.chunkLsn = lsnAdd(this.chunkLsn, this.index);
    this.chunk = chunk;
    this.view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
    this.index = 0;
  }

  /**
   * The next record, or undefined when more bytes are needed. The record (always the same object) and the bytes it
   * points into are valid until the next call of `next` or `feed`.
   */
  next(): WalRecord | undefined {
    if (this.failure !== undefined) throw this.failure;
    try {
      return this.advance();
    } catch (error) {
      this.failure = located(error, this.end);
      throw this.failure;
    }
  }

  private advance(): WalRecord | undefined {
    for (;;) {
      if (this.padding > 0 && !this.skipPadding()) return undefined;
      if (this.voidUntil !== INVALID_LSN && !this.skipVoid()) return undefined;
      if (this.pageLeft === 0) {
        if (!this.readPageHeader()) return undefined;
        continue;
      }
      const available = Math.min(this.chunk.length - this.index, this.pageLeft);
      if (this.gathered === 0 && available >= RECORD_HEADER_SIZE) {
        const length = this.view.getUint32(this.index, true);
        if (length <= available) return this.takeInPlace(length);
      }
      if (available === 0) return undefined;
      const record = this.gatherMore(available);
      if (record) return record;
    }
  }

  /** Passes over alignment bytes; false when the chunk ends first. */
  private skipPadding(): boolean {
    const count = Math.min(this.padding, this.chunk.length - this.index);
    this.index += count;
    this.pageLeft -= count;
    this.padding -= count;
    return this.padding === 0;
  }

  /** Passes over the unused rest of a segment, whole pages without headers included; false when the chunk ends first. */
  private skipVoid(): boolean {
    const at = this.chunkLsn + this.index;
    const count = Math.min(this.voidUntil - at, this.chunk.length - this.index);
    this.index += count;
    if (at + count < this.voidUntil) return false;
    this.voidUntil = INVALID_LSN;
    this.pageLeft = 0;
    return true;
  }

  private takeInPlace(length: number): WalRecord {
    const lsn = lsnAdd(this.chunkLsn, this.index);
    if (length < RECORD_HEADER_SIZE) throw badRecord(lsn, `length ${length}`);
    const offset = this.index;
    this.index += length;
    this.pageLeft -= length;
    return this.finish(this.chunk, this.view, offset, length, lsn);
  }

  /** Copies what the chunk has of the record on this page; returns the record when it is complete. */
  private gatherMore(available: number): WalRecord | undefined {
    if (this.gathered === 0) {
      this.gatherLsn = lsnAdd(this.chunkLsn, this.index);
      if (this.gather.length > GATHER_KEPT_MAX_BYTES) this.resizeGather(GATHER_CAPACITY_BYTES);
    }
    if (this.gathered < 4) {
      // A record starts at a multiple of 8 and a page has no header of fewer: its length is on one page.
      const count = Math.min(available, 4 - this.gathered);
      this.copyToGather(count);
      if (this.gathered < 4) return undefined;
      this.checkClaimedLength();
      return undefined;
    }
    const length = this.gatherView.getUint32(0, true);
    const checked = this.gathered >= RECORD_HEADER_SIZE;
    const stop = checked ? length : Math.min(length, RECORD_HEADER_SIZE);
    this.copyToGather(Math.min(available, stop - this.gathered));
    if (!checked && this.gathered >= RECORD_HEADER_SIZE) this.checkGatheredHeader();
    if (this.gathered < length) return undefined;
    this.gathered = 0;
    return this.finish(this.gather, this.gatherView, 0, length, this.gatherLsn);
  }

  private copyToGather(count: number): void {
    const needed = this.gathered + count;
    if (needed > this.gather.length) this.resizeGather(Math.max(needed, this.gather.length * 2));
    this.gather.set(this.chunk.subarray(this.index, this.index + count), this.gathered);
    this.gathered = needed;
    this.index += count;
    this.pageLeft -= count;
  }

  private resizeGather(capacityBytes: number): void {
    const resized = new Uint8Array(capacityBytes);
    resized.set(this.gather.subarray(0, this.gathered));
    this.gather = resized;
    this.gatherView = new DataView(resized.buffer);
  }

  private checkClaimedLength(): void {
    const length = this.gatherView.getUint32(0, true);
    if (length < RECORD_HEADER_SIZE || length > this.version.walRecordLengthMax)
      throw badRecord(this.gatherLsn, `length ${length}`);
  }

  /** A record that spans pages is not collected for long when its header is nonsense already. */
  private checkGatheredHeader(): void {
    const view = this.gatherView;
    this.checkLink(lsnFromWords(view.getUint32(12, true), view.getUint32(8, true)), this.gatherLsn);
    this.checkRmgr(view.getUint8(17), this.gatherLsn);
  }

  private checkLink(previousLsn: Lsn, lsn: Lsn): void {
    const linked = this.previousKnown ? previousLsn === this.previous : previousLsn < lsn;
    if (linked) return;
    const expected = this.previousKnown ? formatLsn(this.previous) : `less than ${formatLsn(lsn)}`;
    throw badRecord(lsn, `link to the record before is ${formatLsn(previousLsn)}, expected ${expected}`);
  }

  private checkRmgr(rmgr: number, lsn: Lsn): void {
    const known = rmgr <= Rmgr.LogicalMsg || (rmgr >= 128 && this.version.customRmgrs);
    if (!known) throw badRecord(lsn, `resource manager ${rmgr}`);
  }

  private finish(bytes: Uint8Array, view: DataView, offset: number, length: number, lsn: Lsn): WalRecord {
    if (!recordCrcOk(bytes, offset, length)) throw badRecord(lsn, "checksum mismatch");
    const record = this.record;
    try {
      decodeRecord(record, bytes, view, offset, length, this.version);
    } catch (error) {
      if (!(error instanceof NeonError)) throw error;
      throw badRecord(lsn, messageOf(error), error);
    }
    this.checkLink(record.previousLsn, lsn);
    this.checkRmgr(record.rmgr, lsn);
    if (record.cutOff !== undefined) record.cutOff = undefined;
    if (this.abandonedLsn !== INVALID_LSN) this.checkOverwrite(record, lsn);

    const dataEnd = lsnAdd(this.chunkLsn, this.index);
    const isSwitch = record.rmgr === Rmgr.Xlog && (record.info & OPCODE_MASK) === XLOG_SWITCH;
    if (isSwitch) {
      this.end = lsnAlignUp(dataEnd, this.identity.segmentSize);
      this.voidUntil = this.end;
    } else {
      this.end = lsnAlignUp(dataEnd, RECORD_ALIGNMENT);
      this.padding = this.end - dataEnd;
    }
    this.previous = lsn;
    this.previousKnown = true;
    record.lsn = lsn;
    record.endLsn = this.end;
    return record;
  }

  /** The record after an abandoned one names it, or the WAL is not what Postgres writes. */
  private checkOverwrite(record: WalRecord, lsn: Lsn): void {
    const isOverwrite =
      record.rmgr === Rmgr.Xlog &&
      (record.info & OPCODE_MASK) === XLOG_OVERWRITE_CONTRECORD &&
      record.mainLength >= 8;
    const { view, mainOffset } = record;
    const named = isOverwrite
      ? lsnFromWords(view.getUint32(mainOffset + 4, true), view.getUint32(mainOffset, true))
      : undefined;
    if (named !== this.abandonedLsn)
      throw badRecord(lsn, `does not account for the abandoned record at ${formatLsn(this.abandonedLsn)}`);
    this.abandonedLsn = INVALID_LSN;
    record.cutOff = this.abandonedBytes;
    this.abandonedBytes = undefined;
  }

  /** Reads and checks the header of the page that starts here; false when the chunk ends first. */
  private readPageHeader(): boolean {
    const pageLsn = lsnAdd(this.chunkLsn, this.index - this.pageHeaderGot);
    const size = pageHeaderSize(pageLsn, this.identity.segmentSize);
    const count = Math.min(size - this.pageHeaderGot, this.chunk.length - this.index);
    for (let i = 0; i < count; i++)
      this.pageHeader[this.pageHeaderGot + i] = this.chunk[this.index + i] as number;
    this.index += count;
    this.pageHeaderGot += count;
    if (this.pageHeaderGot < size) return false;
    this.pageHeaderGot = 0;
    checkPageHeader(this.pageHeaderView, 0, pageLsn, this.identity);
    this.checkTimeline(pageLsn);
    this.checkContinuation(pageLsn);
    this.pageLeft = PAGE_SIZE - size;
    return true;
  }

  private checkTimeline(pageLsn: Lsn): void {
    const timeline = this.pageHeaderView.getUint32(4, true);
    if (timeline === 0 || timeline < this.timeline)
      throw badPage(pageLsn, `timeline ${timeline} after ${this.timeline}`);
    this.timeline = timeline;
  }

  /** Whether the page goes on with a record must agree with whether one is unfinished. */
  private checkContinuation(pageLsn: Lsn): void {
    const info = this.pageHeaderView.getUint16(2, true);
    const remaining = this.pageHeaderView.getUint32(16, true);
    const continues = (info & PageFlag.Continuation) !== 0;
    if ((info & PageFlag.OverwriteContinuation) !== 0 && this.gathered > 0) {
      if (continues || remaining !== 0) throw badPage(pageLsn, "contradictory flags");
      this.abandonedLsn = this.gatherLsn;
      this.abandonedBytes = this.gather.slice(0, this.gathered);
      this.gathered = 0;
      return;
    }
    if (!continues) {
      if (this.gathered > 0)
        throw badPage(pageLsn, `no continuation of the record at ${formatLsn(this.gatherLsn)}`);
      return;
    }
    if (this.gathered === 0) throw badPage(pageLsn, "continuation of a record that did not begin");
    const expected = this.gatherView.getUint32(0, true) - this.gathered;
    if (remaining !== expected)
      throw badPage(
        pageLsn,
        `${remaining} bytes of the record at ${formatLsn(this.gatherLsn)} left, expected ${expected}`,
      );
  }
}

/** Adds where the stream stood to an error that does not say. */
function located(error: unknown, lsn: Lsn): unknown {
  if (!(error instanceof NeonError) || error.data["lsn"] !== undefined) return error;
  return corrupt(
    `invalid WAL after ${formatLsn(lsn)}: ${error.message}`,
    { ...error.data, lsn: formatLsn(lsn) },
    error,
  );
}

function badRecord(lsn: Lsn, what: string, cause?: unknown): NeonError {
  const text = formatLsn(lsn);
  return corrupt(`invalid WAL record at ${text}: ${what}`, { lsn: text }, cause);
}

function badPage(lsn: Lsn, what: string): NeonError {
  const text = formatLsn(lsn);
  return corrupt(`invalid WAL page at ${text}: ${what}`, { lsn: text });
}
