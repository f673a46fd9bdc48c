/**
 * Images that free space, where compaction has made others in the middle: what those hide may be gone, so no older state may
 * be put together.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { Maintenance } from "../../src/pageserver/compaction/maintenance.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { runCompaction } from "../../src/storage/compaction-job.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { ValueFlag } from "../../src/storage/key.ts";
import { LayerKind } from "../../src/storage/layer-format.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { toolsFor } from "../faults/compaction-story.ts";
import { blobBytes, imageBytes } from "../storage/model.ts";
import { SeededRandom } from "../support/random.ts";

const key = (block: number) => ({ kind: 0, spcOid: 1663, dbOid: 5, relNumber: 1, fork: 0, block });
/** A page that changes seldom, and one that changes often. */
const COLD = key(1);
const HOT = key(100);

test("images that free space are not made below others", async (t) => {
  const random = SeededRandom.forTest(t);
  const files = new FaultyFiles({ random: () => random.u32() });
  await using cache = new StoreCache({ capacityBytes: 100_000 }, { files });
  await using store = await TimelineStore.create(
    { directory: "/line", startLsn: toLsn(1000) },
    { files, cache },
  );
  const put = (at: ReturnType<typeof key>, lsn: number): void => {
    const bytes = blobBytes(lsn, 16);
    const blob = store.append(bytes, 0, bytes.length);
    store.put(store.intern(0, 1663, 5, 1, 0), at.block, toLsn(lsn), ValueFlag.Image, blob);
  };
  const flush = async (lsn: number): Promise<void> => {
    store.freeze(toLsn(lsn));
    await store.flush();
  };
  put(COLD, 1010);
  put(HOT, 1020);
  await flush(1100);
  put(HOT, 1150);
  await flush(1200);
  const range = { from: key(50), to: key(200) };
  const source = (async function* () {
    yield [{ key: HOT, bytes: imageBytes([1150]) }];
  })();
  await store.addImageLayer(range, toLsn(1200), source);
  put(HOT, 1300);
  await flush(1300);
  const maintenance = new Maintenance(
    {
      store,
      cluster: { pgVersion: POSTGRES_17, systemId: 1n, segmentSize: 1 << 24 },
      recordBoundary: async (lsn) => ({ previousLsn: lsn, endLsn: lsn }),
      commitTimeAt: async () => null,
      checkpoint: async () => undefined,
    },
    { flushedLayersMin: 8, layerBytesMax: 1 << 27, imageLayersMax: 8 },
    { runner: { run: (request) => runCompaction(request, toolsFor(files)) }, clock: { now: () => 0 } },
  );
  const cutoff = { lsn: toLsn(1250), previousLsn: toLsn(1200), commitMs: null };
  await maintenance.retain({ cutoff, points: [] });
  await maintenance.collect({ thorough: true });
  const images = store.layers().filter((layer) => layer.kind === LayerKind.Image);
  assert.deepEqual(images.map((layer) => layer.endLsn as number).sort(), [1200, 1200]);
  const newest = async (at: ReturnType<typeof key>, lsn: Lsn): Promise<number | undefined> =>
    (await store.get(at, lsn)).values[0]?.lsn;
  assert.equal(await newest(COLD, toLsn(1260)), 1200);
  assert.equal(await newest(HOT, toLsn(1260)), 1200);
  assert.equal(await newest(HOT, toLsn(1300)), 1300);
  await maintenance.close();
});
