import assert from "node:assert/strict";
import { appendFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { AssertionError, ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { formatBranchTree } from "../../src/commands/shared/branch-tree.ts";
import { EXIT_CODES, UnknownCommandError, failureOf } from "../../src/commands/shared/failure.ts";
import { followLines, lastLines } from "../../src/commands/shared/follow-file.ts";
import { formatLogLine } from "../../src/commands/shared/log-line.ts";
import { formatBytes, formatTable } from "../../src/commands/shared/output.ts";
import { shownSettings, shownValue } from "../../src/commands/shared/settings-view.ts";
import { splitSql } from "../../src/commands/shared/sql-split.ts";
import { editDistance, nearest } from "../../src/commands/shared/suggest.ts";
import { temporaryDirectory } from "../repository/support.ts";

const none = (): string => "";

function child(
  name: string,
  timelineId: string,
  parent: string,
  lsn: number,
): Parameters<typeof formatBranchTree>[0][0] {
  return { name, timelineId, ancestor: { timelineId: parent, lsn: toLsn(lsn) } };
}

test("the tree of branches", () => {
  const tree = formatBranchTree(
    [
      child("late", "l", "m", 0x1700000),
      child("fix", "f", "d", 0x16a0000),
      child("dev", "d", "m", 0x1609610),
      { name: "main", timelineId: "m", ancestor: null },
      child("deep", "x", "f", 0x16b0000),
      child("lost", "o", "gone", 0x10),
      child("fix2", "f2", "d", 0x16a0000),
      { name: "a-root", timelineId: "r", ancestor: null },
    ],
    (name) => (name === "late" ? " !" : ""),
  );
  assert.equal(
    tree,
    [
      " main",
      " ┣━ @0/1609610: dev",
      " ┃  ┣━ @0/16A0000: fix",
      " ┃  ┃  ┗━ @0/16B0000: deep",
      " ┃  ┗━ @0/16A0000: fix2",
      " ┗━ @0/1700000: late !",
      " a-root",
      " @0/10: lost (of timeline gone)",
    ].join("\n"),
  );
});

test("a long chain of branches is drawn", () => {
  const chain = Array.from({ length: 3000 }, (_, i) => child(`b${i}`, String(i), String(i - 1), i + 1));
  assert.equal(formatBranchTree(chain, none).split("\n").length, 3000);
});

test("every code has its exit code", () => {
  const expected: Record<ErrorCode, number> = {
    failed: 1, unsupported: 1, usage: 2, not_found: 3, exists: 4, conflict: 5, unreachable: 6, corrupt: 7,
    not_checked: 8, resource: 9, postgres: 10, timeout: 11, declined: 12,
  }; // prettier-ignore
  assert.deepEqual(EXIT_CODES, expected);
  for (const [code, exitCode] of Object.entries(expected) as [ErrorCode, number][]) {
    const failure = failureOf(new NeonError(code, "m", { hint: "h" }), "x");
    assert.deepEqual(failure, { code, message: "m", hint: "h", exitCode });
  }
});

test("other failures", () => {
  assert.equal(failureOf(new UnknownCommandError("x", "h"), "").exitCode, 127);
  assert.equal(failureOf(new AssertionError("a"), "").exitCode, 1);
  assert.equal(failureOf(Object.assign(new Error("no space"), { code: "ENOSPC" }), "").exitCode, 9);
  assert.equal(failureOf("text", "").message, "text");
  assert.equal(failureOf(undefined, "").exitCode, 1);
});

test("suggestions", () => {
  assert.equal(nearest("brnach", ["branch", "init"]), "branch");
  assert.equal(nearest("statsu", ["start", "status"]), "status");
  assert.equal(nearest("frobnicate", ["branch", "init"]), undefined);
  assert.equal(nearest("x", []), undefined);
  assert.equal(editDistance("abcd", "acbd"), 1);
  assert.equal(editDistance("", "abc"), 3);
  assert.equal(editDistance("same", "same"), 0);
});

test("statements end at semicolons outside quotes, comments and parentheses", () => {
  const whole = [
    "select 1;",
    "select 'a;''b', \"c;\"\"d\";",
    "select E'a\\';b';",
    "select $$a;b$$, $t$ $$ ; $t$;",
    "select 1 -- ; no\n;",
    "/* ; /* nested ; */ ; */ select 2;",
    "create rule r as on insert to t do (select 1; select 2);",
    "select $1, a$b$c;",
  ];
  for (const sql of whole) assert.deepEqual(splitSql(`${sql}\n`), { statements: [sql], rest: "" }, sql);
  assert.deepEqual(splitSql("select 1; select 2; sel"), {
    statements: ["select 1;", "select 2;"],
    rest: "sel",
  });
  for (const open of ["select 'a;", 'select "a;', "select $$;", "/* ;", "select 1 -- ;", "select E'\\';"]) {
    assert.equal(splitSql(open).statements.length, 0, open);
  }
});

test("sizes and tables", () => {
  const sizes: [number, string][] = [
    [0, "0 B"],
    [1023, "1023 B"],
    [1536, "1.5 KiB"],
    [150 * 1024 * 1024, "150 MiB"],
    [2 ** 50, "1024 TiB"],
  ];
  for (const [size, text] of sizes) assert.equal(formatBytes(size), text);
  assert.equal(
    formatTable(
      ["A", "LONG"],
      [
        ["xxx", "y"],
        ["", "z"],
      ],
    ),
    "A    LONG\nxxx  y\n     z",
  );
});

test("settings are shown with their origin, secrets covered", () => {
  const settings = new Map<string, string | number>([
    ["pg_bin", "/file"],
    ["pageserver.auth_token", "hush"],
    ["origins.o", "postgresql://me:pw@h:1"],
    ["computes.a.port", 5],
  ]);
  const shown = shownSettings(settings, { NEON_PG_BIN: "/env" });
  const line = (key: string): string => {
    const setting = shown.find((entry) => entry.key === key);
    assert.ok(setting, key);
    return `${setting.origin} ${shownValue(setting, false)}`;
  };
  assert.equal(line("pg_bin"), "environment /env");
  assert.equal(line("pageserver.auth_token"), "file ***");
  assert.equal(line("origins.o"), "file postgresql://me:***@h:1");
  assert.equal(line("computes.a.port"), "file 5");
  assert.equal(line("run_as"), "unset ");
});

test("lines of the log", () => {
  const line = JSON.stringify({ level: 30, time: 0, pid: 1, hostname: "h", msg: "hello", lsn: "0/1" });
  assert.equal(formatLogLine(line), "1970-01-01 00:00:00.000 INFO  hello lsn=0/1");
  assert.equal(formatLogLine("plain"), "plain");
  assert.equal(formatLogLine("{broken"), "{broken");
});

test("the end of a file, and what is appended", async (t) => {
  const path = join(temporaryDirectory(t), "log");
  const lines = Array.from({ length: 30_000 }, (_, i) => `line ${i} é`);
  writeFileSync(path, `${lines.join("\n")}\n`);
  for (const count of [0, 1, 5, 29_999, 30_000, 40_000]) {
    assert.deepEqual(
      (await lastLines(path, count)).lines,
      count === 0 ? [] : lines.slice(-count),
      String(count),
    );
  }
  const abort = new AbortController();
  const { endBytes } = await lastLines(path, 0);
  appendFileSync(path, "one\ntw");
  const got: string[] = [];
  for await (const more of followLines(path, endBytes, abort.signal)) {
    got.push(...more);
    if (got.length === 1) appendFileSync(path, "o\n");
    else abort.abort();
  }
  assert.deepEqual(got, ["one", "two"]);
});
