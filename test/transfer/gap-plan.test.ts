/** The gap of a timeline that is made longer, as it is announced and written down; what nobody would announce is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import { newTimelineId } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type TransferPlan, parsePlan, renderPlan } from "../../src/pageserver/transfer/plan.ts";
import { holesIn } from "../../src/storage/fsck.ts";
import { encodeIndex } from "../../src/storage/index-encoder.ts";
import { type TimelineIndex, decodeIndex } from "../../src/storage/index-file.ts";
import { ALL_KEYS } from "../../src/storage/key-range.ts";
import { LayerKind } from "../../src/storage/layer-format.ts";
import { floorAt, pointAt } from "../../src/storage/retention.ts";
import type { Retention } from "../../src/storage/store.ts";

const IMPORT_ID = newTimelineId({ bytes: (count) => new Uint8Array(count).fill(8) });
const point = (lsn: number) => ({ lsn: toLsn(lsn), previousLsn: toLsn(lsn - 8), commitMs: lsn });
const stretch = (from: number, to: number) => ({ from: point(from), to: point(to) });

function plan(retention: Retention, kind: "extend" | "create" = "extend"): TransferPlan {
  const step = {
    kind,
    timelineId: newTimelineId({ bytes: (count) => new Uint8Array(count).fill(7) }),
    ancestor: undefined,
    importId: kind === "create" ? IMPORT_ID : undefined,
    fromLsn: toLsn(1000),
    toLsn: toLsn(3000),
    history: [],
    retention,
    createdAt: 0,
    layers: [],
  };
  return { result: "updated", commonLsn: toLsn(1000), steps: [step] };
}

/** As it comes over the wire. */
function parsed(sent: TransferPlan): TransferPlan {
  return parsePlan(JSON.parse(JSON.stringify(renderPlan(sent))));
}

test("a plan may have a gap above the receiver's end", () => {
  const gap = plan({ cutoff: point(2000), points: [] });
  assert.deepEqual(parsed(gap), gap);
  const copy = plan(
    { cutoff: point(2000), points: [point(1500)], stretches: [stretch(1100, 1200)] },
    "create",
  );
  assert.deepEqual(parsed(copy), copy);
  for (const retention of [
    { cutoff: point(1000), points: [] },
    { cutoff: point(3008), points: [] },
    { cutoff: point(2000), points: [point(1500)] },
    { cutoff: point(2000), points: [], stretches: [stretch(1100, 1200)] },
  ]) {
    assert.throws(() => parsed(plan(retention)), { code: ErrorCode.Corrupt });
  }
  const [step] = gap.steps;
  const renamed = { ...gap, steps: [{ ...step, importId: IMPORT_ID }] } as TransferPlan;
  assert.throws(() => parsed(renamed), { code: ErrorCode.Corrupt, message: /import_id/ });
  for (const stretches of [
    [stretch(1200, 1100)],
    [stretch(1100, 2000)],
    [stretch(1300, 1400), stretch(1100, 1200)],
  ]) {
    const wrong = plan({ cutoff: point(2000), points: [], stretches }, "create");
    assert.throws(() => parsed(wrong), { code: ErrorCode.Corrupt, message: /stretches/ });
  }
});

test("an index keeps stretches, and what is readable in them", () => {
  const delta = (from: number, to: number) => ({
    name: `${from}.delta`,
    kind: LayerKind.Delta,
    startLsn: toLsn(from),
    endLsn: toLsn(to),
    range: ALL_KEYS,
    sizeBytes: 1,
    valueCount: 1,
  });
  const retention = { cutoff: point(2000), points: [point(1040)], stretches: [stretch(1080, 1200)] };
  const index: TimelineIndex = {
    startLsn: toLsn(1000),
    durableLsn: toLsn(3000),
    nextFile: 4,
    retention,
    layers: [delta(1000, 1240), delta(1960, 3000)],
  };
  const read = decodeIndex(encodeIndex(index), "index");
  assert.deepEqual(read, index);
  assert.deepEqual(holesIn(read, undefined), []);
  const holes = holesIn({ ...index, layers: [delta(1000, 1160), delta(1960, 3000)] }, undefined);
  assert.deepEqual(holes, ["has no layer from 0/488 to 0/4B0"]);
  const floors = [1040, 1072, 1080, 1100, 1200, 1208, 1992, 2000, 2500].map(
    (lsn) => floorAt(retention, toLsn(lsn))?.lsn as number | undefined,
  );
  assert.deepEqual(floors, [1040, undefined, 1080, 1080, 1080, undefined, undefined, 2000, 2000]);
  assert.equal(pointAt(retention, toLsn(1200))?.previousLsn, toLsn(1192));
  for (const stretches of [[stretch(1200, 1080)], [stretch(1080, 2000)], [stretch(992, 1200)]]) {
    const wrong = encodeIndex({ ...index, retention: { ...retention, stretches } });
    assert.throws(() => decodeIndex(wrong, "index"), { code: ErrorCode.Corrupt, message: /out of order/ });
  }
});
