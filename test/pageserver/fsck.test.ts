/** The check of a tenant finds damage in every kind of file, while timelines are open and after they could not be. */
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { newTenantId, newTimelineId } from "../../src/base/ids.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import type { TenantReport, TimelineReport } from "../../src/pageserver/check/check-tenant.ts";
import { systemRandom } from "../../src/pageserver/server.ts";
import { DurableMark } from "../../src/pageserver/timeline/durable-mark.ts";
import type { Tenant } from "../../src/pageserver/timeline/tenant.ts";
import { Tenants } from "../../src/pageserver/timeline/tenants.ts";
import type { Timeline } from "../../src/pageserver/timeline/timeline.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { parseSegmentName } from "../../src/postgres/wal/layout.ts";
import { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { Lab } from "./branch-harness.ts";

/** Tenants with real timelines in the directory of a lab. */
class Site implements AsyncDisposable {
  readonly lab: Lab;
  readonly directory: string;
  tenants: Tenants<Timeline>;

  constructor(lab: Lab) {
    this.lab = lab;
    this.directory = join(lab.directory, "tenants");
    this.tenants = this.newTenants();
  }

  private newTenants(): Tenants<Timeline> {
    return new Tenants(this.directory, { ...this.lab.dependencies, timelines: this.lab.factory });
  }

  /** Closes everything, lets `change` happen to the files, and opens what is there. */
  async reopen(change: () => void = () => undefined): Promise<void> {
    await this.tenants[Symbol.asyncDispose]();
    change();
    this.tenants = this.newTenants();
    await this.tenants.open();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tenants[Symbol.asyncDispose]();
  }
}

function check(tenant: Tenant<Timeline>): Promise<TenantReport> {
  return tenant.check({ signal: new AbortController().signal, progress: () => undefined });
}

function timelineIn(report: TenantReport, id: string): TimelineReport {
  const found = report.timelines.find((timeline) => timeline.timelineId === id);
  assert.ok(found, `timeline ${id} is in the report`);
  return found;
}

/** Changes a file for the time of a check. */
async function withBytes<R>(
  path: string,
  change: (bytes: Buffer) => void,
  work: () => Promise<R>,
): Promise<R> {
  const whole = readFileSync(path);
  const copy = Buffer.from(whole);
  change(copy);
  writeFileSync(path, copy);
  try {
    return await work();
  } finally {
    writeFileSync(path, whole);
  }
}

test(
  "damage in every kind of file is found, while it is worked on and afterwards",
  { timeout: 300_000 },
  async (t) => {
    const random = SeededRandom.forTest(t);
    await using lab = new Lab({ checkpointDistanceBytes: 3 << 20 });
    await using site = new Site(lab);
    await site.tenants.open();
    const id = newTenantId(systemRandom);
    const created = await site.tenants.create({ id, pgVersion: versionByMajor(17) });
    await using fresh = await TestPostgres.create({ start: false });
    const tar = packDataDirectory(fresh.dataDir) as AsyncIterable<Uint8Array>;
    const { timeline: main } = await created.import({ branch: "main", timelineId: undefined, tar });
    const compute = await lab.compute(main);

    // While WAL comes in and layers are written, nothing is wrong.
    const writing = compute.query(
      `create table t as select i, md5(i::text) v from generate_series(1, 40000) i;
     create index on t (v); update t set v = v || 'x' where i % 3 = 0`,
    );
    let checks = 0;
    for (let done = false; !done; checks++) {
      done = await Promise.race([writing.then(() => true), check(created).then(() => false)]);
      const { state, timelines, tenant } = await check(created);
      assert.equal(state, "clean", JSON.stringify([timelines, tenant], undefined, 1));
    }
    await main.syncWithWriter(30_000);
    t.diagnostic(`${checks} checks beside a compute that writes`);
    const dev = await created.createBranch("dev", main.id, main.lastRecordLsn);
    await main.checkpoint();
    await compute.query("insert into t select i, 'behind the last layer' from generate_series(1, 600) i");
    await main.syncWithWriter(30_000);
    await compute.stop();
    const { wal } = await main.work();
    assert.ok(wal && wal.to > wal.from + 50_000, "there is WAL behind the last layer");

    const directory = join(site.directory, id);
    const own = join(directory, "timelines", main.id);
    const child = join(directory, "timelines", dev.ref.timelineId);
    const layers = readdirSync(join(own, "layers"));
    const pick = (ending: string): string =>
      join(own, "layers", layers.find((name) => name.endsWith(ending)) ?? "");
    const segment = readdirSync(join(own, "wal")).find((name) => {
      const start = parseSegmentName(name, main.cluster.segmentSize)?.startLsn;
      return start !== undefined && start <= wal.from && wal.from < start + main.cluster.segmentSize;
    });
    assert.ok(segment);
    // The note how far WAL is on disk is made now and then.
    const mark = new DurableMark(join(own, "wal.durable"), lab.files);
    for (const since = Date.now(); (await mark.read()) !== wal.to;) {
      assert.ok(Date.now() < since + 20_000, "the end of the WAL is noted");
      await sleep(20);
    }
    const walFrom = wal.from % main.cluster.segmentSize;
    const files: [path: string, from: number, to: number][] = [
      [join(directory, "tenant.json"), 0, 1e9],
      [join(directory, "refs", "main"), 0, 1e9],
      [join(own, "metadata.json"), 0, 1e9],
      [join(child, "metadata.json"), 0, 1e9],
      [join(own, "layers", "index.json"), 0, 1e9],
      [join(child, "layers", "index.json"), 0, 1e9],
      [pick(".image"), 0, 1e9],
      [pick(".delta"), 0, 1e9],
      [join(own, "wal", segment), walFrom, walFrom + 50_000],
      [join(own, "wal.durable"), 0, 1e9],
    ];
    const flips = async (tenant: Tenant<Timeline>): Promise<void> => {
      for (const [path, from, to] of files) {
        const size = readFileSync(path).length;
        for (let i = 0; i < 3; i++) {
          const at = random.between(from, Math.min(to, size) - 1);
          const change = (bytes: Buffer): void => {
            // In WAL the up to seven bytes between two records mean nothing; eight are never all of that kind.
            const [first, last] = path.includes("/wal/") ? [at & ~7, at | 7] : [at, at];
            for (let i = first; i <= last; i++) bytes[i] = (bytes[i] ?? 0) ^ (1 << random.below(8));
          };
          await withBytes(path, change, async () => {
            const report = await check(tenant);
            const details = [...report.timelines.flatMap((each) => each.details), ...report.tenant.details];
            const found = details.filter((finding) => finding.kind === "corrupt" && finding.file === path);
            assert.equal(report.state, "corrupt", `${path}, byte ${at}`);
            assert.ok(found.length > 0, `${path}, byte ${at}: ${JSON.stringify(details)}`);
            assert.ok(found[0]?.offset !== undefined, `${path}, byte ${at}: ${JSON.stringify(found)}`);
          });
        }
      }
    };
    await flips(created);
    renameSync(join(own, "wal", segment), `${lab.directory}/away`);
    const { details } = timelineIn(await check(created), main.id);
    assert.deepEqual([details[0]?.kind, details[0]?.file], ["corrupt", join(own, "wal", segment)]);
    renameSync(`${lab.directory}/away`, join(own, "wal", segment));
    assert.equal((await check(created)).state, "clean");
    // What a kill leaves now: WAL that is in no layer.
    const killed = join(lab.directory, "killed");
    cpSync(site.directory, killed, { recursive: true });

    await site.reopen();
    const tenant = site.tenants.get(id);
    assert.equal((await check(tenant)).state, "clean");

    await t.test("what is missing", async () => {
      for (const [path, about] of [
        [join(directory, "refs", "dev"), "tenant"],
        [join(directory, "tenant.json"), "tenant"],
        [pick(".image"), main.id],
        [join(own, "layers", "index.json"), main.id],
        [join(child, "metadata.json"), dev.ref.timelineId],
        [child, dev.ref.timelineId],
      ] as const) {
        renameSync(path, `${lab.directory}/away`);
        const report = await check(tenant);
        renameSync(`${lab.directory}/away`, path);
        const part = about === "tenant" ? report.tenant : timelineIn(report, about);
        assert.equal(part.state, "corrupt", path);
        assert.ok(
          part.details.some((finding) => finding.file === path),
          JSON.stringify(part.details),
        );
      }
    });

    await t.test("leftovers", async () => {
      const unknown = newTimelineId(systemRandom);
      mkdirSync(join(directory, "timelines", unknown));
      const leftovers = [
        join(directory, "refs", "x.lock"),
        join(directory, "tenant.json.lock"),
        join(own, "notes"),
        join(own, "layers", "00000099-0_1.delta.tmp"),
        join(own, "wal", "000000010000000000000000"),
      ];
      for (const path of leftovers) writeFileSync(path, "");
      const report = await check(tenant);
      for (const path of leftovers) rmSync(path);
      rmSync(join(directory, "timelines", unknown), { recursive: true });
      assert.equal(report.state, "garbage", JSON.stringify(report, undefined, 1));
      assert.equal(timelineIn(report, unknown).state, "garbage");
      const found = [...report.timelines, report.tenant].flatMap((part) =>
        part.details.map(({ file }) => file),
      );
      assert.deepEqual(found.filter((file) => !file.endsWith(unknown)).sort(), leftovers.sort());
    });

    await t.test("a ref to a timeline that is not there, and one to another than is worked on", async () => {
      const text = readFileSync(join(directory, "refs", "main"), "latin1");
      await site.reopen(() => {
        renameSync(child, `${lab.directory}/away`);
      });
      let report = await check(site.tenants.get(id));
      assert.equal(timelineIn(report, dev.ref.timelineId).state, "corrupt");
      assert.match(
        timelineIn(report, dev.ref.timelineId).details[0]?.what ?? "",
        /missing, but branch "dev" names it/,
      );
      assert.equal(timelineIn(report, main.id).state, "clean");
      await site.reopen(() => {
        renameSync(`${lab.directory}/away`, child);
      });
      const dev2 = readFileSync(join(directory, "refs", "dev"), "latin1");
      writeFileSync(join(directory, "refs", "main"), dev2);
      report = await check(site.tenants.get(id));
      writeFileSync(join(directory, "refs", "main"), text);
      assert.equal(report.tenant.state, "corrupt");
      assert.match(report.tenant.details[0]?.what ?? "", new RegExp(`works on ${main.id}`));
    });

    await t.test("a timeline that cannot be opened, and what hangs on it", async () => {
      const index = join(own, "layers", "index.json");
      const whole = readFileSync(index);
      await site.reopen(() => {
        const copy = Buffer.from(whole);
        copy[100] = (copy[100] ?? 0) ^ 1;
        writeFileSync(index, copy);
      });
      const report = await check(site.tenants.get(id));
      assert.equal(timelineIn(report, main.id).state, "corrupt");
      assert.equal(timelineIn(report, main.id).details[0]?.file, index);
      assert.match(
        timelineIn(report, dev.ref.timelineId).details[0]?.what ?? "",
        /its ancestor .* is broken/,
      );
      await site.reopen(() => {
        writeFileSync(index, whole);
      });
      assert.equal((await check(site.tenants.get(id))).state, "clean");
    });

    await t.test("stored WAL that was damaged while nobody looked", async () => {
      const there = join(killed, id, "timelines", main.id, "wal", segment);
      const bytes = readFileSync(there);
      // The middle of a record: the WAL is made of them.
      const at = walFrom + 20_001;
      bytes[at] = (bytes[at] ?? 0) ^ 0x10;
      writeFileSync(there, bytes);
      const copy = new Tenants(killed, { ...lab.dependencies, timelines: lab.factory });
      try {
        await copy.open();
        const report = await check(copy.get(id));
        const [found] = timelineIn(report, main.id).details;
        assert.deepEqual(
          [found?.kind, found?.file],
          ["corrupt", there],
          JSON.stringify(report, undefined, 1),
        );
        assert.ok(Math.abs((found?.offset ?? 0) - at) < 10_000, `${found?.offset}, damaged at ${at}`);
      } finally {
        await copy[Symbol.asyncDispose]();
      }
    });
  },
);

test("a check ends when nobody waits for it", async () => {
  await using lab = new Lab();
  await using site = new Site(lab);
  await site.tenants.open();
  const tenant = await site.tenants.create({ id: undefined, pgVersion: versionByMajor(17) });
  await using fresh = await TestPostgres.create({ start: false });
  const tar = packDataDirectory(fresh.dataDir) as AsyncIterable<Uint8Array>;
  await tenant.import({ branch: "main", timelineId: undefined, tar });
  const abort = new AbortController();
  const seen: number[] = [];
  const running = tenant.check({
    signal: abort.signal,
    progress: (done, total) => {
      assert.ok(done <= total);
      seen.push(done);
      if (seen.length === 3) abort.abort(new Error("enough"));
    },
  });
  await assert.rejects(running, /enough/);
  assert.equal(seen.length, 3);
});
