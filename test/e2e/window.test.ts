/**
 * A window of history that moves with the clock: with `pitr_interval` at two seconds, garbage collection keeps what is
 * younger, and frees what is older as time passes, the biggest dropped table included.
 */
import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../src/base/lsn.ts";
import { Lab, until } from "./support.ts";

const MIB = 2 ** 20;
const WINDOW_MS = 2000;
const WAIT_MS = 120_000;
/** Lines that do not compress, so that its size is known: about 20 MB. */
const BIG =
  "create table big as select i, string_agg(md5(i::text || j::text), '') as filler " +
  "from generate_series(1, 20000) i, generate_series(1, 30) j group by i";
const BIG_BYTES = 19 * MIB;
const SETTINGS = 'pitr_interval = "2s"\ngc_horizon_bytes = 0\ngc_period = 0\n';

/** A moment that had come when the clock showed `timeMs`. */
interface Moment {
  readonly timeMs: number;
  readonly lsn: number;
}

async function totalBytes(lab: Lab): Promise<number> {
  const { total_bytes: bytes } = await lab.json("du");
  assert.ok(typeof bytes === "number");
  return bytes;
}

/** Begins a transaction after it has looked at the clock, and returns when it is committed. */
async function commit(lab: Lab, uri: string): Promise<Moment> {
  const timeMs = Date.now();
  await lab.execute(uri, "insert into kept values (2)");
  return {
    timeMs,
    lsn: parseLsn(String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text"))) ?? 0,
  };
}

/** Collects garbage by the settings. Where history begins, and the latest time at which that can have been decided. */
async function collect(lab: Lab): Promise<Moment> {
  const { timelines } = (await lab.json("gc")) as { timelines: { gc_cutoff_lsn: string | null }[] };
  return { lsn: parseLsn(timelines[0]?.gc_cutoff_lsn ?? "0/0") ?? 0, timeMs: Date.now() };
}

test("history goes as time passes, and not before", { timeout: 400_000 }, async (t) => {
  await using lab = await Lab.init("main");
  const before = await lab.ok("pg", "url", "main");
  await lab.execute(before, BIG, "create table kept as select 1 as v");
  const withBig = await lab.value(before, "select pg_current_wal_flush_lsn()::text");
  // Its pages are in images, too.
  await lab.ok("compact");
  const size = await totalBytes(lab);
  await lab.ok("stop");
  appendFileSync(join(lab.neonDirectory, "pageserver", "pageserver.toml"), SETTINGS);
  await lab.ok("start");
  await lab.ok("pg", "start", "main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(uri, "drop table big");
  const commits: Moment[] = [];

  await t.test("what is younger than the window stays", async () => {
    let moved = 0;
    for (let last = 0; moved < 3;) {
      commits.push(await commit(lab, uri));
      const { lsn, timeMs } = await collect(lab);
      if (lsn > last) moved++;
      last = lsn;
      // Those that began later than that are younger than the window, whenever it was decided.
      for (const young of commits.filter((each) => each.timeMs > timeMs - WINDOW_MS)) {
        assert.ok(lsn < young.lsn, `the cutoff ${lsn} is beyond ${young.lsn}, which is not 2 s old`);
      }
    }
  });

  await t.test("the dropped table is free, and a read below names the cutoff", async () => {
    await until(
      "the space of the dropped table",
      async () => {
        commits.push(await commit(lab, uri));
        await collect(lab);
        return (await totalBytes(lab)) < size - BIG_BYTES;
      },
      WAIT_MS,
    );
    const refused = await lab.json("branch", "late", `main@${String(withBig)}`);
    const { lsn } = await collect(lab);
    const [, named = ""] = /GC cutoff ([0-9A-F]+\/[0-9A-F]+)/.exec(JSON.stringify(refused["error"])) ?? [];
    const at = parseLsn(named) ?? 0;
    assert.ok(at > (parseLsn(String(withBig)) ?? 0) && at <= lsn, JSON.stringify(refused));
    // From there on everything is readable, and the end as ever.
    await lab.ok("branch", "early", "main");
    const values = await lab.column(await lab.ok("pg", "create", "early"), "select count(*)::int from kept");
    assert.deepEqual(values, [1 + commits.length]);
    assert.equal((await lab.run("fsck")).code, 0);
  });
});
