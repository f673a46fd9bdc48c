/** gc, compact and du against a made-up pageserver: what is asked, and the shapes that scripts rely on. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAge, parseSize } from "../../src/commands/shared/amounts.ts";
import { sendJson } from "../client/fake-http.ts";
import { temporaryDirectory } from "../repository/support.ts";
import { TIMELINE, fakeRepository, json, neon } from "./support.ts";

const GC = {
  dry_run: true,
  removed_bytes: 2048,
  written_bytes: 0,
  timelines: [
    {
      timeline_id: TIMELINE,
      branches: ["main"],
      gc_cutoff_lsn: "0/2000",
      removed_bytes: 2048,
      removed_layers: 1,
      written_bytes: 0,
      retained: [
        { reason: "window", bytes: 4096, layers: 2 },
        { reason: "points", bytes: 1024, layers: 1 },
      ],
      points: [{ lsn: "0/1000", used_by: ['branch "dev"'] }],
    },
  ],
};

test("gc, compact and du", async (t) => {
  const cwd = temporaryDirectory(t);
  const { seen } = await fakeRepository(t, cwd, (request, response) => {
    if (request.url.endsWith("/gc")) {
      response.end(`{"progress":{"timelines":1}}\n${JSON.stringify({ result: GC })}\n`);
    } else if (request.url.endsWith("/compact")) {
      const layers = { merges: 1, input_layers: 3, input_bytes: 3072, delta_layers: 1, delta_bytes: 1024 };
      const timeline = {
        timeline_id: TIMELINE,
        branches: ["main"],
        image_layers: 1,
        image_bytes: 512,
        ...layers,
      };
      response.end(`${JSON.stringify({ result: { timelines: [timeline] } })}\n`);
    } else {
      sendJson(response, 200, {
        timelines: [
          {
            timeline_id: TIMELINE,
            branches: ["main", "other"],
            total_bytes: 30,
            unique_bytes: 10,
            own_shared_bytes: 20,
            shared_bytes: 25,
            history_bytes: 5,
            wal_bytes: 1,
          },
        ],
        other_bytes: 7,
        total_bytes: 37,
      });
    }
  });
  const run = (...args: string[]): ReturnType<typeof neon> => neon(args, { cwd });

  const collected = json(await run("gc", "--dry-run", "--keep", "2d", "--horizon", "64MB", "--json"));
  assert.deepEqual(JSON.parse(seen.at(-1)?.body ?? ""), {
    dry_run: true,
    pitr_interval_ms: 2 * 86_400_000,
    gc_horizon_bytes: 64 * 1024 * 1024,
  });
  assert.equal(collected["removed_bytes"], 2048);
  assert.deepEqual(collected["retained"], [
    { timeline_id: TIMELINE, branches: ["main"], reason: "window", bytes: 4096, layers: 2 },
    { timeline_id: TIMELINE, branches: ["main"], reason: "points", bytes: 1024, layers: 1 },
  ]);
  const shown = await run("gc");
  assert.deepEqual(JSON.parse(seen.at(-1)?.body ?? ""), { dry_run: false });
  assert.match(shown.stdout, /^main +2\.0 KiB +5\.0 KiB +0\/2000$/m);
  assert.match(shown.stderr, /0\/1000: branch "dev"/);
  assert.match(shown.stderr, /Removed 2\.0 KiB/);
  assert.equal((await run("gc", "--keep", "soon")).code, 2);

  assert.match((await run("compact")).stdout, /^main +3 \(3\.0 KiB\) +2 \(1\.5 KiB\)$/m);
  assert.match((await run("du")).stdout, /^main, other +10 B +25 B +5 B +1 B +30 B$/m);
  const usage = json(await run("du", "--json"));
  assert.equal(usage["total_bytes"], 37);
  const fields = { unique_bytes: 10, shared_bytes: 25, history_bytes: 5, wal_bytes: 1, total_bytes: 30 };
  assert.deepEqual(usage["branches"], [
    { name: "main", timeline_id: TIMELINE, ...fields },
    { name: "other", timeline_id: TIMELINE, ...fields },
  ]);
});

test("lengths of time and sizes", () => {
  assert.equal(parseAge("0", "--keep"), 0);
  assert.equal(parseAge("90m", "--keep"), 5_400_000);
  assert.equal(parseSize("3GB", "--horizon"), 3 * 1024 ** 3);
  assert.equal(parseSize("512kB", "--horizon"), 512 * 1024);
  for (const bad of ["", "5", "-1d", "1.5h", "1y", "999999999999w"]) {
    assert.throws(() => parseAge(bad, "--keep"), { code: "usage" }, bad);
  }
  for (const bad of ["1mb", "64", "MB"])
    assert.throws(() => parseSize(bad, "--horizon"), { code: "usage" }, bad);
});
