/** `npm run soak` works; a long one is run by hand. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "./project-files.ts";

function soak(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(ROOT, "scripts", "soak.ts"), ...args], { encoding: "utf8" });
}

test("a round of the soak", { timeout: 120_000 }, () => {
  const { status, stdout, stderr } = soak("--seed", "5", "--minutes", "0", "--pairs", "1");
  assert.equal(status, 0, stdout + stderr);
  assert.match(
    stdout,
    /^seed 5, 0 minutes\nround 0, \d+ s: 1 pairs equal, \d+ pages by record, \d{4,} by directory/,
  );
  assert.match(stdout, /\n1 pairs in 1 rounds were equal to stock recovery\n$/);
});

test("a soak that is asked for wrongly", () => {
  for (const [args, what] of [
    [["--minutes", "long"], /--minutes wants a number, not "long"/],
    [["--pg-version", "9"], /no embedded Postgres 9/],
    [["--speed", "9"], /'--speed'/],
  ] as const) {
    const { status, stdout, stderr } = soak(...args);
    assert.deepEqual([status, stdout], [2, ""]);
    assert.match(stderr, what);
  }
});
