/**
 * Requests of the page API: our types to Protobuf, which cannot fail, and back, which checks everything. Field numbers
 * are those of `proto/page_service.proto`. What is no Protobuf is `corrupt`; a field that is missing or makes no
 * sense is `usage`, with the name of the field.
 */
import { ErrorCode, NeonError } from "../errors.ts";
import { type Lsn, MAX_LSN, toLsn } from "../lsn.ts";
import {
  BATCH_MAX,
  BackupCompression,
  type CheckRelExistsRequest,
  type GetBaseBackupRequest,
  type GetDbSizeRequest,
  type GetPageRequest,
  type GetRelSizeRequest,
  type GetSlruSegmentRequest,
  type LeaseLsnRequest,
  PageClass,
  type ReadAt,
  type RelTag,
  type RequestId,
} from "./page-model.ts";
import { ProtoReader, ProtoWriter } from "./protobuf.ts";

/** What Postgres keeps of a relation's forks fits into a byte; the forks themselves are 0 to 3. */
const FORK_MAX = 3;
/** All ones: the latest. */
const LATEST = 2n ** 64n - 1n;
const NO_REQUEST_ID: RequestId = { id: 0n, attempt: 0 };

function missing(field: string): NeonError {
  return new NeonError(ErrorCode.Usage, `required field '${field}' is missing`, { data: { field } });
}

function invalid(field: string, value: string | number | bigint): NeonError {
  return new NeonError(ErrorCode.Usage, `field '${field}' has invalid value '${value}'`, { data: { field } });
}

// Parts

/** From 2^53 on an LSN means the latest, as all ones do. */
function readLsn(reader: ProtoReader): Lsn {
  const value = reader.u64Number();
  return value >= MAX_LSN ? MAX_LSN : toLsn(value);
}

function putLsn(writer: ProtoWriter, field: number, lsn: Lsn): void {
  if (lsn === MAX_LSN) writer.u64(field, LATEST);
  else writer.u64Number(field, lsn);
}

interface RawRead {
  lsn: Lsn;
  since: Lsn;
}

/** Protobuf joins a message that comes twice, field by field. */
function decodeRead(reader: ProtoReader, into: RawRead | undefined): RawRead {
  const read = into ?? { lsn: toLsn(0), since: toLsn(0) };
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) read.lsn = readLsn(reader);
    else if (field === 2) read.since = readLsn(reader);
    else reader.skip();
  }
  return read;
}

function checkRead(read: RawRead | undefined): ReadAt {
  if (read === undefined) throw missing("read_lsn");
  if (read.lsn === 0) throw invalid("read_lsn.request_lsn", 0);
  if (read.since > read.lsn) throw invalid("read_lsn.not_modified_since_lsn", read.since);
  return { lsn: read.lsn, notModifiedSince: read.since === 0 ? read.lsn : read.since };
}

function encodeRead({ lsn, notModifiedSince }: ReadAt): ProtoWriter {
  const writer = new ProtoWriter();
  putLsn(writer, 1, lsn);
  putLsn(writer, 2, notModifiedSince);
  return writer;
}

type RawRel = { -readonly [Name in keyof RelTag]: RelTag[Name] };

export function decodeRel(reader: ProtoReader, into?: RawRel): RawRel {
  const rel = into ?? { spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) rel.spcOid = reader.u32();
    else if (field === 2) rel.dbOid = reader.u32();
    else if (field === 3) rel.relNumber = reader.u32();
    else if (field === 4) rel.fork = reader.u32();
    else reader.skip();
  }
  return rel;
}

function checkRel(rel: RelTag | undefined): RelTag {
  if (rel === undefined) throw missing("rel");
  if (rel.fork > FORK_MAX) throw invalid("rel.fork_number", rel.fork);
  if (rel.relNumber === 0) throw invalid("rel.rel_number", 0);
  return rel;
}

