/**
 * Starts of WAL records where histories are put together. A timeline reads the window of an LSN at its own end, and each
 * writer begins its windows anew; so where one timeline is made from pieces of several, or ends where its source went on,
 * the windows at the seams are put once more, complete, at the new end. Whoever takes only what lies below that end has to
 * do so again.
 */
import { assert } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { ValueFlag } from "../../storage/key.ts";
import { LayerKind } from "../../storage/layer-format.ts";
import { LayerWriter, type WrittenLayer } from "../../storage/layer-writer.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { recordWindowKey, recordWindowOf, windowOfLsn } from "../ingest/keyspace.ts";
import { OpenRecordWindow, decodeRecordWindow, startOfEntry } from "../ingest/record-index.ts";
import { storedWindow } from "../timeline/stored-windows.ts";

/** A section of the history with the store that holds it. */
export interface StoredSection {
  readonly store: TimelineStore;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

export interface RecordWindow {
  readonly window: number;
  /** Ascending. */
  readonly starts: readonly Lsn[];
}

/**
 * Windows that a timeline had not put down completely by the end of a span of it: it was itself put together, at seams
 * within the span, and had grown beyond its end by then.
 */
export async function windowsCompletedLater(
  store: TimelineStore,
  { fromLsn, toLsn }: { fromLsn: Lsn; toLsn: Lsn },
): Promise<number[]> {
  if (toLsn >= store.durableLsn) return [];
  const range = {
    from: recordWindowKey(windowOfLsn(fromLsn)),
    to: recordWindowKey(windowOfLsn(toLsn) + 1),
  };
  const found: number[] = [];
  for await (const batch of store.scan(range, store.durableLsn)) {
    for (const { key, values } of batch) {
      const [value] = values;
      if (value === undefined || value.lsn <= toLsn) continue;
      const window = recordWindowOf(key);
      const complete = decodeRecordWindow(window, value.bytes);
      const byThen = await storedWindow(store, window, toLsn);
      const within = (entry: Lsn): boolean => entry < toLsn;
      if (complete.filter(within).length !== byThen.filter(within).length) found.push(window);
    }
  }
  return found;
}

/** Some windows, and those around some LSNs of a history, as far as they lie below `endLsn`; ascending, none empty. */
export async function windowsAround(
  sections: readonly StoredSection[],
  { points, windows: others }: { points: readonly Lsn[]; windows: readonly number[] },
  endLsn: Lsn,
): Promise<RecordWindow[]> {
  const wanted = new Set<number>(others);
  for (const lsn of points) {
    wanted.add(windowOfLsn(lsn));
    const before = await windowOfRecordBefore(sections, lsn);
    if (before !== undefined) wanted.add(before);
  }
  const windows: RecordWindow[] = [];
  for (const window of [...wanted].sort((a, b) => a - b)) {
    const starts = (await startsOf(sections, window)).filter((start) => start < endLsn);
    if (starts.length > 0) windows.push({ window, starts });
  }
  return windows;
}

/** The window of the last record that starts below an LSN. */
async function windowOfRecordBefore(
  sections: readonly StoredSection[],
  lsn: Lsn,
): Promise<number | undefined> {
  const lowest = windowOfLsn(sections[0]?.startLsn ?? lsn);
  for (let window = windowOfLsn(lsn); window >= lowest; window--) {
    if ((await startsOf(sections, window)).some((start) => start < lsn)) return window;
  }
  return undefined;
}

/** What all writers together have put down for a window. */
async function startsOf(sections: readonly StoredSection[], window: number): Promise<Lsn[]> {
  const starts: Lsn[] = [];
  for (const { store, startLsn, endLsn } of sections) {
    if (startLsn >= endLsn || windowOfLsn(startLsn) > window || windowOfLsn(endLsn) < window) continue;
    const stored = await storedWindow(store, window, store.durableLsn);
    for (const entry of stored) {
      const start = startOfEntry(entry);
      if (start >= startLsn && start < endLsn) starts.push(entry);
    }
  }
  return starts;
}

/** Writes the windows as a delta layer whose values are all at `lsn`. */
export async function writeWindows(
  windows: readonly RecordWindow[],
  { path, lsn, files }: { path: string; lsn: Lsn; files: Files },
): Promise<WrittenLayer> {
  assert(windows.length > 0, "a layer has values");
  const header = { kind: LayerKind.Delta, startLsn: (lsn - 1) as Lsn, endLsn: lsn };
  await using writer = await LayerWriter.create(path, header, files);
  for (const { window, starts } of windows) {
    const open = new OpenRecordWindow();
    open.resume(window, starts);
    const bytes = open.save();
    const key = recordWindowKey(window);
    writer.beginKey(key, key.block);
    writer.addValue(lsn, ValueFlag.Image, bytes, 0, bytes.length);
  }
  return await writer.finish();
}
