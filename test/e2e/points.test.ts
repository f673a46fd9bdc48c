/** Points in time in every form in which they can be written: a branch there has exactly what was there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Client } from "pg";
import { INVALID_LSN, formatLsn, lsnAdd, parseLsn } from "../../src/base/lsn.ts";
import type { Json } from "./cli.ts";
import { Lab, until } from "./support.ts";

/** A moment right after a commit. */
interface Moment {
  readonly lsn: string;
  readonly at: Date;
}

async function write(client: Client, v: number): Promise<Moment> {
  await client.query("insert into t values ($1)", [v]);
  const { rows } = await client.query<Moment>(
    "select pg_current_wal_insert_lsn()::text as lsn, clock_timestamp() as at",
  );
  // The next commit has another millisecond for certain.
  await client.query("select pg_sleep(0.01)");
  const [moment] = rows;
  assert(moment);
  return moment;
}

/** Makes a branch at a point and looks at it through a compute, which is removed again. */
async function rowsAt(lab: Lab, name: string, point: string): Promise<unknown[]> {
  await lab.ok("branch", name, point);
  const uri = await lab.ok("pg", "create", name);
  const rows = await lab.column(uri, "select v from t order by v");
  await lab.ok("pg", "destroy", name, "--force");
  return rows;
}

/** Where a branch that is made at a point leaves which branch: `main@0/1609610`. */
async function placeOf(lab: Lab, name: string, point: string): Promise<string> {
  const ancestor = (await lab.json("branch", name, point))["ancestor"] as Json;
  return `${String(ancestor["name"])}@${String(ancestor["lsn"])}`;
}

async function endOf(lab: Lab, branch: string): Promise<string> {
  return String((await lab.branches()).get(branch)?.["last_record_lsn"]);
}

function upTo(last: number, first = 1): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

test(
  "LSN, ISO time, timeline id; of a branch of a branch; below a branch point",
  { timeout: 300_000 },
  async () => {
    await using lab = await Lab.init("main");
    const main = await lab.ok("pg", "url", "main");
    const client = await lab.connect(main);
    await client.query("create table t (v int)");
    const moments: Moment[] = [];
    for (let v = 1; v <= 4; v++) moments.push(await write(client, v));
    const [first, second, third] = moments;
    assert(first && second && third);

    // LSNs: exact, in either case, and rounded down to the end of a record when they lie within one.
    assert.deepEqual(await rowsAt(lab, "one", `main@${first.lsn}`), upTo(1));
    assert.deepEqual(await rowsAt(lab, "two", `main@${second.lsn}`), upTo(2));
    const atFirst = `main@${first.lsn}`;
    const atSecond = `main@${second.lsn}`;
    const within = formatLsn(lsnAdd(parseLsn(second.lsn) ?? INVALID_LSN, 9));
    assert.equal(await placeOf(lab, "within", `main@${within}`), atSecond);
    assert.equal(await placeOf(lab, "lower-case", `main@${second.lsn.toLowerCase()}`), atSecond);

    // Times: in UTC, with an offset, without one (local). A commit ends before its moment was taken.
    assert.deepEqual(await rowsAt(lab, "three", `main@${third.at.toISOString()}`), upTo(3));
    const atThird = await placeOf(lab, "iso", `main@${third.at.toISOString()}`);
    const shifted = new Date(third.at.getTime() + 2 * 3_600_000).toISOString().replace("Z", "+02:00");
    assert.equal(await placeOf(lab, "offset", `main@${shifted}`), atThird);
    const local = new Date(third.at.getTime() - third.at.getTimezoneOffset() * 60_000).toISOString();
    assert.equal(await placeOf(lab, "local", `main@${local.replace("Z", "")}`), atThird);

    // Timeline ids stand for branches, whatever these are called by now.
    const timeline = String((await lab.branches()).get("main")?.["timeline_id"]);
    const devAt = (await placeOf(lab, "dev", timeline)).split("@");
    assert.equal(devAt[0], "main");
    // Now and then a server writes a record of its own accord.
    assert((parseLsn(devAt[1] ?? "") ?? 0) >= (parseLsn(moments[3]?.lsn ?? "") ?? Infinity));
    assert.equal(await placeOf(lab, "by-id-lsn", `${timeline}@${first.lsn}`), atFirst);
    const byTime = await placeOf(lab, "by-id-time", `${timeline.toUpperCase()}@${third.at.toISOString()}`);
    assert.equal(byTime, atThird);

    // Main goes on; its branch and the branch of that have histories of their own.
    const dev = await lab.ok("pg", "create", "dev");
    const devClient = await lab.connect(dev);
    const fifth = await write(devClient, 5);
    const ofMain = await write(client, 100);
    await write(devClient, 6);
    await lab.ok("branch", "leaf", `dev@${fifth.lsn}`);
    const leaf = await lab.ok("pg", "create", "leaf");
    const leafClient = await lab.connect(leaf);
    const seventh = await write(leafClient, 7);
    await write(leafClient, 8);
    assert.deepEqual(await lab.column(leaf, "select v from t order by v"), [1, 2, 3, 4, 5, 7, 8]);
    assert.deepEqual(await lab.column(dev, "select v from t order by v"), upTo(6));
    assert.deepEqual(await lab.column(main, "select v from t order by v"), [...upTo(4), 100]);
    assert.deepEqual(await rowsAt(lab, "leaf-time", `leaf@${seventh.at.toISOString()}`), [...upTo(5), 7]);
    assert.equal(await placeOf(lab, "leaf-lsn", `leaf@${seventh.lsn}`), `leaf@${seventh.lsn}`);

    // Below its own branch point a branch is what its ancestors were: its parent, or that one's parent.
    assert.deepEqual(await rowsAt(lab, "below", `leaf@${second.lsn}`), upTo(2));
    assert.equal(await placeOf(lab, "below-lsn", `leaf@${second.lsn}`), atSecond);
    assert.equal(await placeOf(lab, "below-time", `leaf@${third.at.toISOString()}`), atThird);
    assert.deepEqual(await rowsAt(lab, "not-mains", `leaf@${ofMain.at.toISOString()}`), upTo(5));
    const look = await lab.ok("pg", "create", "look", "--branch", "leaf", "--lsn", first.lsn);
    assert.deepEqual(await lab.column(look, "select v from t"), [1]);

    // All that survives a restart, of the pageserver by force and of everything in order.
    for (const each of [client, devClient, leafClient]) await each.end();
    await lab.ok("stop");
    await lab.ok("start", "--all");
    assert.deepEqual(await rowsAt(lab, "later", `leaf@${seventh.lsn}`), [...upTo(5), 7]);
    assert.deepEqual(await lab.column(look, "select v from t"), [1]);
    const tree = await lab.ok("branch");
    assert.match(tree, /^ main\n/);
    assert.match(tree, /━ @0\/\w+: dev\n.*━ @0\/\w+: leaf\n/s);

    // Leaves can be deleted, and then what they hung on.
    for (const name of ["leaf-lsn", "leaf-time"]) await lab.ok("branch", "-d", name);
    await lab.ok("branch", "-m", "leaf", "renamed/leaf");
    assert.match(await lab.ok("pg", "list"), /^leaf +renamed\/leaf +running/m);
    const end = await endOf(lab, "renamed/leaf");
    assert.equal(await placeOf(lab, "of-renamed", "renamed/leaf"), `renamed/leaf@${end}`);
  },
);

