/**
 * For benchmarks: GetPage by the number of records to replay behind the page's image, in the process of the pageserver.
 * Hot: the page is in the page cache. Warm: the pageserver has nothing of it in memory except the directory of the layer,
 * the file is in the cache of the operating system. Cold: not there either, so the disk is read. An image and its records lie
 * beside each other in one delta layer.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { newTenantId } from "../src/base/ids.ts";
import { PageCache } from "../src/pageserver/read/page-cache.ts";
import { PageReader } from "../src/pageserver/read/page-reader.ts";
import { Reconstructor } from "../src/pageserver/read/reconstruct.ts";
import { Tenants } from "../src/pageserver/timeline/tenants.ts";
import { timelineFactory } from "../src/pageserver/timeline/timeline-factory.ts";
import { POSTGRES_17 } from "../src/postgres/versions/postgres-17.ts";
import type { Key } from "../src/storage/key.ts";
import { RealFiles } from "../src/storage/real-files.ts";
import { StoreCache } from "../src/storage/store-cache.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START, tinyTar } from "../test/faults/tiny-cluster.ts";
import { WalBuilder } from "../test/support/wal-builder.ts";

const RECORDS = [0, 1, 10, 100] as const;
/** Pages for each number of records. */
const PAGES = 250;
const PAGE_SIZE = 8192;
const MIB = 2 ** 20;

const blockOf = (which: number, page: number): number => page * RECORDS.length + which;

const keyOf = (block: number): Key => ({
  kind: 0,
  spcOid: 1663,
  dbOid: 5,
  relNumber: 16384,
  fork: 0,
  block,
});

/** Pages that do not shrink, each with as many changes behind it as its place asks for; in turns, as a server makes them. */
function changedPages(): Buffer {
  const options = {
    start: TINY_START,
    previous: CHECKPOINT_LSN,
    segmentSize: SEGMENT_SIZE,
    systemId: SYSTEM_ID,
  };
  const builder = new WalBuilder(options);
  const relation = [1663, 5, 16384] as const;
  for (let block = 0; block < PAGES * RECORDS.length; block++) {
    const stored = randomBytes(PAGE_SIZE);
    stored.fill(0, 0, 24);
    stored.writeUInt16LE(24, 12);
    stored.writeUInt16LE(PAGE_SIZE - 48, 14);
    stored.writeUInt16LE(PAGE_SIZE, 16);
    stored.writeUInt16LE(0x2004, 18);
    const image = { stored, info: 0x02, holeOffset: 0 };
    builder.add({ rmgr: 0, info: 0xb0, blocks: [{ id: 0, relation, block, image }] });
  }
  for (let i = 0; i < Math.max(...RECORDS); i++) {
    for (const [which, records] of RECORDS.entries()) {
      for (let page = 0; i < records && page < PAGES; page++) {
        const data = Buffer.alloc(12, i);
        data.writeUInt16LE(PAGE_SIZE - 48 + (i % 40), 0);
        data.writeUInt16LE(8, 2);
        builder.add({ rmgr: 20, info: 0, blocks: [{ id: 0, relation, block: blockOf(which, page), data }] });
      }
    }
  }
  return Buffer.from(builder.bytes);
}

/** Has the operating system forget a file; false where that cannot be asked for. */
function forget(path: string): boolean {
  const args = [`of=${path}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"];
  return process.platform === "linux" && spawnSync("dd", args).status === 0;
}

function percentiles(times: number[]): string {
  times.sort((a, b) => a - b);
  const of = (share: number): string => (times[Math.floor(times.length * share)] ?? 0).toFixed(1);
  return `p50 ${of(0.5)} us, p99 ${of(0.99)} us`;
}

/** Times, in microseconds, of reading the pages with one number of records, each after `before`. */
async function timesOf(
  which: number,
  read: (key: Key) => Promise<unknown>,
  before: () => void,
): Promise<number[]> {
  const times: number[] = [];
  for (let page = 0; page < PAGES; page++) {
    before();
    const start = performance.now();
    await read(keyOf(blockOf(which, (page * 97) % PAGES)));
    times.push((performance.now() - start) * 1000);
  }
  return times;
}

export async function benchGetPages(
  directory: string,
  report: (name: string, value: string) => void,
): Promise<void> {
  const files = new RealFiles();
  // Nothing fits into it.
  await using cache = new StoreCache({ capacityBytes: 0 }, { files });
  const quiet = (): void => undefined;
  const shared = {
    files,
    random: { bytes: (count: number) => new Uint8Array(randomBytes(count)) },
    log: { info: quiet, warn: quiet, error: quiet },
    clock: { now: () => Date.now() },
  };
  const timelines = timelineFactory({
    ...shared,
    cache,
    pages: new PageCache({ capacityBytes: MIB }),
    verifyRedo: false,
    onFatal: (error) => {
      throw error;
    },
    checkpointDistanceBytes: 64 * MIB,
    checkpointTimeoutMs: 600_000,
  });
  const tenants = new Tenants(join(directory, "tenants"), { ...shared, timelines });
  await tenants.open();
  const tenant = await tenants.create({ id: newTenantId(shared.random), pgVersion: POSTGRES_17 });
  const { timeline } = await tenant.import({ branch: "main", timelineId: undefined, tar: tinyTar() });
  const intake = await timeline.openIntake();
  await intake.accept(TINY_START, changedPages());
  await timeline.checkpoint();
  const { store, lastRecordLsn: lsn } = timeline;
  const reconstructor = new Reconstructor({ version: POSTGRES_17, hintBitsLogged: false });
  const readerOf = (capacityBytes: number): PageReader =>
    new PageReader({ store, reconstructor, pages: new PageCache({ capacityBytes }) });
  const paths = store.layers().map((layer) => store.pathOf(layer));
  const hot = readerOf(64 * MIB);
  const empty = readerOf(0);
  const readHot = (key: Key): Promise<unknown> => hot.value(key, lsn);
  const readEmpty = (key: Key): Promise<unknown> => empty.value(key, lsn);
  for (const [which, records] of RECORDS.entries()) {
    const name = `GetPage, ${records} records`;
    for (let round = 0; round < 8; round++) {
      await timesOf(which, readHot, quiet);
      await timesOf(which, readEmpty, quiet);
    }
    report(`${name}, hot`, percentiles(await timesOf(which, readHot, quiet)));
    report(`${name}, warm`, percentiles(await timesOf(which, readEmpty, quiet)));
    let isForgotten = true;
    const drop = (): void => {
      for (const path of paths) isForgotten &&= forget(path);
    };
    const cold = await timesOf(which, readEmpty, drop);
    report(
      `${name}, cold`,
      isForgotten ? percentiles(cold) : "cannot be measured: dd does not drop what is cached",
    );
  }
  await tenants[Symbol.asyncDispose]();
}
