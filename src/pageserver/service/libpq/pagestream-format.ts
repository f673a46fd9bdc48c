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
  const value = reader.u64be();
  return value >= BigInt(MAX_LSN) ? MAX_LSN : toLsn(Number(value));
}

/** Writes answers of one version. */
export class AnswerWriter {
  private readonly version: StreamVersion;

  constructor(version: StreamVersion) {
    this.version = version;
  }

  exists(request: RequestHead, exists: boolean): Uint8Array {
    const { bytes, at } = this.answer(AnswerTag.Exists, request.echo, 1);
    bytes[at] = exists ? 1 : 0;
    return bytes;
  }

  blocks(request: RequestHead, count: number): Uint8Array {
    const { bytes, view, at } = this.answer(AnswerTag.Nblocks, request.echo, 4);
    view.setUint32(at, count, false);
    return bytes;
  }

  page(request: RequestHead, page: Uint8Array): Uint8Array {
    const { bytes, at } = this.answer(AnswerTag.GetPage, request.echo, PAGE_SIZE);
    bytes.set(page, at);
    return bytes;
  }

  databaseSize(request: RequestHead, sizeBytes: number): Uint8Array {
    const { bytes, view, at } = this.answer(AnswerTag.DbSize, request.echo, 8);
    view.setBigUint64(at, BigInt(sizeBytes), false);
    return bytes;
  }

  slru(request: RequestHead, pages: readonly Uint8Array[]): Uint8Array {
    const { bytes, view, at } = this.answer(
      AnswerTag.GetSlruSegment,
      request.echo,
      4 + pages.length * PAGE_SIZE,
    );
    view.setUint32(at, pages.length, false);
    for (const [index, page] of pages.entries()) bytes.set(page, at + 4 + index * PAGE_SIZE);
    return bytes;
  }

  error(request: Pick<RequestHead, "echo">, message: string): Uint8Array {
    const text = Buffer.from(`${message.replaceAll("\0", "")}\0`, "utf8");
    const { bytes, at } = this.answer(AnswerTag.Error, request.echo.subarray(0, ECHO_OF_ERROR), text.length);
    bytes.set(text, at);
    return bytes;
  }

  private answer(
    tag: number,
    echo: Uint8Array,
    bodySize: number,
  ): { bytes: Uint8Array; view: DataView; at: number } {
    const repeated = this.version === 3 ? echo.length : 0;
    const bytes = new Uint8Array(1 + repeated + bodySize);
    bytes[0] = tag;
    if (repeated > 0) bytes.set(echo, 1);
    return { bytes, view: new DataView(bytes.buffer), at: 1 + repeated };
  }
}
