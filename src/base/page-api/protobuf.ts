/**
 * Protobuf's wire format, as far as the page API needs it: varints, lengths, nested messages; unknown fields are skipped.
 * A length is checked against what is there before it is believed, and a wrong byte is a `corrupt` error with its offset.
 * Source: protobuf.dev, "Encoding".
 *
 *   field    tag (varint: number << 3 | wire type), then by wire type
 *            0 varint · 1 eight bytes · 2 length (varint) and so many bytes · 5 four bytes
 *   varint   seven bits a byte, the lowest first; the high bit says that more follow; at most ten bytes
 */
import { corrupt } from "../errors.ts";

export const WireType = { Varint: 0, Fixed64: 1, Bytes: 2, Fixed32: 5 } as const;

const VARINT_BYTES_MAX = 10;
const FIELD_NUMBER_MAX = 0x1fffffff;
const U32_MAX = 0xffffffff;
const SAFE_MAX = BigInt(Number.MAX_SAFE_INTEGER);
const LAST_BYTE = VARINT_BYTES_MAX - 1;

export class ProtoReader {
  private readonly bytes: Uint8Array;
  private position: number;
  private readonly end: number;
  /** Wire type of the field that `next` has found. */
  private wireType = 0;

  /** Reads a message in `bytes[start..end)`. Does not copy. */
  constructor(bytes: Uint8Array, start = 0, end: number = bytes.length) {
    this.bytes = bytes;
    this.position = start;
    this.end = end;
  }

  /** Number of the next field, 0 at the end. Its value must be read, or skipped, before the next call. */
  next(): number {
    if (this.position === this.end) return 0;
    const at = this.position;
    const tag = this.varintNumber();
    this.wireType = tag % 8;
    const field = Math.floor(tag / 8);
    if (field < 1 || field > FIELD_NUMBER_MAX) throw this.wrong(at, "no field number");
    return field;
  }

  u32(): number {
    const at = this.position;
    this.want(WireType.Varint);
    const value = this.varintNumber();
    if (value > U32_MAX) throw this.wrong(at, "more than 32 bits");
    return value;
  }

  bool(): boolean {
    this.want(WireType.Varint);
    return this.varintNumber() !== 0;
  }

  u64(): bigint {
    this.want(WireType.Varint);
    return this.varint();
  }

  /** As a number; infinite from 2^53 on. */
  u64Number(): number {
    this.want(WireType.Varint);
    return this.varintNumber();
  }

  /** View of the bytes: valid as long as the buffer is unchanged. */
  view(): Uint8Array {
    const { start, end } = this.range();
    return this.bytes.subarray(start, end);
  }

  text(): string {
    return new TextDecoder().decode(this.view());
  }

  message(): ProtoReader {
    const { start, end } = this.range();
    return new ProtoReader(this.bytes, start, end);
  }

  /** One number, or several packed together; those beyond `countMax` are counted by the return value, not kept. */
  u32s(into: number[], countMax: number): number {
    if (this.wireType !== WireType.Bytes) {
      const value = this.u32();
      if (into.length < countMax) into.push(value);
      return 1;
    }
    const packed = this.message();
    let count = 0;
    while (packed.position < packed.end) {
      const value = packed.u32();
      if (into.length < countMax) into.push(value);
      count++;
    }
    return count;
  }

  skip(): void {
    switch (this.wireType) {
      case WireType.Varint:
        this.varintNumber();
        return;
      case WireType.Bytes:
        this.range();
        return;
      case WireType.Fixed64:
        this.take(8);
        return;
      case WireType.Fixed32:
        this.take(4);
        return;
      default:
        throw this.wrong(this.position, `wire type ${this.wireType}`);
    }
  }

  private want(wireType: number): void {
    if (this.wireType !== wireType) throw this.wrong(this.position, `wire type ${this.wireType}`);
  }

  private range(): { start: number; end: number } {
    this.want(WireType.Bytes);
    const length = this.varintNumber();
    const start = this.take(length);
    return { start, end: this.position };
  }

  private take(sizeBytes: number): number {
    const at = this.position;
    if (sizeBytes > this.end - at) throw this.wrong(at, `${sizeBytes} bytes wanted, ${this.end - at} left`);
    this.position = at + sizeBytes;
    return at;
  }

  /** Sums up to 2^53 are exact, and rounding never takes a greater one below. */
  private varintNumber(): number {
    const start = this.position;
    let value = 0;
    let factor = 1;
    for (let index = 0; index < VARINT_BYTES_MAX; index++) {
      const byte = this.bytes[this.take(1)] ?? 0;
      // Of the last byte one bit belongs to the number.
      value += (byte & (index < LAST_BYTE ? 0x7f : 1)) * factor;
      if (byte < 0x80) return value > Number.MAX_SAFE_INTEGER ? Number.POSITIVE_INFINITY : value;
      factor *= 128;
    }
    throw this.wrong(start, "a varint without end");
  }

