/**
 * Senders and receivers that do not keep the rules: recorded transfers replayed with frames changed, left out, repeated
 * or made up. The other side ends with a typed error or as it should, and publishes nothing that does not hold.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { crc32c } from "../../src/base/crc32c.ts";
import { ErrorCode, NeonError, messageOf } from "../../src/base/errors.ts";
import { JsonFields } from "../../src/pageserver/json-fields.ts";
import { FrameType } from "../../src/pageserver/transfer/frames.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { memoryChannelPair } from "../support/memory-channel.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, assertSame, contentAt } from "./site.ts";

const ROUNDS = 400;
const HEAD_SIZE = 5;

async function memorySite(seeded: SeededRandom): Promise<Site> {
  const files = new FaultyFiles({ random: () => seeded.u32() });
  await files.makeDirectory("/site");
  return Site.open({ files, directory: "/site" });
}

/** Gives a frame its checksum, if it is long enough to have one. */
function seal(frame: Uint8Array): Uint8Array {
  if (frame.length < HEAD_SIZE) return frame;
  const end = frame[4] === FrameType.Chunk ? Math.min(frame.length, 50) : frame.length;
  new DataView(frame.buffer, frame.byteOffset).setUint32(0, crc32c(frame, 4, end), true);
  return frame;
}

function isJson(frame: Uint8Array): boolean {
  const type = frame[4];
  return type !== FrameType.Chunk && type !== FrameType.LayerEnd && type !== FrameType.Ack;
}

/** Changes something somewhere in a JSON value. */
function mutate(value: unknown, seeded: SeededRandom): unknown {
  const odd = [
    null,
    -1,
    0,
    1e300,
    "",
    "0/0",
    "FFFFFFFF/FFFFFFFF",
    [],
    {},
    true,
    "../../etc",
    "a".repeat(32),
    "0/1000028",
  ];
  if (Array.isArray(value)) {
    if (value.length === 0 || seeded.chance(0.2)) {
      const copy: unknown[] = value.slice(seeded.below(2));
      if (seeded.chance(0.5)) copy.push(value.length > 0 ? seeded.pick(value) : seeded.pick(odd));
      return copy;
    }
    const at = seeded.below(value.length);
    return value.map((item: unknown, index) => (index === at ? mutate(item, seeded) : item));
  }
  if (typeof value === "object" && value !== null && !seeded.chance(0.1)) {
    const entries = Object.entries(value);
    if (entries.length === 0) return seeded.pick(odd);
    const [key, member] = seeded.pick(entries);
    if (seeded.chance(0.1)) return Object.fromEntries(entries.filter(([name]) => name !== key));
    return { ...value, [key]: mutate(member, seeded) };
  }
  if (typeof value === "number" && seeded.chance(0.5)) return value + seeded.between(-2, 2);
  if (typeof value === "string" && value.length > 0 && seeded.chance(0.6)) {
    const at = seeded.below(value.length);
    return value.slice(0, at) + seeded.pick(["0", "1", "f", "A", "/", ""]) + value.slice(at + 1);
  }
  return seeded.pick(odd);
}

/** The frame with its value changed, in a frame that is itself well formed. */
function mutateJson(frame: Uint8Array, seeded: SeededRandom): Uint8Array {
  let value: unknown;
  try {
    value = JSON.parse(zstdDecompressSync(frame.subarray(HEAD_SIZE + 1)).toString("utf8"));
  } catch {
    // It was changed before.
    return frame;
  }
  const packed = zstdCompressSync(Buffer.from(JSON.stringify(mutate(value, seeded))));
  const changed = new Uint8Array(HEAD_SIZE + 1 + packed.length);
  changed.set(frame.subarray(0, HEAD_SIZE + 1));
  changed.set(packed, HEAD_SIZE + 1);
  return seal(changed);
}

function mutateFrames(recorded: readonly Uint8Array[], seeded: SeededRandom): Uint8Array[] {
  const frames: Uint8Array[] = recorded.map((frame) => new Uint8Array(frame));
  for (let count = seeded.between(1, 2); count > 0; count--) {
    const at = seeded.below(frames.length);
    const frame = frames[at] as Uint8Array;
    const dice = seeded.below(10);
    if (dice < 5 && isJson(frame)) frames[at] = mutateJson(frame, seeded);
    else if (dice < 6) frames.splice(at, 1);
    else if (dice < 7) frames.splice(at, 0, new Uint8Array(seeded.pick(frames)));
    else if (dice < 8) frames[at] = frame.slice(0, seeded.below(frame.length + 1));
    else if (dice < 9)
      frames[at] = seal(Uint8Array.from([0, 0, 0, 0, seeded.below(16), ...seeded.bytes(seeded.below(80))]));
    else {
      const position = HEAD_SIZE + seeded.below(Math.max(1, frame.length - HEAD_SIZE));
      if (position < frame.length) frame[position] = seeded.below(256);
      seal(frame);
    }
    if (frames.length === 0) break;
  }
  return frames;
}

/** Everything that one side of a good push has sent. */
async function record(ours: Site, theirs: Site, from: 0 | 1): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  await ours.push(theirs, "main", "main", {
    channel: {
      onPayload: (payload, side) => {
        if (side === from) frames.push(new Uint8Array(payload));
        return payload;
      },
    },
  });
  return frames;
}

