/**
 * Answers of the page API: our types to Protobuf, which cannot fail, and back, as strictly as clients in use read them.
 * Field numbers are those of `proto/page_service.proto`. Pages are not copied.
 */
import { corrupt } from "../errors.ts";
import {
  type GetPageResponse,
  type PageImage,
  PageStatus,
  type RelTag,
  type RequestId,
} from "./page-model.ts";
import { decodeRel, decodeRequestId, encodeRel, encodeRequestId } from "./page-requests.ts";
import { ProtoReader, ProtoWriter, WireType, putVarint, varintSize } from "./protobuf.ts";

const NO_REL: RelTag = { spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
const PAGE_TAG = 5 * 8 + WireType.Bytes;
const BLOCK_TAG = 1 * 8 + WireType.Varint;
const IMAGE_TAG = 2 * 8 + WireType.Bytes;

/** A message as pieces that are sent one after the other. */
export interface OutgoingMessage {
  readonly sizeBytes: number;
  /** Views, not to be changed before they are sent. */
  readonly parts: readonly Uint8Array[];
}

/** Ready bytes. */
export function wholeMessage(bytes: Uint8Array): OutgoingMessage {
  return { sizeBytes: bytes.length, parts: [bytes] };
}

/** Tag and length of a page, its block, tag and length of its image. */
const PAGE_HEAD_MAX = 1 + 5 + (1 + 5) + (1 + 5);

/** An answer with pages, which are sent from where they are: to copy them would cost more than all the rest. */
function pagesMessage(head: Uint8Array, pages: readonly PageImage[]): OutgoingMessage {
  const heads = new Uint8Array(head.length + pages.length * PAGE_HEAD_MAX);
  heads.set(head);
  const parts: Uint8Array[] = [];
  let start = 0;
  let at = head.length;
  let sizeBytes = 0;
  for (const page of pages) {
    heads[at++] = PAGE_TAG;
    at = putVarint(heads, at, pageSize(page));
    if (page.block !== 0) {
      heads[at++] = BLOCK_TAG;
      at = putVarint(heads, at, page.block);
    }
    heads[at++] = IMAGE_TAG;
    at = putVarint(heads, at, page.image.length);
    parts.push(heads.subarray(start, at), page.image);
    sizeBytes += at - start + page.image.length;
    start = at;
  }
  return { sizeBytes, parts };
}

function pageSize({ block, image }: PageImage): number {
  const number = block === 0 ? 0 : 1 + varintSize(block);
  return number + 1 + varintSize(image.length) + image.length;
}

/** Request id and relation are there even if there is nothing in them: clients want them. */
export function encodeGetPageResponse(response: GetPageResponse): OutgoingMessage {
  const head = new ProtoWriter().message(1, encodeRequestId(response.requestId)).u32(2, response.status);
  if (response.status === PageStatus.Ok) {
    return pagesMessage(head.message(4, encodeRel(response.rel)).finish(), response.pages);
  }
  return wholeMessage(head.text(3, response.reason).message(4, encodeRel(NO_REL)).finish());
}

/** Images are views of `bytes`. */
export function decodeGetPageResponse(bytes: Uint8Array): GetPageResponse {
  const reader = new ProtoReader(bytes);
  let requestId: RequestId | undefined;
  let code = 0;
  let reason = "";
  let rel: RelTag | undefined;
  const pages: PageImage[] = [];
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) requestId = decodeRequestId(reader.message(), requestId);
    else if (field === 2) code = reader.u64Number();
    else if (field === 3) reason = reader.text();
    else if (field === 4) rel = decodeRel(reader.message());
    else if (field === 5) pages.push(decodePage(reader.message()));
    else reader.skip();
  }
  if (requestId === undefined) throw corrupt("an answer to GetPage has no request_id");
  if (rel === undefined) throw corrupt("an answer to GetPage has no rel");
  if (code === PageStatus.Ok) return { requestId, status: PageStatus.Ok, rel, pages };
  return { requestId, status: failureOf(code), reason };
}

