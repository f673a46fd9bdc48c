import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { checkRefName, refNameProblem } from "../../src/repository/ref-name.ts";
import { SeededRandom } from "../support/random.ts";

test("ordinary names are allowed", () => {
  for (const name of ["main", "dev", "feature/login", "v1.2", "a-b_c", "ÄÖ", "x/y/z", "1", "a.b/c.d"]) {
    assert.equal(refNameProblem(name), undefined, name);
  }
});

test("names that git refuses, and two kinds more, are refused with the reason", () => {
  const bad = [
    "", "-d", "a b", "a\tb", "a\u0000", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "a..b", "a.", "/a", "a/", "a//b",
    ".a", "a/.b", "a.lock", "a.lock/b", "x".repeat(201), "main@now", "@", "0123456789abcdef0123456789ABCDEF",
  ]; // prettier-ignore
  for (const name of bad) assert.notEqual(refNameProblem(name), undefined, JSON.stringify(name));
  assert.throws(
    () => checkRefName("a b", "compute"),
    (error) =>
      error instanceof NeonError && error.code === ErrorCode.Usage && /compute.*space/.test(error.message),
  );
});

test("whatever is allowed here is allowed by git", (t) => {
  if (spawnSync("git", ["--version"]).status !== 0) return t.skip("git is not installed");
  const random = SeededRandom.forTest(t);
  const alphabet = ["a", "B", "1", ".", "-", "_", "/", "lock", "~", " ", "@", "{", "é"];
  let allowed = 0;
  for (let i = 0; i < 150; i++) {
    const name = Array.from({ length: random.between(1, 6) }, () => random.pick(alphabet)).join("");
    if (refNameProblem(name) !== undefined) continue;
    allowed++;
    assert.equal(spawnSync("git", ["check-ref-format", "--branch", name]).status, 0, name);
  }
  assert.ok(allowed > 10, "the test has tried something");
});
