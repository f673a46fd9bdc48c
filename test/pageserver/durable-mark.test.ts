/** The note of how far WAL is on disk: it is read as it was written, or not at all. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../src/base/lsn.ts";
import { DurableMark } from "../../src/pageserver/timeline/durable-mark.ts";
import { RealFiles } from "../../src/storage/real-files.ts";

test("no bit of a note may change, nor its length", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "neon-mark-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, "wal.durable");
  const mark = new DurableMark(path, new RealFiles());
  assert.equal(await mark.read(), undefined);
  const lsn = parseLsn("A/BCDEF0");
  assert.ok(lsn !== undefined);
  await mark.write(lsn);
  assert.equal(await mark.read(), lsn);
  const whole = readFileSync(path);
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const damaged = Buffer.from(whole);
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    writeFileSync(path, damaged);
    assert.equal(await mark.read(), undefined, `bit ${bit}`);
  }
  for (let length = 0; length < whole.length; length++) {
    writeFileSync(path, whole.subarray(0, length));
    assert.equal(await mark.read(), undefined, `${length} bytes`);
  }
  writeFileSync(path, Buffer.concat([whole, whole]));
  assert.equal(await mark.read(), undefined);
});