function decodePage(reader: ProtoReader): PageImage {
  let block = 0;
  let image: Uint8Array | undefined;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) block = reader.u32();
    else if (field === 2) image = reader.view();
    else reader.skip();
  }
  if (image === undefined) throw corrupt("a page has no image");
  return { block, image };
}

type Failure = Exclude<PageStatus, typeof PageStatus.Ok>;
const FAILURES: readonly Failure[] = [
  PageStatus.NotFound,
  PageStatus.InvalidRequest,
  PageStatus.InternalError,
  PageStatus.SlowDown,
];

function failureOf(code: number): Failure {
  return FAILURES.find((known) => known === code) ?? PageStatus.Unknown;
}

export function encodeRelSizeResponse(blocks: number | undefined): Uint8Array {
  return new ProtoWriter()
    .u32(1, blocks ?? 0)
    .bool(2, blocks === undefined)
    .finish();
}

/** Undefined: there is no such relation. */
export function decodeRelSizeResponse(bytes: Uint8Array): number | undefined {
  const reader = new ProtoReader(bytes);
  let blocks = 0;
  let isMissing = false;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) blocks = reader.u32();
    else if (field === 2) isMissing = reader.bool();
    else reader.skip();
  }
  return isMissing ? undefined : blocks;
}

export function encodeRelExistsResponse(exists: boolean): Uint8Array {
  return new ProtoWriter().bool(1, exists).finish();
}

export function decodeRelExistsResponse(bytes: Uint8Array): boolean {
  const reader = new ProtoReader(bytes);
  let exists = false;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) exists = reader.bool();
    else reader.skip();
  }
  return exists;
}

export function encodeDbSizeResponse(sizeBytes: number): Uint8Array {
  return new ProtoWriter().u64Number(1, sizeBytes).finish();
}

export function decodeDbSizeResponse(bytes: Uint8Array): number {
  const reader = new ProtoReader(bytes);
  let sizeBytes = 0;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) sizeBytes = reader.u64Number();
    else reader.skip();
  }
  return sizeBytes;
}

/** A message with one field of bytes: a segment of an SLRU, or a chunk of a base backup. */
export function encodeBytesResponse(bytes: Uint8Array): Uint8Array {
  return new ProtoWriter().bytes(1, bytes).finish();
}

/** A view. Empty bytes are an error, as they are to other clients. */
export function decodeBytesResponse(bytes: Uint8Array): Uint8Array {
  const reader = new ProtoReader(bytes);
  let found = new Uint8Array();
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) found = new Uint8Array(reader.view());
    else reader.skip();
  }
  if (found.length === 0) throw corrupt("an answer has no bytes");
  return found;
}

/** Milliseconds since 1970, as google.protobuf.Timestamp. */
export function encodeLeaseResponse(expiresAt: number): Uint8Array {
  const milliseconds = expiresAt % 1000;
  const timestamp = new ProtoWriter()
    .u64Number(1, (expiresAt - milliseconds) / 1000)
    .u32(2, milliseconds * 1_000_000);
  return new ProtoWriter().message(1, timestamp).finish();
}

export function decodeLeaseResponse(bytes: Uint8Array): number {
  const reader = new ProtoReader(bytes);
  let expiresAt: number | undefined;
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field !== 1) {
      reader.skip();
      continue;
    }
    const timestamp = reader.message();
    let seconds = 0;
    let nanoseconds = 0;
    for (let part = timestamp.next(); part !== 0; part = timestamp.next()) {
      if (part === 1) seconds = timestamp.u64Number();
      else if (part === 2) nanoseconds = timestamp.u32();
      else timestamp.skip();
    }
    expiresAt = seconds * 1000 + Math.floor(nanoseconds / 1_000_000);
  }
  if (expiresAt === undefined) throw corrupt("a lease has no end");
  return expiresAt;
}
