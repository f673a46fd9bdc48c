/** Constants of Postgres' world that do not differ between the supported major versions. */

/** Size of a page, of a WAL page and of an SLRU page, in bytes. Other builds are refused. */
export const PAGE_SIZE = 8192;
/** Pages in one segment file of a relation (1 GiB). */
export const RELATION_SEGMENT_PAGES = 131072;
/** Pages in one segment file of an SLRU (256 KiB). */
export const SLRU_SEGMENT_PAGES = 32;

/** Fork numbers, as in WAL block references. */
export const Fork = { Main: 0, FreeSpaceMap: 1, VisibilityMap: 2, Init: 3 } as const;

/** Tablespaces that every cluster has. */
export const DEFAULT_TABLESPACE_OID = 1663;
export const GLOBAL_TABLESPACE_OID = 1664;

/** Resource managers, as numbered in WAL records; the same in 14 to 18. */
export const Rmgr = {
  Xlog: 0,
  Xact: 1,
  Smgr: 2,
  Clog: 3,
  Dbase: 4,
  Tblspc: 5,
  Multixact: 6,
  Relmap: 7,
  Standby: 8,
  Heap2: 9,
  Heap: 10,
  Btree: 11,
  Hash: 12,
  Gin: 13,
  Gist: 14,
  Seq: 15,
  Spgist: 16,
  Brin: 17,
  CommitTs: 18,
  ReplOrigin: 19,
  Generic: 20,
  LogicalMsg: 21,
} as const;

const RMGR_NAMES: readonly string[] = Object.keys(Rmgr);

/**
 * Extensions that have reserved a number for a resource manager of their own. Nothing in the WAL says the name.
 * Source: https://wiki.postgresql.org/wiki/CustomWALResourceManagers
 */
const CUSTOM_RMGR_NAMES: ReadonlyMap<number, string> = new Map([
  [128, "an extension under development"],
  [129, "OrioleDB"],
  [130, "Bluefin"],
  [131, "Bluefin2"],
  [132, "Marlin"],
  [133, "Marlin2"],
  [134, "Neon"],
  [135, "AQO"],
  [136, "sr_plan"],
  [137, "pg_analytics"],
  [138, "PGroonga"],
  [139, "Hsphere"],
  [241, "Columnar"],
]);

/** A resource manager's name for messages: `Heap2`, or `custom 129 (reserved for OrioleDB)`. */
export function rmgrName(id: number): string {
  const known = RMGR_NAMES[id];
  if (known !== undefined) return known;
  if (id < 128) return `unknown ${id}`;
  const reserved = CUSTOM_RMGR_NAMES.get(id);
  return reserved === undefined ? `custom ${id}` : `custom ${id} (reserved for ${reserved})`;
}
