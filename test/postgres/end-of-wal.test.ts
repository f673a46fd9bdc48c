/**
 * WAL that is cut off at any byte of its last two pages: where `findEndOfWal` sees the end, and where stock Postgres does.
 *
 * The judge is Postgres' own reader of WAL, the one that recovery uses, through pg_walinspect in a running server: it
 * reads a file that we change for each cut. Every cut on 17, a sample of them on 15, 16 and 18; the rest of the file being
 * zeros, as after a crash, or what a recycled file held before. A few cuts, also on 14 (which has no pg_walinspect),
 * go through recovery itself: the last record that the server says it has redone is the last one that we find.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Lsn, formatLsn, lsnAdd, toLsn } from "../../src/base/lsn.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { EMBEDDED_MAJORS } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";
import { CUT_BYTES, CutWal } from "./cut-wal.ts";

/** One cut in so many is tried on majors other than 17, and with old bytes. */
const SAMPLED = 37;
const FILLERS = ["zeros", "old bytes"] as const;

async function checkCuts(t: TestContext, wal: CutWal, each: number): Promise<void> {
  const client = await wal.server.connect();
  const ends = new Set<Lsn>();
  let cuts = 0;
  try {
    await client.query("create extension pg_walinspect");
    for (const filler of FILLERS) {
      const step = filler === "zeros" ? each : SAMPLED;
      // Backwards, so that the whole WAL is among them.
      for (let at = wal.endLsn; at >= wal.endLsn - CUT_BYTES; at = toLsn(at - step)) {
        const pages = wal.cut(at, filler);
        const start = wal.shortlyBefore(at);
        const theirs = await wal.theirs(client, pages, start);
        const { endLsn } = await wal.ours(pages, start);
        assert.equal(formatLsn(endLsn), formatLsn(theirs), `cut at ${formatLsn(at)}, then ${filler}`);
        ends.add(endLsn);
        cuts++;
      }
    }
  } finally {
    await client.end();
  }
  t.diagnostic(`${cuts} cuts, ${ends.size} different ends`);
  assert.ok(ends.size > 3 && ends.has(wal.endLsn));
}

/** Places of every sort: at the end of a record and beside it, in its header, in a page header, within the last record. */
function placesToRecover(wal: CutWal, random: SeededRandom): Lsn[] {
  const inCuts = wal.records.filter((record) => record.endLsn > wal.endLsn - CUT_BYTES);
  const record = random.pick(inCuts.slice(0, -1));
  const page = wal.endLsn - (wal.endLsn % PAGE_SIZE);
  return [
    record.endLsn,
    lsnAdd(record.endLsn, random.between(1, 23)),
    toLsn(page + 10),
    lsnAdd(wal.endLsn, -9),
  ];
}

async function checkRecovery(wal: CutWal, random: SeededRandom): Promise<void> {
  for (const at of placesToRecover(wal, random)) {
    const filler = random.pick(FILLERS);
    const pages = wal.cut(at, filler);
    const redone = await wal.recover(pages);
    const { previousLsn } = await wal.ours(pages, wal.options.startLsn);
    assert.equal(formatLsn(previousLsn), formatLsn(redone), `cut at ${formatLsn(at)}, then ${filler}`);
  }
}

for (const major of EMBEDDED_MAJORS) {
  test(`the end of cut WAL of PostgreSQL ${major}`, { timeout: 600_000 }, async (t) => {
    const random = SeededRandom.forTest(t);
    await using wal = await CutWal.make(major, random);
    if (major >= 15) await checkCuts(t, wal, major === 17 ? 1 : SAMPLED);
    if (major === 14 || major === 17) await checkRecovery(wal, random);
  });
}
