/** When layers of a timeline are written, merged and waited for: the server's settings, and a tenant's that change. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TenantOverrides } from "../../src/pageserver/timeline/tenant-settings.ts";
import { TimelineLimits } from "../../src/pageserver/timeline/timeline-limits.ts";

const SERVER = { checkpointDistanceBytes: 1000, checkpointTimeoutMs: 2000 };

void test("without a tenant the server's hold, and where it says nothing the usual ones", () => {
  const limits = new TimelineLimits(SERVER);
  assert.equal(limits.checkpointDistanceBytes, 1000);
  assert.equal(limits.checkpointTimeoutMs, 2000);
  assert.equal(limits.flushedLayersMin, 8);
  // Nobody said that anything is merged by itself.
  assert.equal(limits.flushedLayersMax, undefined);
  assert.equal(limits.layerBytesMax, 128 << 20);
  assert.equal(limits.imageLayersMax, 8);
});

void test("a tenant's take their place as soon as they are there", () => {
  let own: TenantOverrides = {};
  const limits = new TimelineLimits({ ...SERVER, flushedLayersMin: 4, flushedLayersMax: 16, own: () => own });
  assert.deepEqual([limits.flushedLayersMin, limits.flushedLayersMax], [4, 16]);
  own = { checkpointDistanceBytes: 5, checkpointTimeoutMs: 6, layerBytesMax: 7, imageLayersMax: 8 };
  assert.deepEqual(
    [
      limits.checkpointDistanceBytes,
      limits.checkpointTimeoutMs,
      limits.layerBytesMax,
      limits.imageLayersMax,
      limits.flushedLayersMax,
    ],
    [5, 6, 7, 8, 16],
  );
  own = {};
  assert.equal(limits.checkpointDistanceBytes, 1000);
});

void test("when WAL waits for merges depends on whether and when there are any", () => {
  const cases: [TenantOverrides, number | undefined, number | undefined][] = [
    // What the tenant says, where the server merges by itself, and where it does not.
    [{}, 16, undefined],
    [{ flushedLayersMin: 3 }, 12, undefined],
    [{ compactionPeriodMs: 0 }, undefined, undefined],
    [{ compactionPeriodMs: 1000 }, 16, 16],
    [{ compactionPeriodMs: 1000, flushedLayersMin: 2 }, 8, 8],
    [{ flushDelayLayers: 5 }, 5, 5],
    [{ flushDelayLayers: 0 }, undefined, undefined],
    [{ flushDelayLayers: 5, compactionPeriodMs: 0 }, 5, 5],
  ];
  for (const [own, merging, resting] of cases) {
    const server = { ...SERVER, flushedLayersMin: 4, own: (): TenantOverrides => own };
    assert.equal(new TimelineLimits({ ...server, flushedLayersMax: 16 }).flushedLayersMax, merging);
    assert.equal(new TimelineLimits(server).flushedLayersMax, resting);
  }
});
