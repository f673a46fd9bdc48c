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
import { decodeRel, decodeRequestId, putRel, putRequestId } from "./page-requests.ts";
import { ProtoReader, ProtoWriter, varintSize } from "./protobuf.ts";

const NO_REL: RelTag = { spcOid: 0, dbOid: 0, relNumber: 0, fork: 0 };
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

/**
 * Writes an answer without its images: `onImage` is called for each where it belongs, right after what comes before it.
 * Returns the size of all images. Request id and relation are there even if there is nothing in them: clients want them.
 */
export function putGetPageResponse(
  writer: ProtoWriter,
  response: GetPageResponse,
  onImage: (image: Uint8Array) => void,
): number {
  const isOk = response.status === PageStatus.Ok;
  const id = writer.open(1);
  putRequestId(writer, response.requestId).close(id).u32(2, response.status);
  if (!isOk) writer.text(3, response.reason);
  const rel = writer.open(4);
  putRel(writer, isOk ? response.rel : NO_REL).close(rel);
  let imageBytes = 0;
  for (const page of isOk ? response.pages : []) {
    writer.blobHead(5, pageSize(page)).u32(1, page.block).blobHead(2, page.image.length);
    onImage(page.image);
    imageBytes += page.image.length;
  }
  return imageBytes;
}

function pageSize({ block, image }: PageImage): number {
  const number = block === 0 ? 0 : 1 + varintSize(block);
  return number + 1 + varintSize(image.length) + image.length;
}

/** Heads in one buffer, and images from where they are: to copy them would cost more than all the rest. */
export class ResponseWriter {
  private readonly heads: ProtoWriter;
  private readonly images: Uint8Array[] = [];
  /** Where in `heads` each image comes. */
  private readonly places: number[] = [];
  private sizeBytes = 0;
  private readonly onImage = (image: Uint8Array): void => {
    this.images.push(image);
    this.places.push(this.heads.sizeBytes);
  };

  /** Heads are put into these zeros while they suffice. */
  constructor(room?: Uint8Array) {
    this.heads = new ProtoWriter(room);
  }

  /** With a gap of `gap` bytes before it; where that is, and the size of the answer without it. */
  add(response: GetPageResponse, gap = 0): { readonly at: number; readonly sizeBytes: number } {
    const { heads } = this;
    const at = heads.gap(gap);
    const imageBytes = putGetPageResponse(heads, response, this.onImage);
    const sizeBytes = heads.sizeBytes - at - gap + imageBytes;
    this.sizeBytes += gap + sizeBytes;
    return { at, sizeBytes };
  }

  /** In a gap. */
  setU32be(at: number, value: number): void {
    this.heads.setU32be(at, value);
  }

  finish(): OutgoingMessage {
    const bytes = this.heads.finish();
    const parts: Uint8Array[] = [];
    let start = 0;
    for (const [index, image] of this.images.entries()) {
      const end = this.places[index] ?? start;
      parts.push(bytes.subarray(start, end), image);
      start = end;
    }
    if (start < bytes.length) parts.push(bytes.subarray(start));
    return { sizeBytes: this.sizeBytes, parts };
  }
}

const ANSWER_HEAD_MAX = 64;
const PAGE_HEAD_MAX = 16;

/** Enough for everything in an answer but its images, and for a reason in short words. */
export function headRoom(answer: GetPageResponse): number {
  return ANSWER_HEAD_MAX + PAGE_HEAD_MAX * (answer.status === PageStatus.Ok ? answer.pages.length : 1);
}

export function encodeGetPageResponse(response: GetPageResponse): OutgoingMessage {
  const writer = new ResponseWriter();
  writer.add(response);
  return writer.finish();
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
