/**
 * Streams of pages whose client does not wait for answers: whatever comes together, cut and delayed anyhow, is answered
 * in its order, each request as if it had come alone, and what ends the stream does so after everything before it.
 */
import assert from "node:assert/strict";
import { setImmediate as turn } from "node:timers/promises";
import { type TestContext, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import { type GetPageRequest, PageClass, PageStatus } from "../../src/base/page-api/page-model.ts";
import { encodeGetPageRequest } from "../../src/base/page-api/page-requests.ts";
import { decodeGetPageResponse } from "../../src/base/page-api/page-responses.ts";
import { GrpcCode } from "../../src/pageserver/service/grpc/grpc-status.ts";
import { Turn } from "../../src/pageserver/service/grpc/turn.ts";
import { until } from "../e2e/support.ts";
import { RawClient, frame } from "../support/grpc-raw.ts";
import { SeededRandom } from "../support/random.ts";
import {
  DAMAGED,
  PAGES,
  REL,
  STAGE_TENANT,
  STAGE_TIMELINE,
  START,
  Stage,
  pageRequest,
} from "./grpc-stage.ts";

const LATER = toLsn(START + 500);

interface Expected {
  readonly id: bigint;
  readonly status: PageStatus;
  readonly blocks: readonly number[];
}

function blocksOf(random: SeededRandom): number[] {
  const count = random.chance(0.7) ? 1 : 1 + random.below(32);
  return Array.from({ length: count }, () => random.below(PAGES + 10));
}

/** A request of any kind, and what its answer must be. */
function anyRequest(random: SeededRandom): [GetPageRequest, Expected] {
  const more: Partial<GetPageRequest> = {
    requestClass: random.pick([PageClass.Normal, PageClass.Normal, PageClass.Prefetch, PageClass.Background]),
  };
  const as = (status: PageStatus, made: GetPageRequest): [GetPageRequest, Expected] => [
    made,
    { id: made.requestId.id, status, blocks: status === PageStatus.Ok ? made.blocks : [] },
  ];
  const blocks = blocksOf(random);
  switch (random.below(12)) {
    case 0:
      return as(PageStatus.NotFound, pageRequest(blocks, { ...more, rel: { ...REL, relNumber: 1 } }));
    case 1:
      return as(PageStatus.InternalError, pageRequest(blocks, { ...more, rel: DAMAGED }));
    case 2:
      return as(PageStatus.InvalidRequest, pageRequest([], more));
    case 3:
      return as(PageStatus.InvalidRequest, pageRequest(Array<number>(33).fill(0), more));
    case 4:
      return as(
        PageStatus.Ok,
        pageRequest(blocks, { ...more, read: { lsn: MAX_LSN, notModifiedSince: LATER } }),
      );
    default:
      return as(PageStatus.Ok, pageRequest(blocks, more));
  }
}

async function headersOf(stage: Stage): Promise<Record<string, string>> {
  return {
    "neon-tenant-id": STAGE_TENANT,
    "neon-timeline-id": STAGE_TIMELINE,
    "neon-shard-id": "0000",
    authorization: `Bearer ${await stage.token()}`,
  };
}

function checkAnswer(bytes: Uint8Array, expected: Expected | undefined): void {
  const answer = decodeGetPageResponse(bytes);
  assert.ok(expected !== undefined, "an answer to nothing");
  assert.equal(answer.requestId.id, expected.id);
  assert.equal(answer.status, expected.status, JSON.stringify({ ...answer, requestId: 0, pages: 0 }));
  const pages = "pages" in answer ? answer.pages : [];
  assert.deepEqual(
    pages.map(({ block }) => block),
    expected.blocks,
  );
  for (const { block, image } of pages) {
    assert.ok(Buffer.alloc(8192, block < PAGES ? block + 1 : 0).equals(image), `block ${block}`);
  }
}

/** Ways in which a stream ends: the bytes that do it, and the status. */
const ENDS: readonly (readonly [Uint8Array, GrpcCode])[] = [
  [new Uint8Array(), GrpcCode.Ok],
  [frame(Uint8Array.of(0xff)), GrpcCode.InvalidArgument],
  [Uint8Array.of(7, 0, 0, 0, 0), GrpcCode.Internal],
  [Uint8Array.of(0, 0xff, 0, 0, 0), GrpcCode.ResourceExhausted],
  [frame(Uint8Array.of(1, 2, 3), 1), GrpcCode.Internal],
  [frame(new Uint8Array(9)).subarray(0, 7), GrpcCode.Internal],
];

async function play(stage: Stage, client: RawClient, random: SeededRandom): Promise<void> {
  const isCompressed = random.chance(0.3);
  const headers = await headersOf(stage);
  if (isCompressed) headers["grpc-encoding"] = "gzip";
  const call = client.call("/page_api.PageService/GetPages", headers);
  const expected: Expected[] = [];
  const sent: Uint8Array[] = [];
  for (let count = random.below(120); count >= 0; count--) {
    const [request, answer] = anyRequest(random);
    const bytes = encodeGetPageRequest(request);
    sent.push(isCompressed && random.chance(0.5) ? frame(gzipSync(bytes), 1) : frame(bytes));
    expected.push(answer);
  }
  const [last, code] = random.pick(ENDS);
  sent.push(last);
  const all = Buffer.concat(sent);
  for (let at = 0; at < all.length;) {
    const size = 1 + random.below(random.chance(0.5) ? 100 : 10_000);
    call.send(all.subarray(at, at + size));
    at += size;
    if (random.chance(0.3)) await turn();
  }
  call.end();
  const result = await call.result;
  assert.equal(result.code, code, result.details);
  assert.equal(result.messages.length, expected.length);
  for (const [index, { compressed, bytes }] of result.messages.entries()) {
    checkAnswer(compressed ? gunzipSync(bytes) : bytes, expected[index]);
  }
}

void test("every request is answered as if it had come alone, in order", async (t: TestContext) => {
  const random = SeededRandom.forTest(t);
  for (let round = 0; round < 4; round++) {
    await using stage = await Stage.start();
    // Somebody waits for WAL, which comes after a while.
    stage.onWait = async () => {
      for (let turns = random.below(4); turns > 0; turns--) await turn();
    };
    const clients = [
      await RawClient.connect(stage.service.port),
      await RawClient.connect(stage.service.port),
    ];
    try {
      await Promise.all(
        Array.from({ length: 6 }, (_, index) =>
          play(stage, clients[index % 2] ?? assert.fail(), new SeededRandom(random.u32())),
        ),
      );
    } finally {
      for (const client of clients) await client[Symbol.asyncDispose]();
    }
  }
});

void test("clients that go away in the middle leave nothing behind", async (t: TestContext) => {
  const random = SeededRandom.forTest(t);
  await using stage = await Stage.start({ limits: { scheduler: { running: 2, waiting: 50 } } });
  // WAL that never comes, but to those who stay.
  stage.onWait = () => (random.chance(0.5) ? turn() : new Promise(() => undefined));
  for (let round = 0; round < 10; round++) {
    await using client = await RawClient.connect(stage.service.port);
    const headers = await headersOf(stage);
    const calls = Array.from({ length: 8 }, () => {
      const call = client.call("/page_api.PageService/GetPages", headers);
      const requests = Array.from({ length: random.below(100) }, () => anyRequest(random)[0]);
      call.send(Buffer.concat(requests.map((request) => frame(encodeGetPageRequest(request)))));
      return call;
    });
    for (const call of calls) {
      if (random.chance(0.5)) await turn();
      // Some do not take what comes, some reset the stream, some lose the connection.
      if (random.chance(0.3)) call.stream.pause();
      if (random.chance(0.5)) call.stream.close(random.below(14));
    }
    if (random.chance(0.3)) client.session.destroy();
  }
  await until("the end of all calls", () => stage.service.callCount === 0);
  const measured = await stage.metrics.render();
  assert.match(measured, /^neon_grpc_unsent_bytes 0$/m);
  for (const lane of ["normal", "prefetch", "background"]) {
    assert.match(measured, new RegExp(`^neon_grpc_waiting_requests\\{class="${lane}"\\} 0$`, "m"));
  }
  using client = await stage.client();
  assert.equal((await client.pages().request(pageRequest([1]))).status, PageStatus.Ok);
});

void test("a token that expires ends the stream after the answers before", async () => {
  await using stage = await Stage.start();
  await using client = await RawClient.connect(stage.service.port);
  const headers = {
    ...(await headersOf(stage)),
    authorization: `Bearer ${await stage.token(STAGE_TENANT, 60_000)}`,
  };
  const call = client.call("/page_api.PageService/GetPages", headers);
  const wait = pageRequest([3], { read: { lsn: MAX_LSN, notModifiedSince: LATER } });
  stage.onWait = async () => {
    stage.now += 3_600_000;
  };
  const requests = [pageRequest([1]), pageRequest([2]), wait, pageRequest([4])];
  call.send(Buffer.concat(requests.map((request) => frame(encodeGetPageRequest(request)))));
  const { code, messages } = await call.result;
  assert.equal(code, GrpcCode.Unauthenticated);
  assert.deepEqual(
    messages.map(({ bytes }) => decodeGetPageResponse(bytes).requestId.id),
    requests.slice(0, 3).map(({ requestId }) => requestId.id),
  );
});

void test("what came in the same turn of the event loop", async () => {
  const turns = new Turn();
  const first = turns.now();
  assert.equal(turns.now(), first);
  const ends: string[] = [];
  const both = Promise.all([turns.end().then(() => ends.push("a")), turns.end().then(() => ends.push("b"))]);
  await Promise.resolve();
  assert.deepEqual(ends, []);
  await both;
  assert.deepEqual(ends, ["a", "b"]);
  assert.equal(turns.now(), first + 1);
});
