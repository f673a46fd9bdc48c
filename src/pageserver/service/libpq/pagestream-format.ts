/**
 * Messages of the page stream, versions 2 and 3: one request or answer in each CopyData. Big-endian.
 *
 *   request       offset  size  field
 *                      0     1  tag
 *                      1     8  request id (version 3 only; opaque)
 *                    1|9     8  LSN that is asked for; all ones: the latest
 *                   9|17     8  not modified since: the answer is the same from there on
 *                  17|25        what is asked for:
 *     0 Exists, 1 Nblocks        tablespace, database, relation u32, fork u8
 *     2 GetPage                  the same, block u32
 *     3 DbSize                   database u32
 *     4 GetSlruSegment           kind u8 (0 pg_xact, 1 multixact members, 2 multixact offsets), segment u32
 *
 *   answer             0     1  100 Exists, 101 Nblocks, 102 GetPage, 103 error, 104 DbSize, 105 GetSlruSegment
 *                      1        version 3 only: the request again from offset 1 on (of an error: its first 24 bytes)
 *                               Exists u8 · Nblocks u32 · GetPage 8192 bytes · DbSize u64 · error: text and NUL ·
 *                               GetSlruSegment: number of blocks u32, then the blocks
 */
import { ByteReader } from "../../../base/bytes.ts";
import { corrupt } from "../../../base/errors.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../../base/lsn.ts";
import { PAGE_SIZE } from "../../../postgres/constants.ts";
import { Slru } from "../../../postgres/slru.ts";
import type { RelationFork } from "../../../postgres/relation.ts";

export type StreamVersion = 2 | 3;

export const StreamTag = { Exists: 0, Nblocks: 1, GetPage: 2, DbSize: 3, GetSlruSegment: 4 } as const;
const AnswerTag = {
  Exists: 100,
  Nblocks: 101,
  GetPage: 102,
  Error: 103,
  DbSize: 104,
  GetSlruSegment: 105,
} as const;
const LSN_SIZE = 8;
const REQUEST_ID_SIZE = 8;
/** What an error of version 3 repeats of its request: id and both LSNs. */
const ECHO_OF_ERROR = REQUEST_ID_SIZE + 2 * LSN_SIZE;
const SLRUS: readonly Slru[] = [Slru.Xact, Slru.MultixactMembers, Slru.MultixactOffsets];
const FORK_MAX = 3;

interface RequestHead {
  /** `MAX_LSN`: the latest. */
  readonly lsn: Lsn;
  readonly notModifiedSince: Lsn;
  /** What an answer of version 3 repeats. A copy. */
  readonly echo: Uint8Array;
}

export type StreamRequest = RequestHead &
  (
    | { readonly kind: "exists" | "nblocks"; readonly fork: RelationFork }
    | { readonly kind: "page"; readonly fork: RelationFork; readonly block: number }
    | { readonly kind: "db-size"; readonly dbOid: number }
    | { readonly kind: "slru"; readonly slru: Slru; readonly segment: number }
  );

export type PageRequest = Extract<StreamRequest, { readonly kind: "page" }>;

/** A request that makes no sense, but whose beginning does: it is answered, and the stream goes on. */
export interface BadRequest {
  readonly kind: "bad";
  readonly echo: Uint8Array;
  readonly message: string;
}

/** Throws `corrupt` for what is no request at all. */
export function decodeStreamRequest(payload: Uint8Array, version: StreamVersion): StreamRequest | BadRequest {
  const reader = new ByteReader(payload);
  const tag = reader.u8();
  const echo = payload.subarray(1);
  if (version === 3) reader.skip(REQUEST_ID_SIZE);
  const lsn = readLsn(reader);
  const notModifiedSince = readLsn(reader);
  const bad = (message: string): BadRequest => ({ kind: "bad", echo, message });
  const head = { lsn, notModifiedSince, echo };
  const request = readBody(reader, tag, head);
  if (request === undefined) return bad(`unknown request ${tag}`);
  if (reader.remaining > 0) throw corrupt(`${reader.remaining} bytes behind the end of a page request`);
  if (lsn === 0) return bad("invalid LSN(0) in request");
  if ("fork" in request && request.fork.fork > FORK_MAX) return bad(`fork ${request.fork.fork}`);
  if ("fork" in request && request.fork.relNumber === 0) return bad("relation 0");
  return request;
}

function readBody(reader: ByteReader, tag: number, head: RequestHead): StreamRequest | undefined {
  switch (tag) {
    case StreamTag.Exists:
      return { ...head, kind: "exists", fork: readFork(reader) };
    case StreamTag.Nblocks:
      return { ...head, kind: "nblocks", fork: readFork(reader) };
    case StreamTag.GetPage:
      return { ...head, kind: "page", fork: readFork(reader), block: reader.u32be() };
    case StreamTag.DbSize:
      return { ...head, kind: "db-size", dbOid: reader.u32be() };
    case StreamTag.GetSlruSegment: {
      const slru = SLRUS[reader.u8()];
      const segment = reader.u32be();
      return slru === undefined ? undefined : { ...head, kind: "slru", slru, segment };
    }
    default:
      return undefined;
  }
}

