/** Damaged records through ingest, one after the other into the same timeline. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { lsnAdd } from "../../src/base/lsn.ts";
import { GAP_BLOCKS_MAX } from "../../src/pageserver/ingest/ingest.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { makeIngest } from "../ingest/support.ts";
import { Lab } from "../pageserver/branch-harness.ts";
import type { SeededRandom } from "../support/random.ts";
import type { Sample } from "./fuzz-corpus.ts";
import { damagedRecord, fuzz, isTyped } from "./fuzz.ts";
import { makeRecord } from "./redo-builder.ts";

/** Whether the record makes a relation very much longer, which is allowed but takes time and memory. */
function leavesLargeGap(record: WalRecord): boolean {
  const blocks = record.blocks.slice(0, record.blockCount);
  return blocks.some(({ blockNumber }) => blockNumber > 20_000 && blockNumber < GAP_BLOCKS_MAX + 20_000);
}

/** Each is taken in, or refused with a typed error. */
export async function fuzzIngest(
  t: TestContext,
  share: number,
  options: { random: SeededRandom; samples: readonly Sample[] },
): Promise<void> {
  const { random, samples } = options;
  await using lab = new Lab();
  const ingest = await makeIngest(lab);
  // Records that change more than pages come more often, and now and then are nothing but noise.
  const others = samples.filter((sample) => sample.page === undefined);
  let refused = 0;
  let position = ingest.state.lastRecordLsn;
  await fuzz(t, share, random.seed, async () => {
    const sample = random.pick(random.chance(0.7) ? others : samples);
    const noise = { rmgr: random.below(Rmgr.LogicalMsg + 1), info: random.below(16) << 4, xid: random.u32() };
    const record = random.chance(0.2)
      ? makeRecord({ ...noise, main: random.bytes(random.below(100)) })
      : damagedRecord(random, sample, ingest.version);
    // Copying a database of this size takes long, whatever is wrong with the record.
    if (
      record === undefined ||
      leavesLargeGap(record) ||
      (record.rmgr === Rmgr.Dbase && (record.info & 0xf0) === 0)
    )
      return;
    // A timeline ends with a record that is refused, of which something may have been put. This one goes on behind it.
    record.lsn = position;
    position = lsnAdd(position, (record.length + 7) & ~7);
    record.endLsn = position;
    try {
      // A page that very many records change is read at once, and may turn out to be beyond redo.
      await ingest.ingest(record);
    } catch (error) {
      if (!isTyped(error)) throw error;
      refused++;
    }
  });
  t.diagnostic(`${ingest.recordCount} records ingested, ${refused} refused`);
  assert.ok(ingest.recordCount > 10 && refused > 10);
}
