/** A layer that a branch and its ancestor both have is sent once, with the ancestor. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTimelineId } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type ExportedStep, withoutRepeats } from "../../src/pageserver/transfer/export.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { LayerKind } from "../../src/storage/layer-format.ts";

function stepOf(id: string, layers: readonly string[]): ExportedStep {
  const at = toLsn(1000);
  const descriptor = {
    name: "x.image",
    kind: LayerKind.Image,
    startLsn: at,
    endLsn: at,
    range: ALL_KEYS,
    sizeBytes: 1,
    valueCount: 1,
  };
  return {
    kind: "create",
    timelineId: parseTimelineId(id.repeat(32)),
    ancestor: undefined,
    fromLsn: at,
    toLsn: at,
    history: [],
    retention: undefined,
    createdAt: 0,
    layers: layers.map((fingerprint) => ({ descriptor, fingerprint })),
    paths: layers.map((fingerprint) => `/${id}/${fingerprint}`),
  };
}

test("a layer that two steps have goes with the first", () => {
  const steps = withoutRepeats([stepOf("a", ["1", "2"]), stepOf("b", ["3", "2", "4"]), stepOf("c", ["1"])]);
  assert.deepEqual(
    steps.map(({ paths }) => paths),
    [["/a/1", "/a/2"], ["/b/3", "/b/4"], []],
  );
  for (const { layers, paths } of steps) {
    assert.deepEqual(
      layers.map(({ fingerprint }) => fingerprint),
      paths.map((path) => path.slice(3)),
    );
  }
});
