/**
 * Images of everything that exists at an LSN, from what is stored. Blocks behind the end of their relation, and those
 * of relations that do not exist any more, are left out: nobody can ask for them, and a record that makes such a block
 * again needs nothing older. That is how the space of a dropped table becomes free.
 */
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { parseControlFile } from "../../postgres/control-file.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { ImagesOf, PreparedImages, ScanRange } from "../../storage/compaction-job.ts";
import { type Key, type KeyPrefix, compareKeyPrefixes, compareKeys } from "../../storage/key.ts";
import { type KeyRange, nextKey } from "../../storage/key-range.ts";
import { CheckpointState } from "../ingest/checkpoint-state.ts";
import { CHECKPOINT_STATE_KEY, CONTROL_FILE_KEY, Kind, kindRange, samePrefix } from "../ingest/keyspace.ts";
import { Reconstructor } from "../read/reconstruct.ts";

/** Reads at the LSN what must be known about all of it, then makes images of ranges. */
export async function prepareImages(scan: ScanRange, version: PgVersion): Promise<PreparedImages> {
  const plain = new Reconstructor({ version, hintBitsLogged: false });
  const read = async (key: Key): Promise<Uint8Array | undefined> => {
    for await (const batch of scan({ from: key, to: nextKey(key) })) {
      for (const entry of batch) return plain.value(entry.key, entry.values)?.slice();
    }
    return undefined;
  };
  const control = await read(CONTROL_FILE_KEY);
  const state = await read(CHECKPOINT_STATE_KEY);
  const hintBitsLogged =
    (control !== undefined && parseControlFile(control).dataChecksums) ||
    (state !== undefined && CheckpointState.decode(state).walLogHints);
  const sizes = await readSizes(scan, plain);
  const reconstructor = new Reconstructor({ version, hintBitsLogged });
  const imagesOf: ImagesOf = async function* (range) {
    let relation: Key | undefined;
    let size = 0;
    for await (const batch of scan(range)) {
      const images: { key: Key; bytes: Uint8Array }[] = [];
      for (const { key, values } of batch) {
        if (key.kind === Kind.RelationBlock) {
          if (relation === undefined || !samePrefix(relation, key)) size = sizes.get(nameOf(key))?.size ?? 0;
          relation = key;
          if (key.block >= size) continue;
        }
        const value = reconstructor.value(key, values);
        if (value !== undefined) images.push({ key, bytes: value.slice() });
      }
      if (images.length > 0) yield images;
    }
  };
  return { imagesOf, liveBytes: (range) => liveBytes(sizes, range) };
}

/** Pages of relations in a range that has nothing else. */
function liveBytes(sizes: ReadonlyMap<string, RelationSize>, range: KeyRange): number | undefined {
  if (compareKeys(range.to, PAGES_END) > 0) return undefined;
  let blocks = 0;
  for (const { relation, size } of sizes.values()) {
    const from = compareKeyPrefixes(relation, range.from);
    const to = compareKeyPrefixes(relation, range.to);
    if (from < 0 || to > 0) continue;
    const first = from === 0 ? Math.min(range.from.block, size) : 0;
    const end = to === 0 ? Math.min(range.to.block, size) : size;
    blocks += Math.max(0, end - first);
  }
  return blocks * PAGE_SIZE;
}

/** Behind all pages of relations. */
export const PAGES_END: Key = kindRange(Kind.RelationBlock).to;

interface RelationSize {
  readonly relation: KeyPrefix;
  /** In blocks. */
  readonly size: number;
}

/** Sizes of all forks, in blocks. */
async function readSizes(scan: ScanRange, reconstructor: Reconstructor): Promise<Map<string, RelationSize>> {
  const sizes = new Map<string, RelationSize>();
  for await (const batch of scan(kindRange(Kind.RelationSize))) {
    for (const { key, values } of batch) {
      const value = reconstructor.value(key, values);
      if (value === undefined) continue;
      const size = new DataView(value.buffer, value.byteOffset, value.byteLength).getUint32(0, true);
      sizes.set(nameOf(key), { relation: { ...key, kind: Kind.RelationBlock }, size });
    }
  }
  return sizes;
}

function nameOf({ spcOid, dbOid, relNumber, fork }: Key): string {
  return `${spcOid}/${dbOid}/${relNumber}/${fork}`;
}
