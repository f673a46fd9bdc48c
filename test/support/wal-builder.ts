/**
 * Builds raw WAL for tests, slowly and plainly: byte after byte, a page header wherever one is due, CRC bit by bit.
 * Shares no code with the decoder, so that both do not have the same mistake.
 */

const PAGE = 8192;
export const MAGIC_17 = 0xd116;

export interface ImageSpec {
  /** The bytes as they lie in the record: hole cut out, perhaps compressed. */
  readonly stored: Uint8Array;
  readonly info: number;
  readonly holeOffset?: number;
  /** Written only when given: compressed images with a hole have it. */
  readonly holeLength?: number;
}

export interface BlockSpec {
  readonly id: number;
  readonly fork?: number;
  /** Tablespace, database, relation; absent: the same as the block before. */
  readonly relation?: readonly [number, number, number];
  readonly block: number;
  readonly willInit?: boolean;
  readonly image?: ImageSpec;
  readonly data?: Uint8Array;
}

export interface RecordSpec {
  readonly xid?: number;
  readonly info?: number;
  readonly rmgr?: number;
  readonly blocks?: readonly BlockSpec[];
  readonly origin?: number;
  readonly topXid?: number;
  readonly main?: Uint8Array;
  /** Use the long form of the main-data header though the short one would do. */
  readonly longMain?: boolean;
}

export interface BuiltRecord {
  readonly lsn: number;
  readonly endLsn: number;
  readonly bytes: Buffer;
  readonly spec: RecordSpec;
}

/** CRC-32C, one bit at a time. */
export function slowCrc32c(...parts: readonly Uint8Array[]): number {
  let crc = 0xffffffff;
  for (const part of parts) {
    for (const byte of part) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
  }
  return ~crc >>> 0;
}

const u16 = (value: number): number[] => [value & 255, (value >>> 8) & 255];
const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)];
const u64 = (value: bigint): number[] =>
  Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 255n));

/** The record's bytes, checksum included. */
export function buildRecord(spec: RecordSpec, previous: number): Buffer {
  const head: number[] = [];
  const body: Uint8Array[] = [];
  for (const block of spec.blocks ?? []) {
    const { image, data } = block;
    const flags =
      (block.fork ?? 0) |
      (image ? 0x10 : 0) |
      (data ? 0x20 : 0) |
      (block.willInit ? 0x40 : 0) |
      (block.relation ? 0 : 0x80);
    head.push(block.id, flags, ...u16(data?.length ?? 0));
    if (image) {
      head.push(...u16(image.stored.length), ...u16(image.holeOffset ?? 0), image.info);
      if (image.holeLength !== undefined) head.push(...u16(image.holeLength));
      body.push(image.stored);
    }
    for (const oid of block.relation ?? []) head.push(...u32(oid));
    head.push(...u32(block.block));
    if (data) body.push(data);
  }
  if (spec.origin !== undefined) head.push(253, ...u16(spec.origin));
  if (spec.topXid !== undefined) head.push(252, ...u32(spec.topXid));
  if (spec.main) {
    if (spec.main.length > 255 || spec.longMain) head.push(254, ...u32(spec.main.length));
    else head.push(255, spec.main.length);
    body.push(spec.main);
  }
  return sealRecord(Buffer.concat([Buffer.from(head), ...body]), spec, previous);
}

/** Puts the fixed header before any body at all. */
export function sealRecord(body: Uint8Array, spec: RecordSpec, previous: number): Buffer {
  const header = Buffer.from([
    ...u32(24 + body.length),
    ...u32(spec.xid ?? 0),
    ...u64(BigInt(previous)),
    spec.info ?? 0,
    spec.rmgr ?? 10,
    0,
    0,
  ]);
  return Buffer.concat([header, Buffer.from(u32(slowCrc32c(body, header))), body]);
}

export interface WalBuilderOptions {
  readonly start: number;
  readonly previous?: number;
  readonly segmentSize?: number;
  readonly systemId?: bigint;
  readonly magic?: number;
  readonly timeline?: number;
}