test("relative time", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const client = await lab.connect(await lab.ok("pg", "url", "main"));
  await client.query("create table t (v int)");
  const before = await write(client, 1);
  // As long ago as it takes for the age to fall between the two commits: at least two whole seconds lie there.
  await until("two seconds to pass", () => Date.now() - before.at.getTime() > 2500);
  const after = await write(client, 2);
  await client.end();
  for (const [index, unit] of ["s", " seconds ago", "sec"].entries()) {
    const age = Math.ceil((Date.now() - after.at.getTime()) / 1000) + 1;
    assert.equal(await placeOf(lab, `age-${index}`, `main@${age}${unit}`), `main@${before.lsn}`, unit);
  }
  assert.equal(await placeOf(lab, "now", "main@0s"), `main@${after.lsn}`);
  // An hour ago there was no repository; the message says from when on there is one.
  const early = await lab.run("branch", "early", "main@1h");
  assert.equal(early.code, 3);
  assert.match(early.stderr, /before the history.* begins at \d{4}-\d\d-\d\dT[^]*hint: Choose a time from /);
});

test("a branch has every commit that has returned, also the last one", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const main = await lab.ok("pg", "url", "main");
  const client = await lab.connect(main);
  await client.query("create table t (v int)");
  let returned = 0;
  const enough = new AbortController();
  const writer = (async () => {
    while (!enough.signal.aborted) {
      await client.query("insert into t values ($1)", [returned + 1]);
      returned++;
    }
  })();
  const bounds: { atLeast: number; atMost: number }[] = [];
  for (let round = 0; round < 6; round++) {
    const atLeast = returned;
    await lab.ok("branch", `b${round}`);
    bounds.push({ atLeast, atMost: returned + 1 });
  }
  enough.abort();
  await writer;
  await client.end();
  assert(returned > 50, "there was load");
  for (const [round, { atLeast, atMost }] of bounds.entries()) {
    if (round % 2 === 0) continue;
    const rows = await lab.column(await lab.ok("pg", "create", `b${round}`), "select v from t order by v");
    assert.deepEqual(rows, upTo(rows.length), "no gaps");
    assert(rows.length >= atLeast && rows.length <= atMost, `${atLeast} <= ${rows.length} <= ${atMost}`);
  }
});
