/** What a workload on hash, GIN, GiST, SP-GiST and BRIN indexes has to bring about. */
import assert from "node:assert/strict";
import type { KindCount } from "./redo-replay.ts";

export interface IndexRun {
  readonly counts: ReadonlyMap<string, KindCount>;
  readonly variants: ReadonlyMap<string, number>;
}

/** Blocks of records that the workload must bring about, or this test proves less than it says. */
const BLOCKS_COMPARED: readonly string[] = [
  ...kinds("Hash", ["0x00: 0", "0x10: 0 1", "0x20: 0 1", "0x30: 0 1 2 4", "0x40: 0 1 2", "0x60: 0 1"]),
  ...kinds("Hash", ["0x70: 0 1 2", "0x80: 0 1 2 3 5 6", "0x90: 0 1", "0xa0: 0", "0xb0: 0", "0xc0: 0 1"]),
  ...kinds("Gin", ["0x10: 0", "0x20: 0 1", "0x30: 3", "0x50: 0 1 2", "0x60: 0 1", "0x70: 0", "0x80: 0 1 2"]),
  ...kinds("Gin", ["0x90: 0"]),
  ...kinds("Gist", ["0x00: 0 1", "0x10: 0", "0x30: 0 1 2 3", "0x60: 0 1"]),
  ...kinds("Spgist", ["0x10: 0 1", "0x20: 0 1 2", "0x30: 0 1 2", "0x40: 0", "0x50: 0 1 2 3"]),
  ...kinds("Spgist", ["0x60: 0", "0x70: 0", "0x80: 0"]),
  ...kinds("Brin", ["0x00: 0", "0x10: 0 1", "0x20: 0 1 2", "0x30: 0", "0x40: 0 1", "0x50: 0 1"]),
  ...kinds("Brin", ["0x90: 0 1", "0xa0: 0 1 2"]),
];

/** Records that always carry images. */
const BLOCKS_RESTORED = [...kinds("Hash", ["0x50: 0"]), ...kinds("Gin", ["0x30: 0 1 2", "0x40: 0"])];

const VARIANTS: readonly string[] = [
  ...["0x20 entry leaf", "0x20 entry replaced", "0x20 entry inner", "0x20 data leaf", "0x20 data inner"].map(
    (name) => `Gin ${name}`,
  ),
  ...["delete", "insert", "replace", "add items"].map((name) => `Gin posting list: ${name}`),
  ...["0x30 data", "0x30 root", "0x60 new tail", "0x60 tuples"].map((name) => `Gin ${name}`),
  ...["0x00 overwrite", "0x00 delete only", "0x00 delete and insert"].map((name) => `Gist ${name}`),
  ...["leaf", "inner", "root", "follow right", "three pages"].map((name) => `Gist 0x30 ${name}`),
  ...["page found", "page added"].map((name) => `Hash 0x30 ${name}`),
  ...["masks", "split point"].map((name) => `Hash 0x40 ${name}`),
  ...["tuples", "no tuples", "to first page", "to page before", "to another page"].map(
    (name) => `Hash 0x80 ${name}`,
  ),
  ...["chain", "in place of dead", "new page", "nulls"].map((name) => `Spgist 0x10 ${name}`),
  ...["0x20 new page", "0x30 same page", "0x30 moved, parent 2", "0x40 same page"].map(
    (name) => `Spgist ${name}`,
  ),
  ...["root", "new inner", "new target", "source kept", "inner is parent", "parent", "nulls"].map(
    (name) => `Spgist 0x50 ${name}`,
  ),
  ...["dead", "placeholders", "moves", "chains"].map((name) => `Spgist 0x60 ${name}`),
  ...["redirects", "items at end"].map((name) => `Spgist 0x80 ${name}`),
];

/** `0x10: 0 1` are blocks 0 and 1 of the operation, as the replay names them. */
function kinds(rmgr: string, lists: readonly string[]): string[] {
  return lists.flatMap((list) => {
    const [operation, blocks = ""] = list.split(": ");
    return blocks.split(" ").map((block) => `${rmgr} ${operation} block ${block}`);
  });
}

/** Asserts that all of it has occurred and was compared. */
export function assertIndexKinds(run: IndexRun): void {
  const compared = BLOCKS_COMPARED.filter((kind) => (run.counts.get(kind)?.compared ?? 0) === 0);
  const restored = BLOCKS_RESTORED.filter((kind) => (run.counts.get(kind)?.restored ?? 0) === 0);
  const variants = VARIANTS.filter((name) => !run.variants.has(name));
  assert.deepEqual({ compared, restored, variants }, { compared: [], restored: [], variants: [] });
}