export class WalBuilder {
  readonly start: number;
  readonly segmentSize: number;
  readonly systemId: bigint;
  readonly records: BuiltRecord[] = [];
  timeline: number;
  private readonly magic: number;
  private readonly out: number[] = [];
  private previous: number;
  /** Set while a record is laid out: bytes of it still to come. */
  private remaining = 0;
  private overwrite = false;

  constructor(options: WalBuilderOptions) {
    this.start = options.start;
    this.previous = options.previous ?? 0;
    this.segmentSize = options.segmentSize ?? 1024 * 1024;
    this.systemId = options.systemId ?? 0x0123456789abcdefn;
    this.magic = options.magic ?? MAGIC_17;
    this.timeline = options.timeline ?? 1;
  }

  get position(): number {
    return this.start + this.out.length;
  }

  get bytes(): Buffer {
    return Buffer.from(this.out);
  }

  private header(continues: boolean): void {
    const lsn = this.position;
    const long = lsn % this.segmentSize === 0;
    const info = (continues ? 1 : 0) | (long ? 2 : 0) | 4 | (this.overwrite ? 8 : 0);
    this.overwrite = false;
    this.out.push(...u16(this.magic), ...u16(info), ...u32(this.timeline), ...u64(BigInt(lsn)));
    this.out.push(...u32(continues ? this.remaining : 0), 0, 0, 0, 0);
    if (long) this.out.push(...u64(this.systemId), ...u32(this.segmentSize), ...u32(PAGE));
  }

  private lay(bytes: Uint8Array, count: number): void {
    this.remaining = bytes.length;
    for (let i = 0; i < count; i++, this.remaining--) {
      if (this.position % PAGE === 0) this.header(i > 0);
      this.out.push(bytes[i] as number);
    }
  }

  /** Appends a record; its start is behind the header if one is due. */
  add(spec: RecordSpec): BuiltRecord {
    return this.addBytes(buildRecord(spec, this.previous), spec);
  }

  addBytes(bytes: Buffer, spec: RecordSpec = {}): BuiltRecord {
    if (this.position % PAGE === 0) this.header(false);
    const lsn = this.position;
    this.lay(bytes, bytes.length);
    while (this.position % 8 !== 0) this.out.push(0);
    const built = { lsn, endLsn: this.position, bytes, spec };
    this.records.push(built);
    this.previous = lsn;
    return built;
  }

  /** XLOG_SWITCH: the rest of the segment is void, here filled with `filler`. */
  switchSegment(filler = 0): BuiltRecord {
    const built = this.add({ rmgr: 0, info: 0x40 });
    while (this.position % this.segmentSize !== 0) this.out.push(filler);
    const switched = { ...built, endLsn: this.position };
    this.records[this.records.length - 1] = switched;
    return switched;
  }

  /**
   * Begins a record, abandons it after `count` bytes, fills the page with zeros, and goes on at the next page with
   * OVERWRITE_CONTRECORD.
   */
  abandon(
    spec: RecordSpec,
    count: number,
    named?: number,
  ): { readonly abandonedLsn: number; readonly overwrite: BuiltRecord } {
    const bytes = buildRecord(spec, this.previous);
    if (this.position % PAGE === 0) this.header(false);
    const abandonedLsn = this.position;
    this.lay(bytes, count);
    while (this.position % PAGE !== 0) this.out.push(0);
    this.overwrite = true;
    const main = Buffer.from([...u64(BigInt(named ?? abandonedLsn)), ...u64(0n)]);
    const overwrite = this.add({ rmgr: 0, info: 0xd0, main });
    return { abandonedLsn, overwrite };
  }

  /** Adds one record that ends at `target`, a multiple of 8 that leaves at least 24 bytes for it. */
  fillTo(target: number): BuiltRecord {
    let length = 0;
    for (let at = this.position; at < target; at++) {
      if (at % PAGE === 0) at += at % this.segmentSize === 0 ? 40 : 24;
      length++;
    }
    if (length < 24) throw new Error(`no record has ${length} bytes`);
    const mainLength = length === 24 ? 0 : length <= 26 + 255 ? length - 26 : length - 29;
    const built = this.add(mainLength === 0 ? {} : { main: new Uint8Array(mainLength).fill(0x5a) });
    if (built.endLsn !== target) throw new Error(`filled to ${built.endLsn} instead of ${target}`);
    return built;
  }
}
