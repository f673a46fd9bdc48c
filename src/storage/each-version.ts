/** A pass over all versions of all keys in a span of LSNs: for those who want the history and not a moment of it. */
import type { Lsn } from "../base/lsn.ts";
import type { KeyPrefix } from "./key.ts";
import type { LayerMap } from "./layer-map.ts";
import { type MergedValue, VersionCursor } from "./version-cursor.ts";
import { Yielder } from "./yielder.ts";

/** Read at a time from one layer. */
const WINDOW_BYTES = 1024 * 1024;

export interface LsnSpan {
  /** Above this one … */
  readonly fromLsn: Lsn;
  /** … up to this one. */
  readonly toLsn: Lsn;
}

/** The value is a view that is valid during the call only. */
export type VersionVisitor = (key: KeyPrefix, value: MergedValue) => void;

/** Visits what is in delta layers, layer by layer. Gives way to the event loop now and then. */
export async function eachVersion(map: LayerMap, span: LsnSpan, visit: VersionVisitor): Promise<void> {
  const yielder = new Yielder();
  const breathe = (): Promise<void> | undefined => (yielder.due() ? yielder.yield() : undefined);
  for (const layer of map.deltas) {
    if (layer.startLsn >= span.toLsn || layer.endLsn <= span.fromLsn) continue;
    const cursor = await VersionCursor.create(layer, WINDOW_BYTES);
    while (!cursor.atEnd) {
      const { prefix } = cursor;
      await cursor.takeKey((value) => {
        if (value.lsn > span.fromLsn && value.lsn <= span.toLsn) visit(prefix, value);
      }, breathe);
    }
  }
}
