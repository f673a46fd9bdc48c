/** Ways that redo of one kind of index record can take: which of them a workload has brought about. */
import { Rmgr } from "../../src/postgres/constants.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";

/** Names of what makes the record special; written out from the record's layout, independently of redo. */
export function variantsOf(record: WalRecord): string[] {
  switch (record.rmgr) {
    case Rmgr.Hash:
      return hashVariants(record);
    case Rmgr.Gin:
      return ginVariants(record);
    case Rmgr.Gist:
      return gistVariants(record);
    case Rmgr.Spgist:
      return spgistVariants(record);
    case Rmgr.Brin:
      return record.info & 0x80 ? [`Brin ${hex(record.info & 0x70)} new page`] : [];
    default:
      return [];
  }
}

const hex = (operation: number): string => `0x${operation.toString(16).padStart(2, "0")}`;

/** Reads fields of the main data, and gives names to those that say something. */
function reader(record: WalRecord) {
  const { view, mainOffset } = record;
  const operation = record.info & 0xf0;
  return {
    operation,
    u8: (at: number) => view.getUint8(mainOffset + at),
    u16: (at: number) => view.getUint16(mainOffset + at, true),
    u32: (at: number) => view.getUint32(mainOffset + at, true),
    named: (name: string, kinds: Readonly<Record<string, boolean>>): string[] =>
      Object.keys(kinds)
        .filter((kind) => kinds[kind])
        .map((kind) => `${name} ${hex(operation)} ${kind}`),
  };
}

function hashVariants(record: WalRecord): string[] {
  const { operation, u8, u16, named } = reader(record);
  switch (operation) {
    case 0x30:
      return named("Hash", { "page found": u8(2) !== 0, "page added": u8(2) === 0 });
    case 0x40:
      return named("Hash", { masks: (u8(8) & 1) !== 0, "split point": (u8(8) & 2) !== 0 });
    case 0x80:
      return named("Hash", {
        "no tuples": u16(8) === 0,
        tuples: u16(8) > 0,
        "to first page": u8(10) !== 0,
        "to page before": u8(11) !== 0,
        "to another page": u8(10) === 0 && u8(11) === 0,
      });
    case 0x90:
      return named("Hash", { "no dead left": u8(0) !== 0, "first page": u8(1) !== 0 });
    default:
      return [];
  }
}

function ginVariants(record: WalRecord): string[] {
  const { operation, u16, u32, named } = reader(record);
  const data = record.blocks[0]?.dataOffset ?? 0;
  const hasData = (record.blocks[0]?.dataLength ?? 0) > 0;
  switch (operation) {
    case 0x20: {
      const flags = u16(0) & 3;
      const kinds = ["entry inner", "data inner", "entry leaf", "data leaf"];
      const names = named("Gin", {
        [kinds[flags] as string]: true,
        "entry replaced": hasData && flags === 2 && record.view.getUint8(data + 2) !== 0,
      });
      return flags === 3 && hasData ? [...names, ...segmentActions(record, data)] : names;
    }
    case 0x30:
      return named("Gin", { root: (u16(24) & 4) !== 0, data: (u16(24) & 1) !== 0 });
    case 0x60:
      return named("Gin", { tuples: u32(80) > 0, "new tail": u32(80) === 0 && u32(72) !== 0xffffffff });
    case 0x90:
      return hasData ? segmentActions(record, data) : [];
    default:
      return [];
  }
}

function segmentActions(record: WalRecord, start: number): string[] {
  const { view } = record;
  const names = ["", "delete", "insert", "replace", "add items"];
  const found: string[] = [];
  let at = start + 2;
  for (let left = view.getUint16(start, true); left > 0; left--) {
    const action = view.getUint8(at + 1);
    found.push(`Gin posting list: ${names[action]}`);
    at += 2;
    if (action === 2 || action === 3) at += 8 + ((view.getUint16(at + 6, true) + 1) & ~1);
    else if (action === 4) at += 2 + 6 * view.getUint16(at, true);
  }
  return found;
}

function gistVariants(record: WalRecord): string[] {
  const { operation, u8, u16, named } = reader(record);
  if (operation === 0x00) {
    const [deleted, inserted] = [u16(0), u16(2)];
    return named("Gist", {
      overwrite: deleted === 1 && inserted === 1,
      "delete only": deleted > 0 && inserted === 0,
      "delete and insert": deleted > 0 && inserted > 0 && deleted + inserted > 2,
      "many inserted": deleted === 0 && inserted > 1,
    });
  }
  if (operation !== 0x30) return [];
  return named("Gist", {
    leaf: u8(16) !== 0,
    inner: u8(16) === 0,
    "three pages": u16(18) >= 3,
    "follow right": u8(20) !== 0,
    root: record.blocks
      .slice(0, record.blockCount)
      .some((block) => block.id === 1 && block.blockNumber === 0),
  });
}

function spgistVariants(record: WalRecord): string[] {
  const { operation, u8, u16, named } = reader(record);
  const has = (id: number) => record.blocks.slice(0, record.blockCount).some((block) => block.id === id);
  const flags = (names: Readonly<Record<string, number>>) =>
    named("Spgist", Object.fromEntries(Object.entries(names).map(([name, at]) => [name, u8(at) !== 0])));
  switch (operation) {
    case 0x10:
      return [
        ...flags({ "new page": 0, nulls: 1 }),
        ...named("Spgist", {
          "in place of dead": u16(2) === u16(4),
          chain: u16(4) !== 0 && u16(2) !== u16(4),
        }),
      ];
    case 0x20:
      return flags({ "new page": 2, "in place of dead": 3, nulls: 4 });
    case 0x30:
      if (!has(1)) return named("Spgist", { "same page": true });
      return [...flags({ "new page": 4 }), ...named("Spgist", { [`moved, parent ${u8(5)}`]: true })];
    case 0x40:
      return [...flags({ "new page": 4, "same page": 5 }), ...named("Spgist", { "other page": has(1) })];
    case 0x50:
      return [
        ...flags({
          root: 0,
          "new source": 6,
          "new target": 7,
          "new inner": 10,
          nulls: 11,
          "inner is parent": 12,
        }),
        ...named("Spgist", { "source kept": has(0) && u8(6) === 0, "no target": !has(1), parent: has(3) }),
      ];
    case 0x60:
      return named("Spgist", {
        dead: u16(0) > 0,
        placeholders: u16(2) > 0,
        moves: u16(4) > 0,
        chains: u16(6) > 0,
      });
    case 0x80:
      return named("Spgist", { redirects: u16(0) > 0, "items at end": u16(2) > 0 });
    default:
      return [];
  }
}