export function encodeRel(rel: RelTag): ProtoWriter {
  return putRel(new ProtoWriter(), rel);
}

export function putRel(writer: ProtoWriter, { spcOid, dbOid, relNumber, fork }: RelTag): ProtoWriter {
  return writer.u32(1, spcOid).u32(2, dbOid).u32(3, relNumber).u32(4, fork);
}

export function decodeRequestId(reader: ProtoReader, into: RequestId = NO_REQUEST_ID): RequestId {
  let { id, attempt } = into;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) id = reader.u64();
    else if (field === 2) attempt = reader.u32();
    else reader.skip();
  }
  return { id, attempt };
}

export function putRequestId(writer: ProtoWriter, { id, attempt }: RequestId): ProtoWriter {
  return writer.u64(1, id).u32(2, attempt);
}

// GetPages

/** A request, or what is wrong with it: that is answered under its id, and the stream goes on. */
export type ReceivedPageRequest =
  | { readonly kind: "request"; readonly request: GetPageRequest }
  | { readonly kind: "invalid"; readonly requestId: RequestId; readonly problem: NeonError };

/** Throws `corrupt` for what is no Protobuf. */
export function decodeGetPageRequest(bytes: Uint8Array): ReceivedPageRequest {
  const reader = new ProtoReader(bytes);
  let requestId: RequestId | undefined;
  let requestClass = 0;
  let read: RawRead | undefined;
  let rel: RawRel | undefined;
  const blocks: number[] = [];
  let count = 0;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) requestId = decodeRequestId(reader.message(), requestId);
    else if (field === 2) requestClass = reader.u64Number();
    else if (field === 3) read = decodeRead(reader.message(), read);
    else if (field === 4) rel = decodeRel(reader.message(), rel);
    else if (field === 5) count += reader.u32s(blocks, BATCH_MAX);
    else reader.skip();
  }
  try {
    if (requestId === undefined) throw missing("request_id");
    if (count === 0) throw missing("block_number");
    if (count > BATCH_MAX) {
      throw new NeonError(ErrorCode.Usage, `${count} blocks in one request, more than ${BATCH_MAX}`);
    }
    const request: GetPageRequest = {
      requestId,
      requestClass: classOf(requestClass),
      read: checkRead(read),
      rel: checkRel(rel),
      blocks,
    };
    return { kind: "request", request };
  } catch (error) {
    if (!(error instanceof NeonError)) throw error;
    return { kind: "invalid", requestId: requestId ?? NO_REQUEST_ID, problem: error };
  }
}

const CLASSES = Object.values(PageClass);

/** A class that is not known is one of a client newer than this. */
function classOf(value: number): PageClass {
  return CLASSES.find((known) => known === value) ?? PageClass.Unknown;
}

export function encodeGetPageRequest(request: GetPageRequest): Uint8Array {
  return new ProtoWriter()
    .message(1, putRequestId(new ProtoWriter(), request.requestId))
    .u32(2, request.requestClass)
    .message(3, encodeRead(request.read))
    .message(4, encodeRel(request.rel))
    .u32s(5, request.blocks)
    .finish();
}

// Sizes and existence

interface RawSizeRequest {
  read: RawRead | undefined;
  rel: RawRel | undefined;
  third: boolean;
}

function decodeRelRequest(bytes: Uint8Array): RawSizeRequest {
  const reader = new ProtoReader(bytes);
  const raw: RawSizeRequest = { read: undefined, rel: undefined, third: false };
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) raw.read = decodeRead(reader.message(), raw.read);
    else if (field === 2) raw.rel = decodeRel(reader.message(), raw.rel);
    else if (field === 3) raw.third = reader.bool();
    else reader.skip();
  }
  return raw;
}

export function decodeGetRelSizeRequest(bytes: Uint8Array): GetRelSizeRequest {
  const { read, rel, third } = decodeRelRequest(bytes);
  return { read: checkRead(read), rel: checkRel(rel), allowMissing: third };
}

