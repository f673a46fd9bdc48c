import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId, parseTimelineId, parseWriterEpoch } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { type ComputeRecord, decodeComputeFile, encodeComputeFile } from "../../src/compute/compute-file.ts";

const full: ComputeRecord = {
  name: "feature/x",
  branch: "feature/x",
  tenantId: parseTenantId("0".repeat(31) + "1"),
  timelineId: parseTimelineId("0".repeat(31) + "2"),
  mode: "read-write",
  pageserver: "https://bob@db.example.com:9898?sslmode=verify-full&sslrootcert=system",
  commit: "local",
  pgVersion: 17,
  port: 55432,
  lsn: toLsn(0x1_8000_0010),
  epoch: parseWriterEpoch("0".repeat(31) + "3"),
  process: { pid: 42, startTime: "1234", bootId: "boot" },
  bootId: "boot",
  stop: { lsn: toLsn(0xffff_ffff_f8), ingested: true },
};
const least: ComputeRecord = {
  ...full,
  mode: "read-only",
  pageserver: null,
  epoch: null,
  process: null,
  bootId: null,
  stop: null,
};

describe("compute.json", () => {
  it("comes back as it was written", () => {
    assert.deepEqual(decodeComputeFile(encodeComputeFile(full)), full);
    assert.deepEqual(decodeComputeFile(encodeComputeFile(least)), least);
  });

  it("refuses every change of a character that matters", () => {
    const text = encodeComputeFile(full);
    for (let at = 0; at < text.length; at++) {
      if (/\s/.test(text[at] ?? "")) continue;
      const changed = text.slice(0, at) + (text[at] === "7" ? "8" : "7") + text.slice(at + 1);
      assertCorrupt(changed);
    }
  });

  it("refuses every cut and other things", () => {
    const text = encodeComputeFile(full).trimEnd();
    for (let length = 0; length < text.length; length++) assertCorrupt(text.slice(0, length));
    for (const other of [
      "null",
      "[]",
      "{}",
      '{"format":"neon compute","version":2}',
      "1e999",
      "x".repeat(2 ** 21),
    ]) {
      assertCorrupt(other);
    }
  });
});

function assertCorrupt(text: string): void {
  try {
    decodeComputeFile(text);
  } catch (error) {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.code, ErrorCode.Corrupt);
    return;
  }
  assert.fail(`accepted ${text.slice(0, 400)}`);
}
