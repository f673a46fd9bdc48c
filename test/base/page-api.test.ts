/** The page API's messages against a Protobuf library that reads `proto/page_service.proto`; hostile bytes; shards. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { type ServiceDefinition, loadSync } from "@grpc/proto-loader";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import {
  type GetPageRequest,
  type GetPageResponse,
  PAGE_METHODS,
  PageClass,
  PageStatus,
} from "../../src/base/page-api/page-model.ts";
import {
  decodeCheckRelExistsRequest,
  decodeGetBaseBackupRequest,
  decodeGetDbSizeRequest,
  decodeGetPageRequest,
  decodeGetRelSizeRequest,
  decodeGetSlruSegmentRequest,
  decodeLeaseLsnRequest,
  encodeCheckRelExistsRequest,
  encodeGetBaseBackupRequest,
  encodeGetDbSizeRequest,
  encodeGetPageRequest,
  encodeGetRelSizeRequest,
  encodeGetSlruSegmentRequest,
  encodeLeaseLsnRequest,
} from "../../src/base/page-api/page-requests.ts";
import {
  type OutgoingMessage,
  decodeBytesResponse,
  decodeDbSizeResponse,
  decodeGetPageResponse,
  decodeLeaseResponse,
  decodeRelExistsResponse,
  decodeRelSizeResponse,
  encodeBytesResponse,
  encodeDbSizeResponse,
  encodeGetPageResponse,
  encodeLeaseResponse,
  encodeRelExistsResponse,
  encodeRelSizeResponse,
} from "../../src/base/page-api/page-responses.ts";
import { ProtoReader, ProtoWriter } from "../../src/base/page-api/protobuf.ts";
import { formatShardId, parseShardId, shardOfBlock } from "../../src/base/page-api/shard.ts";
import { SeededRandom } from "../support/random.ts";

const definition = loadSync("page_service.proto", {
  includeDirs: [join(import.meta.dirname, "../../proto")],
  longs: String,
  keepCase: true,
});
const service = definition["page_api.PageService"] as ServiceDefinition;

function method(name: string): ServiceDefinition[string] {
  const found = service[name];
  assert.ok(found, name);
  return found;
}

const REL = { spcOid: 1663, dbOid: 5, relNumber: 0xffffffff, fork: 2 };
const LIBRARY_REL = { spc_oid: 1663, db_oid: 5, rel_number: 0xffffffff, fork_number: 2 };
const READ = { lsn: MAX_LSN, notModifiedSince: toLsn(0x1_2345_6789) };
const LIBRARY_READ = { request_lsn: "18446744073709551615", not_modified_since_lsn: "4886718345" };

function bytesOf(message: OutgoingMessage): Buffer {
  const bytes = Buffer.concat(message.parts);
  assert.equal(bytes.length, message.sizeBytes);
  return bytes;
}

void test("the service has the methods of the proto file", () => {
  assert.deepEqual(Object.keys(service).sort(), [...PAGE_METHODS].sort());
});

void test("requests are what a library reads, and are read as a library writes them", () => {
  const page: GetPageRequest = {
    requestId: { id: 2n ** 64n - 1n, attempt: 3 },
    requestClass: PageClass.Prefetch,
    read: READ,
    rel: REL,
    blocks: [0, 1, 300, 0xffffffff],
  };
  const libraryPage = {
    request_id: { id: "18446744073709551615", attempt: 3 },
    request_class: 2,
    read_lsn: LIBRARY_READ,
    rel: LIBRARY_REL,
    block_number: [0, 1, 300, 0xffffffff],
  };
  const lsn = toLsn(2 ** 40 + 5);
  const cases: [string, Uint8Array, object, (bytes: Uint8Array) => unknown, unknown][] = [
    [
      "GetPages",
      encodeGetPageRequest(page),
      libraryPage,
      decodeGetPageRequest,
      { kind: "request", request: page },
    ],
    [
      "GetRelSize",
      encodeGetRelSizeRequest({ read: READ, rel: REL, allowMissing: true }),
      { read_lsn: LIBRARY_READ, rel: LIBRARY_REL, allow_missing: true },
      decodeGetRelSizeRequest,
      { read: READ, rel: REL, allowMissing: true },
    ],
    [
      "CheckRelExists",
      encodeCheckRelExistsRequest({ read: READ, rel: REL }),
      { read_lsn: LIBRARY_READ, rel: LIBRARY_REL },
      decodeCheckRelExistsRequest,
      { read: READ, rel: REL },
    ],
    [
      "GetDbSize",
      encodeGetDbSizeRequest({ read: READ, dbOid: 16_384 }),
      { read_lsn: LIBRARY_READ, db_oid: 16_384 },
      decodeGetDbSizeRequest,
      { read: READ, dbOid: 16_384 },
    ],
    [
      "GetSlruSegment",
      encodeGetSlruSegmentRequest({ read: READ, kind: 2, segment: 77 }),
      { read_lsn: LIBRARY_READ, kind: 2, segno: 77 },
      decodeGetSlruSegmentRequest,
      { read: READ, kind: 2, segment: 77 },
    ],
    [
      "GetBaseBackup",
      encodeGetBaseBackupRequest({ lsn, replica: true, full: true, gzip: true }),
      { lsn: String(lsn), replica: true, full: true, compression: 2 },
      decodeGetBaseBackupRequest,
      { lsn, replica: true, full: true, gzip: true },
    ],
    ["LeaseLsn", encodeLeaseLsnRequest({ lsn }), { lsn: String(lsn) }, decodeLeaseLsnRequest, { lsn }],
  ];
  for (const [name, ours, library, decode, domain] of cases) {
    const { requestDeserialize, requestSerialize } = method(name);
    assert.deepEqual(JSON.parse(JSON.stringify(requestDeserialize(Buffer.from(ours)))), library, name);
    assert.deepEqual(decode(requestSerialize(library)), domain, name);
  }
});

void test("answers are what a library reads, and are read as a library writes them", () => {
  const image = Buffer.alloc(8192, 7);
  const pages: GetPageResponse = {
    requestId: { id: 9n, attempt: 0 },
    status: PageStatus.Ok,
    rel: REL,
    pages: [
      { block: 0, image },
      { block: 4_000_000_000, image },
    ],
  };
  const libraryPages = {
    request_id: { id: "9" },
    status_code: 1,
    rel: LIBRARY_REL,
    page: [{ image }, { block_number: 4_000_000_000, image }],
  };
  const failed: GetPageResponse = {
    requestId: { id: 0n, attempt: 0 },
    status: PageStatus.SlowDown,
    reason: "später",
  };
  const libraryFailed = { request_id: {}, status_code: 5, reason: "später", rel: {} };
  const cases: [string, Uint8Array, object, (bytes: Uint8Array) => unknown, unknown][] = [
    ["GetPages", bytesOf(encodeGetPageResponse(pages)), libraryPages, decodeGetPageResponse, pages],
    ["GetPages", bytesOf(encodeGetPageResponse(failed)), libraryFailed, decodeGetPageResponse, failed],
    ["GetRelSize", encodeRelSizeResponse(5), { num_blocks: 5 }, decodeRelSizeResponse, 5],
    ["GetRelSize", encodeRelSizeResponse(undefined), { missing: true }, decodeRelSizeResponse, undefined],
    ["CheckRelExists", encodeRelExistsResponse(true), { exists: true }, decodeRelExistsResponse, true],
    [
      "GetDbSize",
      encodeDbSizeResponse(2 ** 45),
      { num_bytes: String(2 ** 45) },
      decodeDbSizeResponse,
      2 ** 45,
    ],
    ["GetSlruSegment", encodeBytesResponse(image), { segment: image }, decodeBytesResponse, image],
    ["GetBaseBackup", encodeBytesResponse(image), { chunk: image }, decodeBytesResponse, image],
    [
      "LeaseLsn",
      encodeLeaseResponse(1_700_000_000_123),
      { expires: { seconds: "1700000000", nanos: 123_000_000 } },
      decodeLeaseResponse,
      1_700_000_000_123,
    ],
  ];
  const plain = (value: unknown): unknown =>
    JSON.parse(
      JSON.stringify({ value }, (_, part: unknown) => (typeof part === "bigint" ? `${part}` : part)),
    );
  for (const [name, ours, library, decode, domain] of cases) {
    const { responseDeserialize, responseSerialize } = method(name);
    assert.deepEqual(plain(responseDeserialize(Buffer.from(ours))), plain(library), name);
    const decoded = decode(responseSerialize(library));
    if (domain === image) assert.ok(decoded instanceof Uint8Array && image.equals(decoded));
    else assert.deepEqual(plain(decoded), plain(domain), name);
  }
});

void test("what must be there, and what makes no sense", () => {
  const wrong = (
    decode: (bytes: Uint8Array) => unknown,
    name: string,
    library: object,
    message: RegExp,
  ): void => {
    const bytes = method(name).requestSerialize(library);
    assert.throws(
      () => decode(bytes),
      (error) => error instanceof NeonError && error.code === ErrorCode.Usage && message.test(error.message),
      `${name} ${JSON.stringify(library)}`,
    );
  };
  const read_lsn = LIBRARY_READ;
  const rel = LIBRARY_REL;
  wrong(decodeGetRelSizeRequest, "GetRelSize", { rel }, /'read_lsn' is missing/);
  wrong(decodeGetRelSizeRequest, "GetRelSize", { read_lsn }, /'rel' is missing/);
  wrong(decodeGetRelSizeRequest, "GetRelSize", { read_lsn: {}, rel }, /'read_lsn.request_lsn'/);
  wrong(
    decodeGetDbSizeRequest,
    "GetDbSize",
    { read_lsn: { request_lsn: "5", not_modified_since_lsn: "6" } },
    /'read_lsn.not_modified_since_lsn' has invalid value '6'/,
  );
  wrong(
    decodeCheckRelExistsRequest,
    "CheckRelExists",
    { read_lsn, rel: { ...rel, fork_number: 256 } },
    /'256'/,
  );
  wrong(decodeGetSlruSegmentRequest, "GetSlruSegment", { read_lsn, kind: 3 }, /'kind' has invalid value '3'/);
  wrong(decodeGetBaseBackupRequest, "GetBaseBackup", {}, /'compression' has invalid value '0'/);
  wrong(decodeLeaseLsnRequest, "LeaseLsn", {}, /'lsn' has invalid value '0'/);
  // Not known means: not modified since where it is read.
  const unknown = decodeGetDbSizeRequest(
    method("GetDbSize").requestSerialize({ read_lsn: { request_lsn: "500" } }),
  );
  assert.deepEqual(unknown.read, { lsn: 500, notModifiedSince: 500 });
  // A class from the future is one that is not known, and fields that are not known are skipped.
  const future = Buffer.concat([
    new ProtoWriter().u32(99, 5).text(98, "x").finish(),
    method("GetPages").requestSerialize({
      request_id: { id: "1" },
      request_class: 44,
      read_lsn,
      rel,
      block_number: [1],
    }),
  ]);
  const received = decodeGetPageRequest(future);
  assert.ok(received.kind === "request" && received.request.requestClass === PageClass.Unknown);
  // Not packed, as older encoders write it.
  const loose = new ProtoWriter()
    .message(1, new ProtoWriter().u32(1, 1))
    .message(3, new ProtoWriter().u32(1, 50))
    .message(4, new ProtoWriter().u32(3, 9));
  for (const block of [1, 2]) loose.u32(5, block);
  const both = decodeGetPageRequest(loose.finish());
  assert.deepEqual(both.kind === "request" && both.request.blocks, [1, 2]);
});

void test("hostile bytes are an error, never more", (t) => {
  const random = SeededRandom.forTest(t);
  const good = encodeGetPageRequest({
    requestId: { id: 5n, attempt: 1 },
    requestClass: PageClass.Normal,
    read: READ,
    rel: REL,
    blocks: Array.from({ length: 32 }, (_, index) => index * 1000),
  });
  const decoders: ((bytes: Uint8Array) => unknown)[] = [
    decodeGetPageRequest,
    decodeGetRelSizeRequest,
    decodeGetDbSizeRequest,
    decodeGetSlruSegmentRequest,
    decodeGetBaseBackupRequest,
    decodeLeaseLsnRequest,
    decodeGetPageResponse,
    decodeLeaseResponse,
  ];
  let failures = 0;
  for (let round = 0; round < 20_000; round++) {
    const bytes = round % 2 === 0 ? Uint8Array.from(good) : new Uint8Array(random.below(60));
    for (let i = 0; i < (round % 2 === 0 ? 3 : bytes.length); i++) {
      if (bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256);
    }
    const decode = decoders[round % decoders.length];
    try {
      decode?.(bytes.subarray(0, random.below(bytes.length + 1)));
    } catch (error) {
      assert.ok(error instanceof NeonError, String(error));
      failures++;
    }
  }
  assert.ok(failures > 5000);
  const corrupt = (...bytes: number[]): void => {
    assert.throws(
      () => {
        const reader = new ProtoReader(new Uint8Array(bytes));
        while (reader.next() !== 0) reader.skip();
      },
      { code: ErrorCode.Corrupt },
    );
  };
  corrupt(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f);
  corrupt(0x08, ...new Array<number>(11).fill(0xff));
  corrupt(0x00);
  corrupt(0x0b);
});

void test("ids of shards, and where blocks are", (t) => {
  assert.deepEqual(parseShardId("0000"), { number: 0, count: 0 });
  assert.deepEqual(parseShardId("0b10"), { number: 11, count: 16 });
  assert.equal(formatShardId({ number: 11, count: 16 }), "0b10");
  for (const text of ["", "000", "00000", "0100", "0808", "zz00"])
    assert.equal(parseShardId(text), undefined);
  const fork = { relNumber: 16_384, fork: 0 };
  const shards = (count: number): Set<number> =>
    new Set(
      Array.from({ length: 400 }, (_, stripe) => shardOfBlock({ ...fork, block: stripe * 2048 }, count)),
    );
  assert.deepEqual(shards(0), new Set([0]));
  assert.equal(shards(8).size, 8);
  assert.equal(shardOfBlock({ ...fork, block: 0 }, 8), shardOfBlock({ ...fork, block: 2047 }, 8));
  assert.equal(shardOfBlock({ ...fork, fork: 3, block: 5_000_000 }, 8), 0);
  // Worked out with 64-bit integers from the definition.
  const mask = 0xffffffffn;
  const mix = (value: bigint): bigint => {
    let hash = value ^ (value >> 16n);
    hash = (hash * 0x85ebca6bn) & mask;
    hash ^= hash >> 13n;
    hash = (hash * 0xc2b2ae35n) & mask;
    return hash ^ (hash >> 16n);
  };
  const random = SeededRandom.forTest(t);
  for (let i = 0; i < 2000; i++) {
    const [relNumber, block] = [random.u32(), random.u32()];
    const a = mix(BigInt(relNumber));
    const b = (mix(BigInt(Math.floor(block / 2048))) + 0x9e3779b9n + (a << 6n) + (a >> 2n)) & mask;
    const expected = Number((a ^ b) % 5n);
    assert.equal(shardOfBlock({ relNumber, fork: 0, block }, 5), expected);
  }
});