export function encodeGetRelSizeRequest({ read, rel, allowMissing }: GetRelSizeRequest): Uint8Array {
  return new ProtoWriter()
    .message(1, encodeRead(read))
    .message(2, encodeRel(rel))
    .bool(3, allowMissing)
    .finish();
}

export function decodeCheckRelExistsRequest(bytes: Uint8Array): CheckRelExistsRequest {
  const { read, rel } = decodeRelRequest(bytes);
  return { read: checkRead(read), rel: checkRel(rel) };
}

export function encodeCheckRelExistsRequest({ read, rel }: CheckRelExistsRequest): Uint8Array {
  return new ProtoWriter().message(1, encodeRead(read)).message(2, encodeRel(rel)).finish();
}

export function decodeGetDbSizeRequest(bytes: Uint8Array): GetDbSizeRequest {
  const reader = new ProtoReader(bytes);
  let read: RawRead | undefined;
  let dbOid = 0;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) read = decodeRead(reader.message(), read);
    else if (field === 2) dbOid = reader.u32();
    else reader.skip();
  }
  return { read: checkRead(read), dbOid };
}

export function encodeGetDbSizeRequest({ read, dbOid }: GetDbSizeRequest): Uint8Array {
  return new ProtoWriter().message(1, encodeRead(read)).u32(2, dbOid).finish();
}

// SLRU segments

export function decodeGetSlruSegmentRequest(bytes: Uint8Array): GetSlruSegmentRequest {
  const reader = new ProtoReader(bytes);
  let read: RawRead | undefined;
  let kind = 0;
  let segment = 0;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) read = decodeRead(reader.message(), read);
    else if (field === 2) kind = reader.u32();
    else if (field === 3) segment = reader.u32();
    else reader.skip();
  }
  if (kind !== 0 && kind !== 1 && kind !== 2) throw invalid("kind", kind);
  return { read: checkRead(read), kind, segment };
}

export function encodeGetSlruSegmentRequest({ read, kind, segment }: GetSlruSegmentRequest): Uint8Array {
  return new ProtoWriter().message(1, encodeRead(read)).u32(2, kind).u32(3, segment).finish();
}

// Base backups and leases

export function decodeGetBaseBackupRequest(bytes: Uint8Array): GetBaseBackupRequest {
  const reader = new ProtoReader(bytes);
  let lsn = toLsn(0);
  let replica = false;
  let full = false;
  let compression = 0;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) lsn = readLsn(reader);
    else if (field === 2) replica = reader.bool();
    else if (field === 3) full = reader.bool();
    else if (field === 4) compression = reader.u64Number();
    else reader.skip();
  }
  if (compression !== BackupCompression.None && compression !== BackupCompression.Gzip) {
    throw invalid("compression", compression);
  }
  return { lsn: lsn === 0 ? undefined : lsn, replica, full, gzip: compression === BackupCompression.Gzip };
}

export function encodeGetBaseBackupRequest({ lsn, replica, full, gzip }: GetBaseBackupRequest): Uint8Array {
  const writer = new ProtoWriter();
  if (lsn !== undefined) putLsn(writer, 1, lsn);
  return writer
    .bool(2, replica)
    .bool(3, full)
    .u32(4, gzip ? BackupCompression.Gzip : BackupCompression.None)
    .finish();
}

export function decodeLeaseLsnRequest(bytes: Uint8Array): LeaseLsnRequest {
  const reader = new ProtoReader(bytes);
  let lsn = toLsn(0);
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) lsn = readLsn(reader);
    else reader.skip();
  }
  if (lsn === 0) throw invalid("lsn", 0);
  return { lsn };
}

export function encodeLeaseLsnRequest({ lsn }: LeaseLsnRequest): Uint8Array {
  const writer = new ProtoWriter();
  putLsn(writer, 1, lsn);
  return writer.finish();
}
