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
/** Bytes of a varint that fit into a number without a doubt. */
const PLAIN_BYTES = 7;

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

  private varintNumber(): number {
    const start = this.position;
    let value = 0;
    let factor = 1;
    for (let index = 0; index < PLAIN_BYTES; index++) {
      const byte = this.bytes[this.take(1)] ?? 0;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
      factor *= 128;
    }
    this.position = start;
    const whole = this.varint();
    return whole > BigInt(Number.MAX_SAFE_INTEGER) ? Number.POSITIVE_INFINITY : Number(whole);
  }

  private varint(): bigint {
    const start = this.position;
    let value = 0n;
    for (let index = 0; index < VARINT_BYTES_MAX; index++) {
      const byte = this.bytes[this.take(1)] ?? 0;
      value |= BigInt(byte & 0x7f) << BigInt(7 * index);
      if (byte < 0x80) return BigInt.asUintN(64, value);
    }
    throw this.wrong(start, "a varint without end");
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
  private buffer = new Uint8Array(64);
  private position = 0;

  u32(field: number, value: number): this {
    return value === 0 ? this : this.tag(field, WireType.Varint).varint(value);
  }

  bool(field: number, value: boolean): this {
    return this.u32(field, value ? 1 : 0);
  }

  u64(field: number, value: bigint): this {
    if (value === 0n) return this;
    this.tag(field, WireType.Varint);
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

  /** View. */
  finish(): Uint8Array {
    return this.buffer.subarray(0, this.position);
  }

  private blob(field: number, bytes: Uint8Array): this {
    this.tag(field, WireType.Bytes).varint(bytes.length);
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
