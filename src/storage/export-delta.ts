/** The changes of a timeline in a span of LSNs as delta layer files of their own: for layers that reach beyond it. */
import { assert } from "../base/errors.ts";
import { type Lsn, formatLsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import type { LayerDescriptor, LayerFile } from "./layer-file.ts";
import { LayerKind } from "./layer-format.ts";
import type { LayerMap } from "./layer-map.ts";
import { MERGE_INPUTS_MAX, mergeDeltas } from "./merge-deltas.ts";

/** A file is closed at the next key when it has this size in bytes. */
const FILE_BYTES_MAX = 128 * 1024 * 1024;

export interface ExportOptions {
  /** Above this LSN … */
  readonly fromLsn: Lsn;
  /** … up to this one, which must not be above `durableLsn`. */
  readonly toLsn: Lsn;
  /** Exists; files of the layers' names are made in it. */
  readonly directory: string;
  /** Called with the bytes that have been written; throws to end it. */
  readonly progress?: (sizeBytes: number) => void;
}

/**
 * Writes and syncs the files; their directory is not synced. The layers are disjoint in (keys × LSNs). After a failure
 * nothing of it is left.
 */
export async function exportDelta(
  map: LayerMap,
  options: ExportOptions & { readonly startLsn: Lsn },
  files: Files,
): Promise<LayerDescriptor[]> {
  const { fromLsn, toLsn, directory } = options;
  assert(fromLsn < toLsn, `export from ${formatLsn(fromLsn)} to ${formatLsn(toLsn)}`);
  const paths: string[] = [];
  const exported: LayerDescriptor[] = [];
  try {
    for (const group of groupsBySpan(map, fromLsn, toLsn)) {
      const written = await mergeDeltas(
        {
          inputs: group.layers,
          startLsn: group.startLsn,
          endLsn: group.endLsn,
          startInclusive: group.startLsn === options.startLsn,
          fileBytesMax: FILE_BYTES_MAX,
          newPath: () => {
            const name = `${String(paths.length + 1).padStart(8, "0")}-export.delta`;
            paths.push(`${directory}/${name}`);
            return `${directory}/${name}`;
          },
          ...(options.progress ? { progress: options.progress } : {}),
        },
        files,
      );
      for (const { path, ...layer } of written) {
        const { startLsn, endLsn } = group;
        const name = path.slice(directory.length + 1);
        exported.push({ ...layer, name, kind: LayerKind.Delta, startLsn, endLsn });
      }
    }
    return exported;
  } catch (error) {
    for (const path of paths) await files.remove(path).catch(() => undefined);
    throw error;
  }
}

interface Group {
  readonly layers: LayerFile[];
  startLsn: Lsn;
  endLsn: Lsn;
}

/** The delta layers of a span, oldest first, in groups that are disjoint in LSNs and not too large to merge. */
function groupsBySpan(map: LayerMap, fromLsn: Lsn, toLsn: Lsn): Group[] {
  const wanted = map.deltas.filter((layer) => layer.startLsn < toLsn && layer.endLsn > fromLsn);
  wanted.sort((a, b) => a.startLsn - b.startLsn || a.endLsn - b.endLsn);
  const groups: Group[] = [];
  for (const layer of wanted) {
    const last = groups.at(-1);
    const startLsn = layer.startLsn > fromLsn ? layer.startLsn : fromLsn;
    const endLsn = layer.endLsn < toLsn ? layer.endLsn : toLsn;
    if (last === undefined || (startLsn >= last.endLsn && last.layers.length >= MERGE_INPUTS_MAX / 2)) {
      groups.push({ layers: [layer], startLsn, endLsn });
    } else {
      last.layers.push(layer);
      if (endLsn > last.endLsn) last.endLsn = endLsn;
    }
  }
  return groups;
}
