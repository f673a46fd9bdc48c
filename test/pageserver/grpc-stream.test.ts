/** Streams of pages when things go wrong: each kind of answer, what ends a stream and what does not, shards, cancellation. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import { type GetPageResponse, PageClass, PageStatus } from "../../src/base/page-api/page-model.ts";
import { shardOfBlock } from "../../src/base/page-api/shard.ts";
import { encodeGetPageRequest } from "../../src/base/page-api/page-requests.ts";
import { until } from "../e2e/support.ts";
import { RawClient, frame } from "../support/grpc-raw.ts";
import { DAMAGED, REL, STAGE_TENANT, STAGE_TIMELINE, START, Stage, pageRequest } from "./grpc-stage.ts";

function statusOf(response: GetPageResponse): [PageStatus, string] {
  return [response.status, "reason" in response ? response.reason : ""];
}

function isStatus(name: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.data["grpc"], name, error.message);
    return true;
  };
}

void test("every kind of answer, on one stream", async () => {
  await using stage = await Stage.start();
  using client = await stage.client();
  const stream = client.pages();
  const beyond = { read: { lsn: MAX_LSN, notModifiedSince: toLsn(START + 500) } };
  const ok = await stream.request(pageRequest([0, 39, 40], { requestClass: PageClass.Prefetch }));
  assert.equal(ok.status, PageStatus.Ok);
  assert.deepEqual("pages" in ok && ok.pages.map(({ block, image }) => [block, image[0]]), [
    [0, 1],
    [39, 40],
    [40, 0],
  ]);
  const missing = await stream.request(pageRequest([0], { rel: { ...REL, relNumber: 1 } }));
  assert.deepEqual(statusOf(missing), [PageStatus.NotFound, "relation 1663/5/1 main does not exist"]);
  const [damaged, why] = statusOf(await stream.request(pageRequest([0], { rel: DAMAGED })));
  assert.equal(damaged, PageStatus.InternalError);
  assert.match(why, /has 3 bytes/);
  stage.onWait = () => Promise.reject(new NeonError(ErrorCode.Timeout, "it does not come"));
  assert.deepEqual(statusOf(await stream.request(pageRequest([0], beyond))), [
    PageStatus.InternalError,
    "it does not come",
  ]);
  using _ = stage.store.announceCutoff({ cutoffLsn: toLsn(START + 90), points: new Set() });
  const old = { read: { lsn: toLsn(START + 50), notModifiedSince: START } };
  const [collected, cutoff] = statusOf(await stream.request(pageRequest([0], old)));
  assert.equal(collected, PageStatus.InvalidRequest);
  assert.match(cutoff, /GC cutoff .* Choose a point/);
  stage.isGone = true;
  assert.deepEqual(statusOf(await stream.request(pageRequest([0]))), [
    PageStatus.NotFound,
    "there is no timeline",
  ]);
  stage.isGone = false;
  assert.equal((await stream.request(pageRequest([1]))).status, PageStatus.Ok);
  stream.end();
});

void test("WAL that is not here yet is waited for, and a client that goes away is not", async () => {
  await using stage = await Stage.start();
  using client = await stage.client();
  const stream = client.pages();
  const come = Promise.withResolvers<void>();
  stage.onWait = () => come.promise;
  const answer = stream.request(
    pageRequest([3], { read: { lsn: MAX_LSN, notModifiedSince: toLsn(START + 500) } }),
  );
  // Waiting takes nobody's place.
  using other = await stage.client();
  assert.equal((await other.pages().request(pageRequest([1]))).status, PageStatus.Ok);
  stage.lastRecordLsn = toLsn(START + 500);
  come.resolve();
  assert.equal((await answer).status, PageStatus.Ok);

  stage.onWait = () => new Promise(() => undefined);
  const never = stream.request(
    pageRequest([3], { read: { lsn: MAX_LSN, notModifiedSince: toLsn(START + 900) } }),
  );
  await until("both streams", () => stage.service.callCount === 2);
  stream.cancel();
  await assert.rejects(never, isStatus("CANCELLED"));
  await until("the end of the stream", () => stage.service.callCount === 1);
});

void test("who reads too much is told to slow down, at once, and may go on later", async () => {
  const blocks = Array.from({ length: 32 }, (_, index) => index);
  {
    await using stage = await Stage.start({ pageRateLimit: 1 });
    using client = await stage.client();
    const stream = client.pages();
    assert.equal((await stream.request(pageRequest(blocks))).status, PageStatus.Ok);
    // The rest of half a minute is taken.
    const [status, reason] = statusOf(await stream.request(pageRequest([0])));
    assert.equal(status, PageStatus.SlowDown);
    assert.match(reason, /more than 1 pages a second\. Ask again in a moment/);
    await assert.rejects(
      client.relExists({ read: { lsn: MAX_LSN, notModifiedSince: START }, rel: REL }),
      isStatus("RESOURCE_EXHAUSTED"),
    );
  }
  await using stage = await Stage.start({ pageRateLimit: 50 });
  using client = await stage.client();
  const stream = client.pages();
  const isSlowedDown = async (): Promise<boolean> =>
    (await stream.request(pageRequest(blocks))).status === PageStatus.SlowDown;
  await until("a refusal", isSlowedDown);
  await until("an answer", async () => !(await isSlowedDown()));
});

void test("when clients take nothing, requests are refused instead of being kept", async () => {
  await using stage = await Stage.start({ limits: { congestionBytes: 0 } });
  using client = await stage.client();
  const [status, reason] = statusOf(await client.pages().request(pageRequest([0])));
  assert.equal(status, PageStatus.SlowDown);
  assert.match(reason, /wait for clients/);
});

void test("a shard has its own blocks only", async () => {
  const shard = { number: 1, count: 4 };
  await using stage = await Stage.start({ shard });
  using client = await stage.client({ shard });
  const stream = client.pages();
  const owner = (block: number): number => shardOfBlock({ ...REL, block }, 4);
  const stripes = Array.from({ length: 50 }, (_, stripe) => stripe * 2048);
  const own = stripes.find((block) => owner(block) === 1);
  const foreign = stripes.find((block) => owner(block) === 2);
  assert.ok(own !== undefined && foreign !== undefined);
  assert.equal((await stream.request(pageRequest([own]))).status, PageStatus.Ok);
  const [status, reason] = statusOf(await stream.request(pageRequest([own, foreign])));
  assert.equal(status, PageStatus.InvalidRequest);
  assert.match(reason, /is on shard 0204, not on 0104/);
  const read = { lsn: MAX_LSN, notModifiedSince: START };
  await assert.rejects(client.relSize({ read, rel: REL, allowMissing: false }), isStatus("INVALID_ARGUMENT"));
  // Another shard, or none, is not here.
  for (const other of [
    { number: 0, count: 0 },
    { number: 2, count: 4 },
  ]) {
    using stranger = await stage.client({ shard: other });
    await assert.rejects(stranger.pages().request(pageRequest([own])), isStatus("NOT_FOUND"));
  }
  await using plain = await Stage.start();
  using sharded = await plain.client({ shard });
  await assert.rejects(sharded.pages().request(pageRequest([own])), isStatus("NOT_FOUND"));
});

void test("a token that expires ends the stream", async () => {
  await using stage = await Stage.start();
  using client = await stage.client({ token: await stage.token(STAGE_TENANT, 60_000) });
  const stream = client.pages();
  assert.equal((await stream.request(pageRequest([0]))).status, PageStatus.Ok);
  stage.now += 3_600_000;
  await assert.rejects(stream.request(pageRequest([0])), isStatus("UNAUTHENTICATED"));
});

void test("before it is ready it says so, and health tells when it is", async () => {
  await using stage = await Stage.start({ isReady: false });
  using client = await stage.client();
  await assert.rejects(client.pages().request(pageRequest([0])), isStatus("UNAVAILABLE"));
  await using raw = await RawClient.connect(stage.service.port);
  const watch = raw.call("/grpc.health.v1.Health/Watch").send(frame(new Uint8Array()));
  await until("a first answer", () => watch.bytesReceived === 7);
  stage.service.ready();
  await until("a second answer", () => watch.bytesReceived === 14);
  watch.stream.close();
  const { messages } = await watch.result;
  // NOT_SERVING, then SERVING.
  assert.deepEqual(
    messages.map(({ bytes }) => [...bytes]),
    [
      [8, 2],
      [8, 1],
    ],
  );
  assert.equal((await client.pages().request(pageRequest([0]))).status, PageStatus.Ok);
});

void test("clients that hang up leave nothing behind", async () => {
  await using stage = await Stage.start();
  const headers = {
    "neon-tenant-id": STAGE_TENANT,
    "neon-timeline-id": STAGE_TIMELINE,
    "neon-shard-id": "0000",
    authorization: `Bearer ${await stage.token()}`,
  };
  for (let round = 0; round < 3; round++) {
    await using raw = await RawClient.connect(stage.service.port);
    for (let index = 0; index < 20; index++) raw.call("/page_api.PageService/GetPages", headers);
    await until("all streams", () => stage.service.callCount === 20);
    raw.session.destroy();
    await until("the end of them", () => stage.service.callCount === 0);
  }
  await until("the end of the connections", () => stage.service.connectionCount === 0);
});

void test("what is no Protobuf ends the stream", async () => {
  await using stage = await Stage.start();
  await using raw = await RawClient.connect(stage.service.port);
  const headers = {
    "neon-tenant-id": STAGE_TENANT,
    "neon-timeline-id": STAGE_TIMELINE,
    "neon-shard-id": "0000",
    authorization: `Bearer ${await stage.token()}`,
  };
  const call = raw.call("/page_api.PageService/GetPages", headers);
  call.send(frame(encodeGetPageRequest(pageRequest([0]))), frame(new Uint8Array([0xff])));
  const { code, details, messages } = await call.result;
  assert.deepEqual([code, messages.length], [3, 1]);
  assert.match(details, /no Protobuf/);
});
