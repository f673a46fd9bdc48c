import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { formatPoint, parsePoint, parsePointOn } from "../../src/repository/point.ts";

const NOW = Date.UTC(2026, 10, 21, 12, 0, 0);
const MAIN = { kind: "branch", name: "main" } as const;
const ID = "0123456789abcdef0123456789abcdef";

function timeOf(text: string): number | undefined {
  const { at } = parsePoint(text, NOW);
  return at.kind === "timestamp" ? at.unixMs : undefined;
}

test("a branch, a branch at an LSN, a timeline", () => {
  assert.deepEqual(parsePoint("main", NOW), { source: MAIN, at: { kind: "end" } });
  assert.deepEqual(parsePoint("feature/x@1/0a", NOW), {
    source: { kind: "branch", name: "feature/x" },
    at: { kind: "lsn", lsn: toLsn(2 ** 32 + 10) },
  });
  const timeline = { kind: "timeline", timelineId: ID };
  assert.deepEqual(parsePoint(ID.toUpperCase(), NOW), { source: timeline, at: { kind: "end" } });
  assert.deepEqual(parsePoint(`${ID}@0/10`, NOW), { source: timeline, at: { kind: "lsn", lsn: toLsn(16) } });
});

test("ages", () => {
  const ages: [string, number][] = [
    ["30s", 30_000],
    ["10m", 600_000],
    ["10m ago", 600_000],
    ["2h", 7_200_000],
    ["2 hours ago", 7_200_000],
    ["3d", 259_200_000],
    ["1w", 604_800_000],
    ["0s", 0],
  ];
  for (const [age, ms] of ages) assert.equal(timeOf(`main@${age}`), NOW - ms, age);
});

test("times with and without an offset", () => {
  assert.equal(timeOf("main@2026-11-21T10:00:00Z"), Date.UTC(2026, 10, 21, 10));
  assert.equal(timeOf("main@2026-11-21T10:00:00.250Z"), Date.UTC(2026, 10, 21, 10, 0, 0, 250));
  assert.equal(timeOf("main@2026-11-21 10:00:00.123456+02"), Date.UTC(2026, 10, 21, 8, 0, 0, 123) + 0.456);
  assert.equal(timeOf("main@2026-11-21T10:00-05:30"), Date.UTC(2026, 10, 21, 15, 30));
  assert.equal(timeOf("main@2026-11-21T10:00"), new Date(2026, 10, 21, 10).getTime());
  assert.equal(timeOf("main@2026-11-21"), new Date(2026, 10, 21).getTime());
  assert.equal(timeOf("main@2024-02-29"), new Date(2024, 1, 29).getTime());
});

test("what is no point is refused with all accepted forms", () => {
  const bad = [
    "", "@0/10", "main@", "main@@0/1", "main@foo", "main@10", "main@10y", "main@2026-02-30", "main@2026-13-01",
    "main@2026-11-21T25:00Z", "main@0/123456789", "main@FFFFFFFF/0", "a..b@0/1", "main@-5m", "main@2026", "a b",
  ]; // prettier-ignore
  for (const text of bad) {
    assert.throws(
      () => parsePoint(text, NOW),
      (error) =>
        error instanceof NeonError &&
        error.code === ErrorCode.Usage &&
        /BRANCH@LSN.*BRANCH@TIME.*BRANCH@AGE.*timeline id/.test(error.hint ?? ""),
      text,
    );
  }
});

test("where a branch is known, the part after the @ is enough", () => {
  assert.deepEqual(parsePointOn("0/10", MAIN, NOW), { source: MAIN, at: { kind: "lsn", lsn: toLsn(16) } });
  assert.deepEqual(parsePointOn("10m", MAIN, NOW).at, { kind: "timestamp", unixMs: NOW - 600_000 });
  assert.deepEqual(parsePointOn("dev@0/10", MAIN, NOW).source, { kind: "branch", name: "dev" });
  assert.deepEqual(parsePointOn("dev", MAIN, NOW), {
    source: { kind: "branch", name: "dev" },
    at: { kind: "end" },
  });
});

test("a formatted point parses to itself", () => {
  for (const text of [
    "main",
    "dev@1/2F",
    `${ID}@0/10`,
    "main@2026-11-21T10:00:00.250Z",
    "dev@2026-11-21T10:00:00.250001Z",
  ]) {
    const point = parsePoint(text, NOW);
    assert.equal(formatPoint(point), text);
  }
});