  private varint(): bigint {
    const start = this.position;
    const plain = this.varintNumber();
    if (plain !== Number.POSITIVE_INFINITY) return BigInt(plain);
    const { position } = this;
    let value = 0n;
    for (let at = position - 1; at >= start; at--)
      value = (value << 7n) | BigInt((this.bytes[at] ?? 0) & 0x7f);
    return BigInt.asUintN(64, value);
  }

  private wrong(offset: number, what: string): Error {
    return corrupt(`no Protobuf: ${what} at offset ${offset}`, { offset });
  }
}

/** Bytes of a number as a varint. */
export function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) size++;
  return size;
}

/** Writes a number as a varint; returns where it ends. */
export function putVarint(target: Uint8Array, at: number, value: number): number {
  let next = at;
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) target[next++] = (rest % 128) + 128;
  target[next++] = rest;
  return next;
}

/** Writes small messages. Fields that have their default value are left out, as proto3 wants it. */
export class ProtoWriter {
  private buffer: Uint8Array;
  private position = 0;

  /** Writes into these zeros while they suffice. */
  constructor(room: Uint8Array = new Uint8Array(64)) {
    this.buffer = room;
  }

  get sizeBytes(): number {
    return this.position;
  }

  u32(field: number, value: number): this {
    return value === 0 ? this : this.tag(field, WireType.Varint).varint(value);
  }

  bool(field: number, value: boolean): this {
    return this.u32(field, value ? 1 : 0);
  }

  u64(field: number, value: bigint): this {
    if (value === 0n) return this;
    this.tag(field, WireType.Varint);
    if (value <= SAFE_MAX) return this.varint(Number(value));
    let rest = BigInt.asUintN(64, value);
    for (; rest >= 128n; rest >>= 7n) this.byte(Number(rest & 0x7fn) | 0x80);
    return this.byte(Number(rest));
  }

  /** A number up to 2^53. */
  u64Number(field: number, value: number): this {
    return this.u32(field, value);
  }

  u32s(field: number, values: readonly number[]): this {
    if (values.length === 0) return this;
    const packed = new ProtoWriter();
    for (const value of values) packed.varint(value);
    return this.message(field, packed);
  }

  text(field: number, text: string): this {
    return text === "" ? this : this.blob(field, new TextEncoder().encode(text));
  }

  bytes(field: number, bytes: Uint8Array): this {
    return bytes.length === 0 ? this : this.blob(field, bytes);
  }

  /** Is written even if it is empty: a message that is there. */
  message(field: number, message: ProtoWriter): this {
    return this.blob(field, message.finish());
  }

  /** Begins a message within this one, which is there even if nothing is put into it; returns what `close` wants. */
  open(field: number): number {
    this.tag(field, WireType.Bytes);
    return this.room(1);
  }

  /** Ends the message that was begun last. */
  close(opened: number): this {
    const start = opened + 1;
    const size = this.position - start;
    const extra = varintSize(size) - 1;
    if (extra > 0) {
      this.room(extra);
      this.buffer.copyWithin(start + extra, start, start + size);
    }
    putVarint(this.buffer, opened, size);
    return this;
  }

  /** Begins a field of bytes whose bytes come from elsewhere. */
  blobHead(field: number, sizeBytes: number): this {
    return this.tag(field, WireType.Bytes).varint(sizeBytes);
  }

  /** Leaves so many bytes free, to be set afterwards; where they are. */
  gap(sizeBytes: number): number {
    return this.room(sizeBytes);
  }

  /** In a gap. */
  setU32be(at: number, value: number): void {
    for (let index = 0; index < 4; index++) this.buffer[at + index] = value >>> (24 - 8 * index);
  }

  /** View. */
  finish(): Uint8Array {
    return this.buffer.subarray(0, this.position);
  }

  private blob(field: number, bytes: Uint8Array): this {
    this.blobHead(field, bytes.length);
    const at = this.room(bytes.length);
    this.buffer.set(bytes, at);
    return this;
  }

  private tag(field: number, wireType: number): this {
    return this.varint(field * 8 + wireType);
  }

  private varint(value: number): this {
    const at = this.room(varintSize(value));
    putVarint(this.buffer, at, value);
    return this;
  }

  private byte(value: number): this {
    const at = this.room(1);
    this.buffer[at] = value;
    return this;
  }

  private room(sizeBytes: number): number {
    const at = this.position;
    this.position += sizeBytes;
    if (this.position > this.buffer.length) {
      const grown = new Uint8Array(Math.max(2 * this.buffer.length, this.position));
      grown.set(this.buffer.subarray(0, at));
      this.buffer = grown;
    }
    return at;
  }
}
