/** Each case of what a push or pull may find at the other side, and what it leaves behind. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { formatLsn, toLsn } from "../../src/base/lsn.ts";
import { windowOfLsn } from "../../src/pageserver/ingest/keyspace.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Site, TENANT, assertSame, contentAt, sample } from "./site.ts";

async function memorySite(seeded: SeededRandom): Promise<Site> {
  const files = new FaultyFiles({ random: () => seeded.u32() });
  await files.makeDirectory("/site");
  return Site.open({ files, directory: "/site" });
}

/** One with a branch `main`, one without anything. */
async function pair(seeded: SeededRandom): Promise<[Site, Site]> {
  const sites: [Site, Site] = [await memorySite(seeded), await memorySite(seeded)];
  await sites[0].init();
  return sites;
}

async function refusal(work: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<NeonError> {
  try {
    await work;
  } catch (error) {
    assert(error instanceof NeonError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return error;
  }
  throw new Error("it was not refused");
}

function timelineIds(site: Site): string[] {
  return [...site.tenants.get(TENANT).timelineEntries().keys()].sort();
}

void test("ancestors come along without a name, and are sent once", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  const ends = await ours.write("main", seeded, { records: 300, layers: 3, pageBytes: 2000 });
  const fork = ends[120];
  await ours.branch("dev", "main", fork);
  await ours.write("dev", seeded, { records: 50 });
  const first = await ours.push(theirs, "dev");
  assert.deepEqual(theirs.branches(), ["dev"]);
  assert.equal(timelineIds(theirs).length, 2, "main is there as far as it is needed");
  const devLsns = sample(ends.slice(0, 121), seeded);
  await assertSame(ours.timeline("dev"), theirs.timeline("dev"), devLsns);
  // A second branch of the same tree needs its own part only.
  await ours.branch("test", "main", ends[60]);
  await ours.write("test", seeded, { records: 5, layers: 1 });
  const second = await ours.push(theirs, "test");
  assert.equal(second.result, "created");
  assert.ok(second.total_bytes * 5 < first.total_bytes, `${second.total_bytes} of ${first.total_bytes}`);
  await assertSame(ours.timeline("test"), theirs.timeline("test"), sample(ends.slice(0, 60), seeded));
  // Main itself: what is there without a name is made longer and named.
  const main = await ours.push(theirs, "main");
  assert.equal(main.result, "created");
  assert.equal(main.from_lsn, formatLsn(fork ?? toLsn(0)));
  assert.deepEqual(timelineIds(theirs), timelineIds(ours));
  await assertSame(ours.timeline("main"), theirs.timeline("main"), sample(ends, seeded, 12));
  await assertSame(ours.timeline("dev"), theirs.timeline("dev"), devLsns, "dev still");
});

void test("every record is found in a part of a branch that was put together", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  await using third = await memorySite(seeded);
  const ends = await ours.write("main", seeded, { records: 20, layers: 1 });
  const starts = [...ours.lastStarts];
  await ours.push(theirs, "main");
  // Their branch makes our main longer: two writers within one window of the index of records.
  await theirs.branch("dev", "main");
  ends.push(...(await theirs.write("dev", seeded, { records: 500, layers: 1 })));
  starts.push(...theirs.lastStarts);
  await theirs.push(ours, "dev", "main");
  // Of that a part, which ends in another window.
  const length = 450;
  const end = ends[length - 1];
  assert.ok(end && starts[0] && windowOfLsn(end) > windowOfLsn(starts[0]));
  await ours.branch("part", "main", end);
  await ours.push(third, "part");
  for (const site of [ours, third]) {
    for (let i = 1; i < length; i++) {
      const found = await site.timeline("part").recordBoundary(ends[i] ?? end);
      assert.deepEqual(found, { previousLsn: starts[i], endLsn: ends[i] }, `record ${i}`);
    }
  }
});

