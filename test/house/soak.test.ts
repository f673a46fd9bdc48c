/** `npm run soak` works; a long one is run by hand. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ROOT } from "./project-files.ts";

function soak(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(ROOT, "scripts", "soak.ts"), ...args], { encoding: "utf8" });
}

test("a round of the soak", { timeout: 300_000 }, () => {
  const { status, stdout, stderr } = soak("--seed", "5", "--minutes", "0", "--pairs", "3");
  assert.equal(status, 0, stdout + stderr);
  assert.match(
    stdout,
    /^seed 5, 0 minutes\n(round 0, \d+ s: .*\n)*round 0, \d+ s: 1 pairs equal, \d{4,} pages, \d+ pages by record, \d{4,} by directory/,
  );
  assert.match(stdout, /\n1 pairs in 1 rounds were equal to stock recovery, \d{4,} pages, [\d.]+ minutes\n$/);
});

/** The directories of soaks that a process has made. */
function directoriesOf(pid: number): string[] {
  return readdirSync("/tmp").filter((name) => {
    const owner = join("/tmp", name, "owner");
    return (
      name.startsWith("neon-soak-") && existsSync(owner) && readFileSync(owner, "utf8").startsWith(`${pid} `)
    );
  });
}

function isPostgresRunning(soakPid: number): boolean {
  try {
    const paths = directoriesOf(soakPid).flatMap((name) =>
      readdirSync(join("/tmp", name), { recursive: true, encoding: "utf8" }),
    );
    return paths.some((path) => path.endsWith("postmaster.pid"));
  } catch {
    // Something went away while we looked.
    return false;
  }
}

test(
  "a soak that is ended leaves nothing behind, and says how far it was",
  { timeout: 300_000 },
  async () => {
    const child = spawn(process.execPath, [join(ROOT, "scripts", "soak.ts"), "--seed", "6"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    assert.ok(child.pid !== undefined);
    const closed = once(child, "close");
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
    try {
      while (!isPostgresRunning(child.pid)) {
        assert.equal(child.exitCode, null, said);
        await sleep(20);
      }
    } finally {
      child.kill("SIGTERM");
      await closed;
    }
    assert.equal(child.exitCode, 143);
    assert.match(
      said,
      /\nSIGTERM: 0 pairs in 0 rounds were equal to stock recovery, 0 pages, [\d.]+ minutes\n$/,
    );
    assert.deepEqual(directoriesOf(child.pid), []);
  },
);

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
