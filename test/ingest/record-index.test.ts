/** Rounding LSNs to record ends, against a plain list of records. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, lsnAlignUp, toLsn } from "../../src/base/lsn.ts";
import { recordWindowKey, recordWindowOf, windowOfLsn } from "../../src/pageserver/ingest/keyspace.ts";
import {
  OpenRecordWindow,
  abandonedEntry,
  decodeRecordWindow,
} from "../../src/pageserver/ingest/record-index.ts";
import { type RecordBoundary, findRecordBoundary } from "../../src/pageserver/timeline/record-boundary.ts";
import { nextRecordLsn, recordEndLsn } from "../../src/postgres/wal/layout.ts";
import { SeededRandom } from "../support/random.ts";

const SEGMENT = 1 << 20;

/** Records of random lengths, some over many windows, laid out as in WAL. */
function makeRecords(random: SeededRandom, start: Lsn, count: number): RecordBoundary[] {
  const records: RecordBoundary[] = [];
  let end = start;
  for (let i = 0; i < count; i++) {
    const begin = nextRecordLsn(end, SEGMENT);
    const length = random.chance(0.02) ? random.between(100_000, 300_000) : random.between(24, 3000);
    // Now and then a record that ends exactly with its page.
    const toPageEnd = lsnAlignUp(begin, 8192) - begin;
    end = recordEndLsn(begin, random.chance(0.2) && toPageEnd >= 24 ? toPageEnd : length, SEGMENT);
    records.push({ previousLsn: begin, endLsn: end });
  }
  return records;
}

test("an LSN is rounded down to the end of a record", async (t) => {
  const random = SeededRandom.forTest(t);
  const start: RecordBoundary = { previousLsn: toLsn(0x100_0028), endLsn: toLsn(0x101_23a8) };
  const made = makeRecords(random, start.endLsn, 600);
  const windows = new Map<number, Lsn[]>();
  const records: RecordBoundary[] = [];
  for (const [i, record] of made.entries()) {
    const { previousLsn } = record;
    // Now and then a record is cut off, and the next one begins a page behind it.
    const next = made[i + 1]?.previousLsn ?? 0;
    const isCutOff = next % 8192 <= 40 && next > previousLsn && random.chance(0.3);
    const window = windowOfLsn(previousLsn);
    const entry = isCutOff ? abandonedEntry(previousLsn) : previousLsn;
    windows.set(window, [...(windows.get(window) ?? []), entry]);
    if (!isCutOff) records.push(record);
  }
  assert.ok(records.length < made.length && records.length > 500);
  const all = [start, ...records];
  const last = all[all.length - 1] as RecordBoundary;
  const index = {
    start,
    last,
    segmentSize: SEGMENT,
    windowOf: windowOfLsn,
    windowStarts: (window: number) => Promise.resolve(windows.get(window) ?? []),
  };
  const probes = all.flatMap(({ endLsn }) => [endLsn, endLsn + 1, endLsn + 24, endLsn + 40, endLsn - 8]);
  for (let i = 0; i < 2000; i++) probes.push(random.between(start.endLsn, last.endLsn + 100));
  for (const probe of probes.filter((lsn) => lsn >= start.endLsn)) {
    const expected = all.findLast((record) => record.endLsn <= probe);
    assert.deepEqual(await findRecordBoundary(index, toLsn(probe)), expected, `at ${probe}`);
  }
});

test("a window is stored and goes on where it was stored", () => {
  const window = new OpenRecordWindow();
  const base = 7 * 65536;
  window.add(toLsn(base + 40));
  window.add(abandonedEntry(toLsn(base + 128)));
  window.add(toLsn(base + 65528));
  assert.equal(window.unsaved, true);
  const bytes = window.save();
  assert.equal(window.unsaved, false);
  assert.deepEqual(decodeRecordWindow(7, bytes), [base + 40, base + 124, base + 65528]);
  assert.deepEqual(window.list(), decodeRecordWindow(7, bytes));
  const again = new OpenRecordWindow();
  again.resume(7, decodeRecordWindow(7, bytes).slice(0, 1));
  again.add(toLsn(base + 800));
  assert.deepEqual(again.list(), [base + 40, base + 800]);
  again.add(toLsn(base + 65536 + 24));
  assert.deepEqual([again.window, again.list()], [8, [base + 65536 + 24]]);
});

test("windows have keys of their own up to the end of the LSN range", () => {
  for (const window of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 37 - 1]) {
    assert.equal(recordWindowOf(recordWindowKey(window)), window);
  }
});

test("a damaged window is refused", () => {
  assert.throws(() => decodeRecordWindow(1, new Uint8Array([1])), { code: "corrupt" });
  assert.throws(() => decodeRecordWindow(1, new Uint8Array([2, 0, 1, 0])), { code: "corrupt" });
  assert.throws(() => decodeRecordWindow(1, new Uint8Array(16386)), { code: "corrupt" });
});
