/**
 * Many base backups at once: the process stays under its memory limit, since few of them run at a time, and each of them is
 * whole. Needs `npm run build`.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { toLsn } from "../../src/base/lsn.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { SeededRandom } from "../support/random.ts";
import { WalBuilder } from "../support/wal-builder.ts";
import { PageserverChild, TENANT } from "./pageserver-child.ts";
import { Scene } from "./scene.ts";
import { CHECKPOINT_LSN, SEGMENT_SIZE, SYSTEM_ID, TINY_START } from "./tiny-cluster.ts";

const MIB = 2 ** 20;
const PAGE_SIZE = 8192;
/** As many as are read ahead in one layer. */
const PAGES_PER_LAYER = 64;
const LAYERS = 16;
const BACKUPS = 32;
const LIMIT_MIB = 352;

/** Whole pages, every second of each layer among those of the others, so that a scan has all layers open at once. */
function pagesOf(builder: WalBuilder, random: SeededRandom, layer: number): void {
  for (let i = 0; i < PAGES_PER_LAYER; i++) {
    const stored = Buffer.from(random.bytes(PAGE_SIZE));
    stored.fill(0, 0, 24);
    stored.writeUInt16LE(24, 12);
    stored.writeUInt16LE(24, 14);
    stored.writeUInt16LE(PAGE_SIZE, 16);
    stored.writeUInt16LE(0x2004, 18);
    const image = { stored, info: 0x02, holeOffset: 0 };
    const block = i * LAYERS + layer;
    builder.add({ rmgr: 0, info: 0xb0, blocks: [{ id: 0, relation: [1663, 5, 20_000], block, image }] });
  }
}

/** Layers on disk, as a pageserver has left them. */
async function prepare(directory: string, random: SeededRandom): Promise<void> {
  const scene = await Scene.open(new RealFiles(), random, { directory });
  await scene.createTenant();
  const timeline = await scene.import("main");
  const intake = await timeline.openIntake();
  const wal = { segmentSize: SEGMENT_SIZE, systemId: SYSTEM_ID };
  const builder = new WalBuilder({ start: TINY_START, previous: CHECKPOINT_LSN, ...wal });
  let taken: number = TINY_START;
  for (let layer = 0; layer < LAYERS; layer++) {
    pagesOf(builder, random, layer);
    const bytes = Buffer.from(builder.bytes);
    await intake.accept(toLsn(taken), bytes.subarray(taken - TINY_START));
    taken = TINY_START + bytes.length;
    await timeline.checkpoint();
  }
  assert.ok(timeline.store.stats.deltaCount >= LAYERS);
  await scene.stop();
}

test(
  "many base backups at once stay under the memory limit, and each is whole",
  { timeout: 600_000 },
  async (t) => {
    const random = SeededRandom.forTest(t);
    const directory = mkdtempSync(join(tmpdir(), "neon-backups-"));
    await using stack = new AsyncDisposableStack();
    stack.defer(() => {
      rmSync(directory, { recursive: true, force: true });
    });
    const settings = `memory_limit = "${LIMIT_MIB}MB"\ncache_size = "16MB"\ncompaction_period = 0\n`;
    const server = stack.use(new PageserverChild(directory, settings));
    await prepare(join(server.workdir, "tenants"), random);
    await server.start();
    const { branches } = await server.ok("GET", `${server.tenant}/branch`);
    const [main] = branches as Record<string, unknown>[];
    const path = `/v1/tenant/${TENANT}/timeline/${String(main?.["timeline_id"])}/basebackup`;
    const backupBytes = async (): Promise<number> => {
      const response = await server.fetch("GET", path);
      assert.equal(response.status, 200);
      assert.ok(response.body);
      let sizeBytes = 0;
      for await (const chunk of response.body) {
        sizeBytes += chunk.length;
        // Slower than the pageserver, so that all would run at once if they could.
        await sleep(1);
      }
      return sizeBytes;
    };
    const alone = await backupBytes();
    assert.ok(alone > LAYERS * PAGES_PER_LAYER * PAGE_SIZE, "all pages are in it");
    const all = await Promise.all(Array.from({ length: BACKUPS }, backupBytes));
    for (const one of all) assert.equal(one, alone);
    if (process.platform === "linux") {
      const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))?.[1]);
      t.diagnostic(`peak of resident memory: ${Math.round((peak * 1024) / MIB)} MiB`);
      assert.ok(peak * 1024 < LIMIT_MIB * MIB, `${peak} kB`);
    }
  },
);