void test("ahead, diverged, and what helps", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  const ends = await ours.write("main", seeded);
  await ours.push(theirs, "main");
  ends.push(...(await ours.write("main", seeded)));
  const ahead = await refusal(theirs.push(ours, "main"), ErrorCode.Conflict, /"main" there is ahead/);
  assert.match(ahead.hint ?? "", /pull/);
  assert.equal(ahead.data["relation"], "ahead");
  const pulled = await refusal(ours.pull(theirs, "main"), ErrorCode.Conflict, /"main" here is ahead/);
  assert.match(pulled.hint ?? "", /push/);
  const parted = theirs.timeline("main").lastRecordLsn;
  await theirs.write("main", seeded);
  const before = await contentAt(theirs.timeline("main"), theirs.timeline("main").lastRecordLsn);
  const diverged = await refusal(ours.push(theirs, "main"), ErrorCode.Conflict, /diverged/);
  assert.match(diverged.message, new RegExp(formatLsn(parted)));
  assert.match(diverged.hint ?? "", /another name/);
  assert.equal(await contentAt(theirs.timeline("main"), theirs.timeline("main").lastRecordLsn), before);
  // Under another name it goes: only what is new is sent, on top of what both have.
  const other = await ours.push(theirs, "main", "ours");
  assert.equal(other.result, "created");
  assert.equal(other.from_lsn, formatLsn(parted));
  assert.notEqual(theirs.timeline("ours").id, ours.timeline("main").id, "the id is taken there");
  await assertSame(ours.timeline("main"), theirs.timeline("ours"), sample(ends, seeded));
  // And from then on it is an ordinary pair of branches.
  await ours.write("main", seeded);
  assert.equal((await ours.push(theirs, "main", "ours")).result, "updated");
  await theirs.write("ours", seeded);
  assert.equal((await ours.pull(theirs, "main", "ours")).result, "updated");
  assert.equal((await ours.pull(theirs, "main", "ours")).result, "unchanged");
});

void test("a branch grows in its own timeline by what several timelines of the sender hold", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  const ends = await ours.write("main", seeded);
  await ours.push(theirs, "main");
  await theirs.branch("child", "main");
  await theirs.write("child", seeded);
  const child = theirs.timeline("child");
  const childContent = await contentAt(child, child.lastRecordLsn);
  // Steps so small that several writers and both timelines share a window of the index of records.
  for (let step = 0; step < 6; step++) {
    const name = `step${step}`;
    const from = step === 0 ? "main" : `step${step - 1}`;
    ends.push(...(await ours.write(from, seeded, { records: 3, layers: 1 })));
    await ours.branch(name, from);
    ends.push(...(await ours.write(name, seeded, { records: seeded.between(1, 4), layers: 1 })));
    if (step % 2 === 1) {
      assert.equal((await ours.push(theirs, name, "main")).result, "updated");
      await assertSame(ours.timeline(name), theirs.timeline("main"), ends.slice(-20), `step ${step}`);
    }
  }
  assert.equal(timelineIds(theirs).length, 2);
  assert.equal(await contentAt(child, child.lastRecordLsn), childContent);
  const again = await theirs.reopen();
  await using _c = again;
  await assertSame(ours.timeline("step5"), again.timeline("main"), sample(ends, seeded, 16), "reopened");
});

void test("a state that is there under another name becomes a branch without data", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  const ends = await ours.write("main", seeded);
  await ours.push(theirs, "main");
  const copy = await ours.push(theirs, "main", "copy");
  assert.equal(copy.result, "created");
  assert.equal(copy.layers, 0);
  await ours.branch("past", "main", ends[7]);
  const past = await ours.push(theirs, "past");
  assert.equal(past.layers, 0);
  await assertSame(ours.timeline("past"), theirs.timeline("past"), sample(ends.slice(0, 7), seeded));
  await theirs.write("copy", seeded);
  assert.equal((await ours.push(theirs, "main")).result, "unchanged");
});

