/** `neon tenant config` against a made-up pageserver: what is asked, shown and refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { sendJson } from "../client/fake-http.ts";
import { temporaryDirectory } from "../repository/support.ts";
import { fakeRepository, json, neon } from "./support.ts";

const EFFECTIVE = {
  checkpoint_distance: 64 << 20,
  gc_horizon: 1000,
  pitr_interval: "7days",
  compaction_threshold: 8,
  cache_size: 1,
};

void test("settings are shown with whose they are, changed and taken away", async (t) => {
  const cwd = temporaryDirectory(t);
  let own: Record<string, unknown> = { gc_horizon: 1000 };
  const { seen } = await fakeRepository(t, cwd, (request, response) => {
    if (request.method === "PATCH") {
      const { tenant_id: tenant, ...changes } = JSON.parse(request.body) as Record<string, unknown>;
      assert.equal(tenant, "0".repeat(32));
      own = Object.fromEntries(Object.entries({ ...own, ...changes }).filter(([, value]) => value !== null));
    }
    sendJson(response, 200, { tenant_specific_overrides: own, effective_config: { ...EFFECTIVE, ...own } });
  });
  const run = (...args: string[]): ReturnType<typeof neon> => neon(["tenant", "config", ...args], { cwd });
  const sent = (): unknown => JSON.parse(seen.at(-1)?.body ?? "");

  const { stdout } = await run();
  assert.match(stdout, /^NAME +ORIGIN +VALUE$/m);
  assert.match(stdout, /^checkpoint_distance +pageserver +64MB$/m);
  assert.match(stdout, /^gc_horizon +tenant +1000B$/m);
  assert.doesNotMatch(stdout, /cache_size/);
  assert.deepEqual(json(await run("gc_horizon", "--json")), {
    ok: true,
    tenant_id: "0".repeat(32),
    name: "gc_horizon",
    value: 1000,
    origin: "tenant",
  });
  const changes: [string, string, unknown, string][] = [
    ["checkpoint_distance", "8MB", 8 << 20, "checkpoint_distance = 8MB"],
    ["gc_horizon", "0", 0, "gc_horizon = 0B"],
    ["pitr_interval", "2d", `${2 * 86_400_000}ms`, `pitr_interval = ${2 * 86_400_000}ms`],
    ["pitr_interval", "1 day 2h", "1 day 2h", "pitr_interval = 1 day 2h"],
    ["compaction_threshold", "3", 3, "compaction_threshold = 3"],
  ];
  for (const [name, value, wanted, printed] of changes) {
    const outcome = await run(name, value);
    assert.equal(outcome.stdout.trim(), printed);
    assert.deepEqual(sent(), { tenant_id: "0".repeat(32), [name]: wanted });
  }
  const unset = await run("compaction_threshold", "--unset");
  assert.equal(unset.stdout.trim(), "compaction_threshold is the pageserver's: 8");
  assert.deepEqual(sent(), { tenant_id: "0".repeat(32), compaction_threshold: null });

  const before = seen.length;
  const refusals: [string[], number, RegExp][] = [
    [["--unset"], 2, /--unset goes with the name/],
    [["gc_horizon", "5", "--unset"], 2, /--unset goes with the name/],
    [["gc_perod"], 3, /no setting of a tenant[^]*There are checkpoint_distance/],
    [["gc_horizon", "much"], 2, /gc_horizon is a size/],
    [["pitr_interval", "2y"], 2, /pitr_interval is a length of time/],
    [["compaction_threshold", "-1"], 2, /flag|whole number/],
  ];
  for (const [args, code, message] of refusals) {
    const outcome = await run(...args);
    assert.equal(outcome.code, code, args.join(" "));
    assert.match(outcome.stderr, message);
  }
  assert.ok(seen.slice(before).every(({ method }) => method === "GET"));
});
