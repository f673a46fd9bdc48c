/** The table of record kinds, and the page of documentation that says what becomes of each. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Rmgr, rmgrName } from "../../src/postgres/constants.ts";
import { recordKindName } from "../../src/postgres/versions/record-kinds.ts";
import { SUPPORTED_VERSIONS } from "../../src/postgres/versions/versions.ts";

/** `17 Heap 0x40 HOT_UPDATE` for every kind of every version, as the code has it. */
function kindsOfCode(): string[] {
  return SUPPORTED_VERSIONS.flatMap(({ major, records }) =>
    [...records].flatMap(([rmgr, { operations }]) =>
      [...operations].map(([operation, name]) => `${major} ${rmgrName(rmgr)} ${hex(operation)} ${name}`),
    ),
  );
}

/** The same, as the page has it. */
function kindsOfPage(): string[] {
  const text = readFileSync(new URL("../../docs/formats/wal-records.md", import.meta.url), "utf8");
  const kinds: string[] = [];
  let rmgr: string | undefined;
  for (const line of text.split("\n")) {
    const heading = /^## (\w+) \((\d+)\)$/.exec(line);
    if (heading) {
      rmgr = heading[1] ?? "";
      assert.equal(rmgr, rmgrName(Number(heading[2])));
    }
    const row = /^\| (0x[0-9a-f]0) \| (\w+) \| (\d+)(?:-(\d+))? \| (.+) \| (.+) \|$/.exec(line);
    if (row === null) {
      assert.doesNotMatch(line, /^\| *0x/, "a row that is not in the form of the others");
      continue;
    }
    const [, operation, name, first, last = first] = row;
    for (let major = Number(first); major <= Number(last); major++)
      kinds.push(`${major} ${rmgr} ${operation} ${name}`);
  }
  return kinds;
}

function hex(operation: number): string {
  return `0x${operation.toString(16).padStart(2, "0")}`;
}

test("docs/formats/wal-records.md has every kind of record of every version, and no other", () => {
  assert.deepEqual(kindsOfPage().sort(), kindsOfCode().sort());
});

test("every resource manager of core Postgres has kinds, in every version", () => {
  for (const { records } of SUPPORTED_VERSIONS)
    assert.deepEqual(
      [...records.keys()].sort((a, b) => a - b),
      Object.values(Rmgr),
    );
});

test("operations lie within the mask, and flags do not change the name", () => {
  for (const { records } of SUPPORTED_VERSIONS) {
    for (const [rmgr, { mask, operations }] of records) {
      for (const [operation, name] of operations) {
        assert.equal(operation & ~mask, 0, `${rmgrName(rmgr)} ${name}`);
        assert.equal(recordKindName(records, rmgr, operation | 0x03), name);
        if (mask === 0x70) assert.equal(recordKindName(records, rmgr, operation | 0x80), name);
      }
    }
    assert.equal(recordKindName(records, 128, 0), undefined);
    assert.equal(recordKindName(records, Rmgr.Xlog, 0xc0), undefined);
  }
});