void test("a compute that may write keeps its branch from growing, and nothing else", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  await ours.write("main", seeded);
  await ours.push(theirs, "main");
  const source = { host: "127.0.0.1", port: 1, user: "postgres" };
  const { epoch } = await theirs.timeline("main").openWriter({ name: "dev", source });
  assert.equal((await ours.push(theirs, "main")).result, "unchanged", "there is nothing to do");
  await ours.write("main", seeded);
  await refusal(ours.push(theirs, "main"), ErrorCode.Conflict, /a compute writes to branch "main"/);
  assert.equal((await ours.push(theirs, "main", "beside")).result, "created");
  await theirs.timeline("main").closeWriter(epoch, "test");
  assert.equal((await ours.push(theirs, "main")).result, "updated", "it has written nothing");
  const history = theirs.timeline("main").history;
  assert.deepEqual(history, ours.timeline("main").history, "an epoch without WAL is no history");
});

void test("a writer on the sender's side does not matter", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  const ends = await ours.write("main", seeded);
  const source = { host: "127.0.0.1", port: 1, user: "postgres" };
  await ours.timeline("main").openWriter({ name: "dev", source });
  await ours.push(theirs, "main");
  assert.equal(theirs.timeline("main").writer, undefined);
  await assertSame(ours.timeline("main"), theirs.timeline("main"), sample(ends, seeded));
});

void test("what does not go together is refused with both sides named", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  await theirs.init({ systemId: 42n });
  const cluster = await refusal(ours.push(theirs, "main"), ErrorCode.Conflict, /different Postgres clusters/);
  assert.match(cluster.message, /7412345678901234567.*42|42.*7412345678901234567/);
  await theirs.tenants.delete(TENANT);
  await theirs.init({ segmentSize: 16 << 20 });
  const segments = await refusal(ours.pull(theirs, "main"), ErrorCode.Unsupported, /WAL segment size/);
  assert.match(segments.message, /1048576.*16777216/);
  const none = parseTenantId("b".repeat(32));
  await refusal(ours.push(theirs, "main", "main", { tenant: none }), ErrorCode.NotFound, /no tenant/);
  await refusal(ours.pull(theirs, "main", "main", { tenant: none }), ErrorCode.NotFound, /no tenant/);
  await refusal(ours.push(theirs, "nobody"), ErrorCode.NotFound, /no branch "nobody"/);
  await refusal(ours.pull(theirs, "main", "nobody"), ErrorCode.NotFound, /no branch "nobody"/);
  await refusal(ours.push(theirs, "main", "a..b"), ErrorCode.Usage, /no name for a branch/);
});

void test("a dry run says what would be sent, and sends nothing", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  await ours.write("main", seeded);
  const dry = await ours.push(theirs, "main", "main", { dryRun: true });
  assert.deepEqual([dry.result, dry.dry_run, theirs.hasTenant], ["created", true, false]);
  assert.ok(dry.layers >= 3 && dry.total_bytes > 0 && ours.lastBytes < 10_000);
  const real = await ours.push(theirs, "main");
  assert.deepEqual([real.layers, real.total_bytes], [dry.layers, dry.total_bytes]);
  await theirs.write("main", seeded);
  const pull = await ours.pull(theirs, "main", "main", { dryRun: true });
  assert.deepEqual([pull.result, pull.to_lsn], ["updated", formatLsn(theirs.timeline("main").lastRecordLsn)]);
  assert.ok(ours.timeline("main").lastRecordLsn < theirs.timeline("main").lastRecordLsn);
});

void test("unchanged needs few bytes, whatever the histories", async (t) => {
  const seeded = SeededRandom.forTest(t);
  const [ours, theirs] = await pair(seeded);
  await using _a = ours;
  await using _b = theirs;
  for (let count = 0; count < 60; count++) await ours.write("main", seeded, { records: 1, layers: 1 });
  for (let count = 0; count < 20; count++) await ours.branch(`b${count}`, "main");
  await ours.push(theirs, "main");
  const unchanged = await ours.push(theirs, "main");
  assert.equal(unchanged.result, "unchanged");
  assert.ok(ours.lastBytes < 2000, `${ours.lastBytes} bytes`);
});
