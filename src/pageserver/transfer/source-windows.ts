/**
 * Starts of WAL records where histories are put together. A timeline reads the window of an LSN at its own end, and each
 * writer begins its windows anew; so where one timeline is made from pieces of several, or ends where its source went on,
 * the windows at the seams are put once more, complete, at the new end.
 */
import { assert } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { ValueFlag } from "../../storage/key.ts";
import { LayerKind } from "../../storage/layer-format.ts";
import { LayerWriter, type WrittenLayer } from "../../storage/layer-writer.ts";
import type { TimelineStore } from "../../storage/store.ts";
import { recordWindowKey, windowOfLsn } from "../ingest/keyspace.ts";
import { OpenRecordWindow, startOfEntry } from "../ingest/record-index.ts";
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

/** The windows around some LSNs of a history, as far as they lie below `endLsn`; ascending, none empty. */
export async function windowsAround(
  sections: readonly StoredSection[],
  points: readonly Lsn[],
  endLsn: Lsn,
): Promise<RecordWindow[]> {
  const wanted = new Set<number>();
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
