/** `neon fsck`: what it shows and its exit codes. Needs `npm run build`. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { temporaryDirectory } from "../repository/support.ts";
import { TIMELINE, fakeRepository, json, neon } from "./support.ts";

const OTHER = "2".repeat(32);
const clean = { state: "clean", details: [], omitted: 0 };
const damaged = {
  state: "corrupt",
  details: [
    { kind: "corrupt", what: "block does not match its checksum", file: "/data/x.delta", offset: 4096 },
  ],
  omitted: 3,
};
const leftover = {
  state: "garbage",
  details: [{ kind: "garbage", what: "no index names it", file: "/data/y.delta", offset: null }],
  omitted: 0,
};
const unread = {
  state: "not_checked",
  details: [{ kind: "not_checked", what: "it cannot be read: EACCES", file: "/data/z", offset: null }],
  omitted: 0,
};

function report(state: string, main: object, dev: object): object {
  return {
    state,
    timelines: [
      { timeline_id: TIMELINE, branches: ["main", "stable"], ...main },
      { timeline_id: OTHER, branches: [], ...dev },
    ],
    tenant: clean,
  };
}

test("states, places and exit codes", async (t) => {
  const root = temporaryDirectory(t);
  let answer: object = {};
  await fakeRepository(t, root, (_, response) => {
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    response.end(`${JSON.stringify({ progress: {} })}\n${JSON.stringify({ result: answer })}\n`);
  });
  const run = (...args: string[]) => neon(["fsck", ...args], { cwd: root });

  answer = report("clean", clean, clean);
  const whole = await run();
  assert.deepEqual([whole.code, whole.stderr], [0, ""]);
  assert.match(whole.stdout, new RegExp(`^${TIMELINE} +main, stable +clean$`, "m"));
  assert.match(whole.stdout, /^refs, tenant\.json +- +clean$/m);

  answer = report("garbage", clean, leftover);
  const messy = await run();
  assert.equal(messy.code, 0);
  assert.match(messy.stdout, /garbage: \/data\/y\.delta: no index names it/);

  answer = report("corrupt", damaged, unread);
  const bad = await run();
  assert.equal(bad.code, 7);
  assert.match(
    bad.stdout,
    /^ {2}corrupt: \/data\/x\.delta, offset 4096: block does not match its checksum$/m,
  );
  assert.match(bad.stdout, /and 3 more/);
  assert.match(bad.stderr, /^error: damage was found in 1 of 3 places$/m);

  const asJson = await run("--json");
  assert.deepEqual([asJson.code, asJson.stderr], [7, ""]);
  const value = json(asJson);
  assert.equal(value["ok"], false);
  assert.deepEqual((value["error"] as { code: string }).code, "corrupt");
  assert.deepEqual((value["timelines"] as object[])[0], {
    timeline_id: TIMELINE,
    branches: ["main", "stable"],
    ...damaged,
  });

  answer = report("not_checked", clean, unread);
  const partly = await run("--json");
  assert.deepEqual([partly.code, (json(partly)["error"] as { code: string }).code], [8, "not_checked"]);
  assert.match((await run()).stdout, new RegExp(`^${OTHER} +- +not checked$`, "m"));

  answer = report("clean", clean, clean);
  const good = json(await run("--json"));
  assert.deepEqual([good["ok"], good["state"], "error" in good], [true, "clean", false]);
});

test("a repair is a plan until it is told to be done", async (t) => {
  const root = temporaryDirectory(t);
  let answer: object = {};
  const asked: unknown[] = [];
  await fakeRepository(t, root, (request, response) => {
    asked.push([request.method, request.url.split("/").at(-1), request.body]);
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    response.end(`${JSON.stringify({ result: answer })}\n`);
  });
  const run = (...args: string[]) => neon(["fsck", "--repair", ...args], { cwd: root });
  const step = (kind: string, error: string | null) => ({
    kind,
    what: "makes it again",
    file: "/data/index.json",
    error,
  });

  answer = { applied: false, steps: [step("corrupt", null)], left: [] };
  const plan = await run();
  assert.equal(plan.code, 7);
  assert.match(plan.stdout, /^would do: \/data\/index\.json: makes it again$/m);
  assert.match(plan.stderr, /Nothing was changed/);
  assert.match(plan.stderr, /1 damaged files wait to be repaired/);

  answer = { applied: false, steps: [step("garbage", null)], left: [] };
  assert.equal((await run()).code, 0);

  answer = { applied: true, steps: [step("corrupt", null)], left: [] };
  const done = await run("--yes");
  assert.deepEqual([done.code, done.stderr], [0, ""]);
  assert.match(done.stdout, /^done: /);

  answer = { applied: true, steps: [step("corrupt", "ENOSPC")], left: damaged.details };
  const partly = await run("--yes", "--json");
  const value = json(partly);
  assert.deepEqual([partly.code, value["ok"], value["applied"]], [7, false, true]);
  assert.deepEqual(value["left"], damaged.details);

  answer = { applied: false, steps: [], left: [] };
  const nothing = await run();
  assert.deepEqual([nothing.code, nothing.stdout], [0, "nothing to repair\n"]);
  assert.deepEqual(asked.at(0), ["POST", "repair", '{"apply":false}']);
  assert.deepEqual(asked.at(2), ["POST", "repair", '{"apply":true}']);
  assert.equal((await neon(["fsck", "--yes"], { cwd: root })).code, 2);
});
