/**
 * Cursors over bytes. Every method's name carries width, sign and byte order; every read is bounds-checked and a
 * failure is a `corrupt` error with the offset. One `DataView` per buffer, never one per value.
 */
import { corrupt } from "./errors.ts";
import { type Lsn, lsnFromWords, lsnHigh, lsnLow } from "./lsn.ts";

const utf8 = new TextDecoder("utf-8", { fatal: false });
const utf8Encoder = new TextEncoder();

export class ByteReader {
  readonly bytes: Uint8Array;
  readonly end: number;
  private readonly view: DataView;
  private position: number;

  /** Reads `bytes[start..end)`. Does not copy. */
  constructor(bytes: Uint8Array, start = 0, end: number = bytes.length) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = start;
    this.end = end;
  }

  get offset(): number {
    return this.position;
  }

  get remaining(): number {
    return this.end - this.position;
  }

  private take(sizeBytes: number): number {
    const at = this.position;
    if (sizeBytes < 0 || sizeBytes > this.end - at) {
      throw corrupt(`${sizeBytes} bytes wanted at offset ${at}, ${this.end - at} left`, {
        offset: at,
        wanted: sizeBytes,
        left: this.end - at,
      });
    }
    this.position = at + sizeBytes;
    return at;
  }

  skip(sizeBytes: number): void {
    this.take(sizeBytes);
  }

  u8(): number {
    return this.view.getUint8(this.take(1));
  }
  u16le(): number {
    return this.view.getUint16(this.take(2), true);
  }
  u16be(): number {
    return this.view.getUint16(this.take(2), false);
  }
  u32le(): number {
    return this.view.getUint32(this.take(4), true);
  }
  u32be(): number {
    return this.view.getUint32(this.take(4), false);
  }
  i16be(): number {
    return this.view.getInt16(this.take(2), false);
  }
  i32le(): number {
    return this.view.getInt32(this.take(4), true);
  }
  i32be(): number {
    return this.view.getInt32(this.take(4), false);
  }
  u64le(): bigint {
    return this.view.getBigUint64(this.take(8), true);
  }
  i64le(): bigint {
    return this.view.getBigInt64(this.take(8), true);
  }
  u64be(): bigint {
    return this.view.getBigUint64(this.take(8), false);
  }
  i64be(): bigint {
    return this.view.getBigInt64(this.take(8), false);
  }
  f64le(): number {
    return this.view.getFloat64(this.take(8), true);
  }
  u64leLsn(): Lsn {
    const at = this.take(8);
    return lsnFromWords(this.view.getUint32(at + 4, true), this.view.getUint32(at, true));
  }
  u64beLsn(): Lsn {
    const at = this.take(8);
    return lsnFromWords(this.view.getUint32(at, false), this.view.getUint32(at + 4, false));
  }
  /** View: valid as long as the underlying buffer is unchanged. */
  subarray(sizeBytes: number): Uint8Array {
    const at = this.take(sizeBytes);
    return this.bytes.subarray(at, at + sizeBytes);
  }
  /** Copy. */
  copy(sizeBytes: number): Uint8Array {
    return new Uint8Array(this.subarray(sizeBytes));
  }
  utf8(sizeBytes: number): string {
    return utf8.decode(this.subarray(sizeBytes));
  }
  /** Text up to a NUL, which is consumed. */
  cstring(): string {
    const stop = this.bytes.indexOf(0, this.position);
    if (stop < 0 || stop >= this.end)
      throw corrupt(`unterminated string at offset ${this.position}`, { offset: this.position });
    const text = utf8.decode(this.bytes.subarray(this.position, stop));
    this.position = stop + 1;
    return text;
  }
}

/** Grows as needed; `finish` returns a copy of what was written. */
export class ByteWriter {
  private buffer: Uint8Array;
  private view: DataView;
  private position = 0;

  constructor(capacityBytes = 256) {
    this.buffer = new Uint8Array(capacityBytes);
    this.view = new DataView(this.buffer.buffer);
  }

  get length(): number {
    return this.position;
  }

  /** Where to write so many bytes. May replace `view` and `buffer`, so it is called before either is named. */
  private room(sizeBytes: number): number {
    const at = this.position;
    if (at + sizeBytes > this.buffer.length) {
      const grown = new Uint8Array(Math.max(this.buffer.length * 2, at + sizeBytes));
      grown.set(this.buffer);
      this.buffer = grown;
      this.view = new DataView(grown.buffer);
    }
    this.position = at + sizeBytes;
    return at;
  }

  u8(value: number): this {
    const at = this.room(1);
    this.view.setUint8(at, value);
    return this;
  }
  u16le(value: number): this {
    const at = this.room(2);
    this.view.setUint16(at, value, true);
    return this;
  }
  u16be(value: number): this {
    const at = this.room(2);
    this.view.setUint16(at, value, false);
    return this;
  }
  u32le(value: number): this {
    const at = this.room(4);
    this.view.setUint32(at, value, true);
    return this;
  }
  u32be(value: number): this {
    const at = this.room(4);
    this.view.setUint32(at, value, false);
    return this;
  }
  i16be(value: number): this {
    const at = this.room(2);
    this.view.setInt16(at, value, false);
    return this;
  }
  i32le(value: number): this {
    const at = this.room(4);
    this.view.setInt32(at, value, true);
    return this;
  }
  i32be(value: number): this {
    const at = this.room(4);
    this.view.setInt32(at, value, false);
    return this;
  }
  u64le(value: bigint): this {
    const at = this.room(8);
    this.view.setBigUint64(at, value, true);
    return this;
  }
  i64le(value: bigint): this {
    const at = this.room(8);
    this.view.setBigInt64(at, value, true);
    return this;
  }
  u64be(value: bigint): this {
    const at = this.room(8);
    this.view.setBigUint64(at, value, false);
    return this;
  }
  i64be(value: bigint): this {
    const at = this.room(8);
    this.view.setBigInt64(at, value, false);
    return this;
  }
  u64leLsn(lsn: Lsn): this {
    const at = this.room(8);
    this.view.setUint32(at, lsnLow(lsn), true);
    this.view.setUint32(at + 4, lsnHigh(lsn), true);
    return this;
  }
  u64beLsn(lsn: Lsn): this {
    const at = this.room(8);
    this.view.setUint32(at, lsnHigh(lsn), false);
    this.view.setUint32(at + 4, lsnLow(lsn), false);
    return this;
  }
  bytes(bytes: Uint8Array): this {
    const at = this.room(bytes.length);
    this.buffer.set(bytes, at);
    return this;
  }
  zeros(sizeBytes: number): this {
    const at = this.room(sizeBytes);
    this.buffer.fill(0, at, at + sizeBytes);
    return this;
  }
  utf8(text: string): this {
    return this.bytes(utf8Encoder.encode(text));
  }
  cstring(text: string): this {
    return this.utf8(text).u8(0);
  }
  /** Overwrites four bytes that were written before. */
  patchU32le(offset: number, value: number): this {
    this.view.setUint32(offset, value, true);
    return this;
  }
  patchI32be(offset: number, value: number): this {
    this.view.setInt32(offset, value, false);
    return this;
  }
  finish(): Uint8Array {
    return this.buffer.slice(0, this.position);
  }
}