function request(branch: string): JsonFields {
  const misfit = (message: string): NeonError => new NeonError(ErrorCode.Usage, message);
  return new JsonFields({ tenant_id: TENANT, branch }, "", misfit);
}

/** Sends the frames, whatever the other side says, and ends. Answers how the other side ended. */
async function replay(
  frames: readonly Uint8Array[],
  serve: (channel: Parameters<Site["service"]["serveBranchPush"]>[0], signal: AbortSignal) => Promise<void>,
): Promise<unknown> {
  const { ends } = memoryChannelPair();
  const serving = serve(ends[1], new AbortController().signal).then(
    () => undefined,
    (error: unknown) => error,
  );
  const draining = (async () => {
    while ((await ends[0].receive()) !== undefined);
  })().catch(() => undefined);
  try {
    for (const frame of frames) await ends[0].send(frame);
  } catch {
    // It may have had enough.
  }
  await ends[0].end();
  const outcome = await serving;
  await draining;
  return outcome;
}

void test(`${ROUNDS} hostile senders`, { timeout: 300_000 }, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const ours = await memorySite(seeded);
  await using _a = ours;
  await ours.init({ pages: 4 });
  await ours.write("main", seeded, { records: 12, layers: 2 });
  const scratch = await memorySite(seeded);
  const creating = await record(ours, scratch, 0);
  const firstEnd = ours.timeline("main").lastRecordLsn;
  const ends = await ours.write("main", seeded, { records: 12, layers: 2 });
  const extending = await record(ours, scratch, 0);
  await scratch[Symbol.asyncDispose]();
  const codes = new Map<string, number>();
  let accepted = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const isExtension = round % 2 === 0;
    const theirs = await memorySite(seeded);
    if (isExtension) {
      await ours.branch("old", "main", firstEnd);
      await ours.push(theirs, "old", "main");
      await ours.tenants.get(TENANT).deleteBranch("old");
    }
    const before = isExtension ? await contentAt(theirs.timeline("main"), firstEnd) : undefined;
    const frames = mutateFrames(isExtension ? extending : creating, seeded);
    const error = await replay(frames, (channel, signal) =>
      theirs.service.serveBranchPush(channel, request("main"), undefined, signal),
    );
    if (error !== undefined) {
      assert(error instanceof NeonError, `round ${round}: ${messageOf(error)}`);
      codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
      if (!isExtension) assert.deepEqual(theirs.branches(), [], `round ${round}: ${error.message}`);
    } else accepted++;
    // Whatever it has taken, it can read, and a restart finds all of it whole.
    if (isExtension) {
      const timeline = theirs.timeline("main");
      assert.equal(await contentAt(timeline, firstEnd), before, `round ${round}`);
      if (error !== undefined) assert.equal(timeline.lastRecordLsn, firstEnd);
    }
    const again = await theirs.reopen();
    for (const name of again.branches()) {
      const timeline = again.timeline(name);
      assert.ok((await contentAt(timeline, timeline.lastRecordLsn)).length > 0);
      await timeline.recordBoundary(timeline.lastRecordLsn);
    }
    if (error !== undefined) {
      await ours.push(again, "main");
      await assertSame(
        ours.timeline("main"),
        again.timeline("main"),
        [ends[3] ?? firstEnd],
        `round ${round}`,
      );
    }
    await again[Symbol.asyncDispose]();
  }
  t.diagnostic(`${accepted} accepted, ${JSON.stringify(Object.fromEntries(codes))}`);
  assert.ok((codes.get(ErrorCode.Corrupt) ?? 0) > ROUNDS / 5);
});

void test(`${ROUNDS} hostile receivers`, { timeout: 300_000 }, async (t) => {
  const seeded = SeededRandom.forTest(t);
  const ours = await memorySite(seeded);
  await using _a = ours;
  await ours.init({ pages: 4 });
  await ours.write("main", seeded, { records: 12, layers: 2 });
  const scratch = await memorySite(seeded);
  await ours.branch("old", "main");
  await ours.push(scratch, "old", "main");
  await ours.write("main", seeded, { records: 12, layers: 2 });
  const answers = (await record(ours, scratch, 1)).map((frame) => {
    // A pull is the same with the sides named otherwise.
    if (frame[4] !== FrameType.Hello) return frame;
    const text = zstdDecompressSync(frame.subarray(HEAD_SIZE + 1))
      .toString("utf8")
      .replace("push", "pull");
    const packed = zstdCompressSync(Buffer.from(text));
    return seal(Uint8Array.from([...frame.subarray(0, HEAD_SIZE + 1), ...packed]));
  });
  await scratch[Symbol.asyncDispose]();
  const codes = new Map<string, number>();
  for (let round = 0; round < ROUNDS; round++) {
    const error = await replay(mutateFrames(answers, seeded), (channel, signal) =>
      ours.service.serveBranchPull(channel, request("main"), undefined, signal),
    );
    if (error === undefined) continue;
    assert(error instanceof NeonError, `round ${round}: ${messageOf(error)}`);
    codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
  }
  t.diagnostic(JSON.stringify(Object.fromEntries(codes)));
  assert.ok((codes.get(ErrorCode.Corrupt) ?? 0) > ROUNDS / 5);
});
