/** Records back into WAL: segment after segment, with page headers as the server would have written them. */
import { assert } from "../../base/errors.ts";
import { type Lsn, lsnAdd, lsnAlignDown } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../constants.ts";
import { RECORD_ALIGNMENT, nextRecordLsn, segmentStart } from "./layout.ts";
import { encodePageHeader, pageHeaderSize } from "./page-header.ts";

export interface WalLayoutOptions {
  readonly magic: number;
  readonly segmentSize: number;
  readonly systemId: bigint;
  readonly timeline: number;
  /** The end of the record before the first one. What lies before it in its segment is void. */
  readonly startLsn: Lsn;
}

/** Takes pages in order, from the start of a segment to the end of one. The page is valid during the call only. */
export type PageSink = (lsn: Lsn, page: Uint8Array) => void;

export class WalLayout {
  private readonly options: WalLayoutOptions;
  private readonly sink: PageSink;
  private readonly page = new Uint8Array(PAGE_SIZE);
  /** Where the next byte goes. */
  private at: Lsn;
  /** The next page declares that the record before it has no rest. */
  private overwrites = false;

  constructor(options: WalLayoutOptions, sink: PageSink) {
    this.options = options;
    this.sink = sink;
    const { startLsn, segmentSize } = options;
    assert(startLsn % RECORD_ALIGNMENT === 0, "WAL begins at the end of a record");
    this.at = segmentStart(startLsn, segmentSize);
    const pageLsn = lsnAlignDown(startLsn, PAGE_SIZE);
    if (startLsn > this.at) {
      if (this.at < pageLsn) this.startPage(0);
      while (this.at < pageLsn) this.endPage();
      // What is not there is declared to be the rest of an earlier record.
      if (startLsn > pageLsn) {
        this.startPage(startLsn - pageLsn - pageHeaderSize(pageLsn, segmentSize));
        this.at = startLsn;
      }
    }
  }

  /** Adds a record, which starts at `lsn`. */
  add(lsn: Lsn, bytes: Uint8Array): void {
    while (nextRecordLsn(this.at, this.options.segmentSize) < lsn) this.skip();
    assert(nextRecordLsn(this.at, this.options.segmentSize) === lsn, "records follow one another");
    this.put(bytes, bytes.length);
    const padding = (RECORD_ALIGNMENT - (this.at % RECORD_ALIGNMENT)) % RECORD_ALIGNMENT;
    if (padding > 0) this.move(padding);
  }

  /** Adds what there is of a record that was cut off: it fills its last page. The next record says that it has no rest. */
  addCutOff(lsn: Lsn, bytes: Uint8Array): void {
    assert(nextRecordLsn(this.at, this.options.segmentSize) === lsn, "records follow one another");
    const claimedLength = new DataView(bytes.buffer, bytes.byteOffset, bytes.length).getUint32(0, true);
    assert(claimedLength > bytes.length, "a record that is cut off has no end");
    this.put(bytes, claimedLength);
    assert(this.at % PAGE_SIZE === 0, "a record is cut off at the end of a page");
    this.overwrites = true;
  }

  /** Leaves everything void up to the end of a record: that of a switch to the next segment lies far behind it. */
  skipTo(endLsn: Lsn): void {
    while (this.at < endLsn) this.endPage();
  }

  /** What there is of the page that is not full yet. View: valid until the next call. */
  get unfinished(): { readonly lsn: Lsn; readonly bytes: Uint8Array } {
    const lsn = lsnAlignDown(this.at, PAGE_SIZE);
    return { lsn, bytes: this.page.subarray(0, this.at - lsn) };
  }

  /** Fills the last segment with zeros. */
  finish(): void {
    while (this.at % this.options.segmentSize !== 0) this.endPage();
  }

  /** Leaves the rest of the page void, as it is behind a switch to the next segment. */
  private skip(): void {
    this.endPage();
  }

  /** The beginning of a record, or all of it; its header says how long it is. */
  private put(bytes: Uint8Array, claimedLength: number): void {
    let done = 0;
    while (done < bytes.length) {
      if (this.at % PAGE_SIZE === 0) this.startPage(done === 0 ? 0 : claimedLength - done);
      const offset = this.at % PAGE_SIZE;
      const count = Math.min(bytes.length - done, PAGE_SIZE - offset);
      this.page.set(bytes.subarray(done, done + count), offset);
      this.move(count);
      done += count;
    }
  }

  private startPage(remainingLength: number): void {
    const { overwrites } = this;
    this.overwrites = false;
    const header = { ...this.options, remainingLength, overwrites };
    this.at = lsnAdd(this.at, encodePageHeader(this.page, 0, this.at, header));
  }

  private move(count: number): void {
    this.at = lsnAdd(this.at, count);
    if (this.at % PAGE_SIZE === 0) this.emit(lsnAdd(this.at, -PAGE_SIZE));
  }

  private endPage(): void {
    const pageLsn = lsnAlignDown(this.at, PAGE_SIZE);
    this.at = lsnAdd(pageLsn, PAGE_SIZE);
    this.emit(pageLsn);
  }

  private emit(pageLsn: Lsn): void {
    this.sink(pageLsn, this.page);
    this.page.fill(0);
  }
}
