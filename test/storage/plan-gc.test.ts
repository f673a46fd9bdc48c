/** Which layers garbage collection may remove, against looking at every key. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../src/base/lsn.ts";
import { type KeyRange, makeKey } from "../../src/storage/key-range.ts";
import type { LayerDescriptor } from "../../src/storage/layer-file.ts";
import { LayerKind } from "../../src/storage/layer-format.ts";
import { type GcInput, planGc } from "../../src/storage/plan-gc.ts";
import { SeededRandom } from "../support/random.ts";

const BLOCKS = 40;
const PREFIX = { kind: 0, spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };

const range = (from: number, to: number): KeyRange => ({
  from: makeKey(PREFIX, from),
  to: makeKey(PREFIX, to),
});

function makeLayers(random: SeededRandom): LayerDescriptor[] {
  return Array.from({ length: 1 + random.below(40) }, (_, i) => {
    const from = random.below(BLOCKS - 1);
    const covered = range(from, random.between(from + 1, BLOCKS));
    const endLsn = random.between(10, 60);
    const common = { sizeBytes: 100, valueCount: 10, range: covered, endLsn: toLsn(endLsn) };
    if (random.chance(0.6))
      return { ...common, name: `${i}.image`, kind: LayerKind.Image, startLsn: toLsn(endLsn) };
    const startLsn = toLsn(endLsn - random.between(1, 10));
    const middle = random.between(from + 1, BLOCKS);
    const spans = [range(from, Math.min(middle, covered.to.block))];
    if (middle + 1 < covered.to.block) spans.push(range(middle + 1, covered.to.block));
    return { ...common, name: `${i}.delta`, kind: LayerKind.Delta, startLsn, spans };
  });
}

/** Whether a read of some block at an LSN gets as far as the layer. */
function isRead(layer: LayerDescriptor, lsn: number, { layers, imagesWithin }: GcInput): boolean {
  const isImage = layer.kind === LayerKind.Image;
  if (isImage ? layer.endLsn > lsn : layer.startLsn >= lsn) return false;
  for (const { from, to } of layer.spans ?? [layer.range]) {
    for (let block = from.block; block < to.block; block++) {
      if (block < imagesWithin.from.block || block >= imagesWithin.to.block) continue;
      const images = layers.filter((other) => {
        const covers = other.range.from.block <= block && block < other.range.to.block;
        return other.kind === LayerKind.Image && other.endLsn <= lsn && covers;
      });
      const newest = Math.max(...images.map((image) => image.endLsn), -1);
      if (isImage ? newest <= layer.endLsn : newest < layer.endLsn) return true;
    }
  }
  return false;
}

test("a layer goes exactly if no read at the cutoff or at a point gets as far as it", async (t) => {
  const random = SeededRandom.forTest(t);
  let removed = 0;
  for (let round = 0; round < 300; round++) {
    const cutoffLsn = random.between(15, 65);
    const within = random.pick([range(0, BLOCKS), range(5, 30)]);
    const points = Array.from({ length: random.below(4) }, () => toLsn(random.below(cutoffLsn)));
    const input: GcInput = {
      layers: makeLayers(random),
      cutoffLsn: toLsn(cutoffLsn),
      points,
      imagesWithin: within,
    };
    const plan = await planGc(input);
    assert.equal(plan.removable.length + plan.kept.length, input.layers.length);
    removed += plan.removable.length;
    for (const layer of plan.removable) {
      assert.ok(layer.endLsn <= cutoffLsn);
      for (const lsn of [cutoffLsn, ...points]) assert.ok(!isRead(layer, lsn, input), layer.name);
    }
    for (const { layer, by } of plan.kept) {
      if (by.kind === "window") assert.ok(layer.endLsn > cutoffLsn);
      if (by.kind === "cutoff") {
        assert.ok(isRead(layer, cutoffLsn, input), layer.name);
        assert.equal(by.only, !points.some((lsn) => isRead(layer, lsn, input)));
      }
      if (by.kind === "points") {
        assert.ok(!isRead(layer, cutoffLsn, input), layer.name);
        assert.deepEqual(
          by.lsns,
          points.filter((lsn) => isRead(layer, lsn, input)),
        );
      }
    }
  }
  assert.ok(removed > 50, `${removed} layers were to be removed`);
});
