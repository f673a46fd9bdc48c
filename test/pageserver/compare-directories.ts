/**
 * A stopped compute's directory against a base backup at its end: relations page by page under the masks of
 * wal_consistency_checking, SLRUs and relation maps byte by byte.
 */
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { Fork, PAGE_SIZE, RELATION_SEGMENT_PAGES, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer, isNewPage, pageSpecial } from "../../src/postgres/page/layout.ts";
import { maskPage } from "../../src/postgres/redo/mask.ts";
import { type RelationFile, parseRelationPath } from "../../src/postgres/relation.ts";
import { parseSlruPath } from "../../src/postgres/slru.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";

export interface Comparison {
  pages: number;
  readonly differences: string[];
}

const SEQUENCE_MAGIC = 0x1717;

export function compareDirectories(theirs: string, ours: string, version: PgVersion): Comparison {
  const result: Comparison = { pages: 0, differences: [] };
  const paths = (root: string): string[] =>
    readdirSync(root, { recursive: true, encoding: "utf8" }).filter((path) =>
      statSync(join(root, path)).isFile(),
    );
  const unlogged = new Set(
    paths(theirs)
      .map((path) => parseRelationPath(path, version))
      .filter((file) => file?.fork === Fork.Init)
      .map((file) => nameOf(file)),
  );
  for (const path of new Set([...paths(theirs), ...paths(ours)])) {
    const relation = parseRelationPath(path, version);
    if (relation !== undefined) {
      if (relation.fork === Fork.FreeSpaceMap) continue;
      if (unlogged.has(nameOf(relation)) && relation.fork !== Fork.Init) continue;
      compareRelation(result, { theirs, ours, path }, relation);
    } else if (parseSlruPath(path) !== undefined || path.endsWith("pg_filenode.map")) {
      compareBytes(result, { theirs, ours, path });
    } else if (path.startsWith("pg_twophase/")) {
      compareBytes(result, { theirs, ours, path });
    }
  }
  return result;
}

function nameOf(file: RelationFile | undefined): string {
  return file === undefined ? "" : `${file.spcOid}/${file.dbOid}/${file.relNumber}`;
}

interface Pair {
  readonly theirs: string;
  readonly ours: string;
  readonly path: string;
}

function compareBytes(result: Comparison, { theirs, ours, path }: Pair): void {
  const [a, b] = [join(theirs, path), join(ours, path)].map((file) =>
    existsSync(file) ? readFileSync(file) : undefined,
  );
  if (a === undefined || b === undefined) {
    result.differences.push(
      `${path} exists only in ${a === undefined ? "the backup" : "the compute's directory"}`,
    );
    return;
  }
  result.pages += Math.ceil(a.length / PAGE_SIZE);
  const at = a.findIndex((byte, i) => byte !== b[i]);
  if (at >= 0 || a.length !== b.length) {
    result.differences.push(`${path}: ${a.length} and ${b.length} bytes, first difference at ${at}`);
  }
}

function compareRelation(result: Comparison, { theirs, ours, path }: Pair, relation: RelationFile): void {
  const a = existsSync(join(theirs, path)) ? readFileSync(join(theirs, path)) : new Uint8Array(0);
  const b = existsSync(join(ours, path)) ? readFileSync(join(ours, path)) : new Uint8Array(0);
  const count = Math.max(a.length, b.length) / PAGE_SIZE;
  for (let i = 0; i < count; i++) {
    const left = pageAt(a, i);
    const right = pageAt(b, i);
    result.pages++;
    const block = relation.segment * RELATION_SEGMENT_PAGES + i;
    const difference = comparePages(left, right, relation.fork, block);
    if (difference !== undefined && result.differences.length < 50) {
      result.differences.push(`${path} block ${block}: ${difference}`);
    }
  }
}

/** A page of a file; past its end zeros, which is what an extension that was not logged looks like. */
function pageAt(bytes: Uint8Array, index: number): PageBuffer {
  const page = new PageBuffer();
  page.bytes.set(bytes.subarray(index * PAGE_SIZE, (index + 1) * PAGE_SIZE));
  return page;
}

function comparePages(left: PageBuffer, right: PageBuffer, fork: number, block: number): string | undefined {
  if (isNewPage(left) && isNewPage(right)) return undefined;
  const from = fork === Fork.VisibilityMap ? 24 : 0;
  if (fork !== Fork.VisibilityMap) {
    const rmgr = rmgrOf(left, right);
    if (rmgr === Rmgr.Seq) forgetLoggedAhead(left, right);
    if (rmgr === Rmgr.Spgist && block === 0) forgetPagesWithRoom(left, right);
    maskPage(rmgr, left, block);
    maskPage(rmgr, right, block);
  }
  for (let i = from; i < PAGE_SIZE; i++) {
    if (left.bytes[i] !== right.bytes[i]) return `byte ${i}: ${left.bytes[i]} there, ${right.bytes[i]} here`;
  }
  return undefined;
}

/** What the last two bytes of the special area say about the kind of page, for those kinds that say it there. */
const PAGE_IDS: Readonly<Record<number, number>> = {
  0xff80: Rmgr.Hash,
  0xff81: Rmgr.Gist,
  0xff82: Rmgr.Spgist,
  // Indexes of the extension bloom.
  0xff83: Rmgr.Generic,
  0xf091: Rmgr.Brin,
  0xf092: Rmgr.Brin,
  0xf093: Rmgr.Brin,
};

/** The kind of page by its special area: heaps have none, the others are told apart by its size and what is in there. */
function rmgrOf(left: PageBuffer, right: PageBuffer): number {
  const page = isNewPage(left) ? right : left;
  const size = PAGE_SIZE - pageSpecial(page);
  if (size === 0) return Rmgr.Heap;
  if (size === 8 && page.view.getUint32(PAGE_SIZE - 8, true) === SEQUENCE_MAGIC) return Rmgr.Seq;
  const id = PAGE_IDS[page.view.getUint16(PAGE_SIZE - 2, true)];
  if (id !== undefined) return id;
  if (size === 16) return Rmgr.Btree;
  return size === 8 ? Rmgr.Gin : Rmgr.Heap;
}

/** The first page of an SP-GiST index remembers pages with room behind its magic number; that is not logged. */
function forgetPagesWithRoom(left: PageBuffer, right: PageBuffer): void {
  for (const page of [left, right]) page.bytes.fill(0, 28, 92);
}

/** WAL has a sequence some values ahead of the server's own page: last value and count of those logged. */
function forgetLoggedAhead(left: PageBuffer, right: PageBuffer): void {
  for (const page of [left, right]) {
    const offset = page.view.getUint32(24, true) & 0x7fff;
    if (offset > 0) page.bytes.fill(0, offset + 24, offset + 41);
  }
}