function readFork(reader: ByteReader): RelationFork {
  return {
    spcOid: reader.u32be(),
    dbOid: reader.u32be(),
    relNumber: reader.u32be(),
    fork: reader.u8(),
  };
}

/** What lies beyond all LSNs that can occur means the latest, as all ones do. */
function readLsn(reader: ByteReader): Lsn {
  const high = reader.u32be();
  const low = reader.u32be();
  return high > LSN_HIGH_MAX ? MAX_LSN : toLsn(high * 2 ** 32 + low);
}

/** High word of the last LSN that can occur. */
const LSN_HIGH_MAX = 0x1fffff;
const COPY_DATA = "d".charCodeAt(0);
const FRAME_HEAD_SIZE = 5;
/** A batch of pages and what surrounds them. */
const BUFFER_BYTES = 32 * (PAGE_SIZE + 128);
/** Buffers that wait to be used again: one is being filled while another is on its way. */
const BUFFERS_KEPT = 2;

/**
 * Writes answers of one version as CopyData frames, one behind the other, into a buffer that is used again when it has
 * been sent.
 */
export class AnswerWriter {
  private readonly version: StreamVersion;
  private readonly free: Uint8Array[] = [];
  private buffer: Uint8Array = new Uint8Array(BUFFER_BYTES);
  private view = new DataView(this.buffer.buffer);
  private used = 0;

  constructor(version: StreamVersion) {
    this.version = version;
  }

  /** The frames written since the last call; to be called back for once they have been sent. */
  take(): { readonly frames: Uint8Array; readonly onWritten: () => void } {
    const { buffer } = this;
    const frames = buffer.subarray(0, this.used);
    this.use(this.free.pop() ?? new Uint8Array(BUFFER_BYTES));
    const onWritten = (): void => {
      if (buffer.length === BUFFER_BYTES && this.free.length < BUFFERS_KEPT) this.free.push(buffer);
    };
    return { frames, onWritten };
  }

  exists(request: RequestHead, exists: boolean): void {
    this.buffer[this.begin(AnswerTag.Exists, request.echo, 1)] = exists ? 1 : 0;
  }

  blocks(request: RequestHead, count: number): void {
    const at = this.begin(AnswerTag.Nblocks, request.echo, 4);
    this.view.setUint32(at, count, false);
  }

  page(request: RequestHead, page: Uint8Array): void {
    const at = this.begin(AnswerTag.GetPage, request.echo, PAGE_SIZE);
    this.buffer.set(page, at);
  }

  databaseSize(request: RequestHead, sizeBytes: number): void {
    const at = this.begin(AnswerTag.DbSize, request.echo, 8);
    this.view.setBigUint64(at, BigInt(sizeBytes), false);
  }

  slru(request: RequestHead, pages: readonly Uint8Array[]): void {
    const at = this.begin(AnswerTag.GetSlruSegment, request.echo, 4 + pages.length * PAGE_SIZE);
    this.view.setUint32(at, pages.length, false);
    for (const [index, page] of pages.entries()) this.buffer.set(page, at + 4 + index * PAGE_SIZE);
  }

  error(request: Pick<RequestHead, "echo">, message: string): void {
    const text = Buffer.from(`${message.replaceAll("\0", "")}\0`, "utf8");
    const at = this.begin(AnswerTag.Error, request.echo.subarray(0, ECHO_OF_ERROR), text.length);
    this.buffer.set(text, at);
  }

  /** Writes everything before the body, whose place is returned. */
  private begin(tag: number, echo: Uint8Array, bodySize: number): number {
    const repeated = this.version === 3 ? echo.length : 0;
    const payload = 1 + repeated + bodySize;
    this.reserve(FRAME_HEAD_SIZE + payload);
    const start = this.used;
    const at = start + FRAME_HEAD_SIZE;
    this.buffer[start] = COPY_DATA;
    this.view.setUint32(start + 1, payload + 4, false);
    this.buffer[at] = tag;
    if (repeated > 0) this.buffer.set(echo, at + 1);
    this.used = at + payload;
    return at + 1 + repeated;
  }

  private reserve(sizeBytes: number): void {
    if (this.used + sizeBytes <= this.buffer.length) return;
    const { buffer, used } = this;
    this.use(new Uint8Array(Math.max(used + sizeBytes, 2 * buffer.length)));
    this.buffer.set(buffer.subarray(0, used));
    this.used = used;
  }

  private use(buffer: Uint8Array): void {
    this.buffer = buffer;
    this.view = new DataView(buffer.buffer);
    this.used = 0;
  }
}
