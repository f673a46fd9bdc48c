/**
 * The sender's layer files for each step of a transfer: as they are where they lie within what is sent, cut to it where
 * they reach beyond. Files that are made for the purpose go into a directory of their own, which goes away with this
 * object; those of the timelines are held by the caller.
 *
 * What lies above an LSN makes any state of that LSN into that of a later one, also where garbage collection has removed
 * layers between: what a removed layer had is in an image at or below the cutoff, and then the image is sent. Only what
 * lies between the two is not whole; so the cutoff goes along.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { assert } from "../../base/errors.ts";
import { type Lsn, lsnMax, toLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import { type Key, type KeyPrefix, compareKeyPrefixes } from "../../storage/key.ts";
import { rangeContains } from "../../storage/key-range.ts";
import { type LayerDescriptor, LayerFile } from "../../storage/layer-file.ts";
import { FOOTER_SIZE, HEADER_SIZE, LayerKind } from "../../storage/layer-format.ts";
import { decodeFooter } from "../../storage/layer-codec.ts";
import { mergeDeltas } from "../../storage/merge-deltas.ts";
import { readExactly } from "../../storage/read-file.ts";
import { belowCutoff, floorAt } from "../../storage/retention.ts";
import { StoreCache } from "../../storage/store-cache.ts";
import type { RetainedPoint, Retention } from "../../storage/store.ts";
import { recordWindowKey } from "../ingest/keyspace.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { SourceSpan, TransferStep } from "./decide.ts";
import type { ChainSection, HistoryView } from "./description.ts";
import type { HeldChain } from "./held-chain.ts";
import type { PlannedLayer, PlannedStep } from "./plan.ts";
import { type RecordWindow, windowsAround, windowsCompletedLater, writeWindows } from "./source-windows.ts";

/** Cutting reads each block once. */
const CACHE_BYTES = 1024 * 1024;

export interface ExportedStep extends PlannedStep {
  /** Where each layer's file is. */
  readonly paths: readonly string[];
}

interface FoundLayer {
  readonly path: string;
  readonly descriptor: LayerDescriptor;
}

/**
 * Leaves out layers that a step before has too: a branch may have images of its own where it begins, and its ancestor the
 * same ones there, which are seen from the branch.
 */
export function withoutRepeats(steps: readonly ExportedStep[]): ExportedStep[] {
  const seen = new Set<string>();
  return steps.map((step) => {
    const isNew = step.layers.map(({ fingerprint }) => {
      const size = seen.size;
      return seen.add(fingerprint).size > size;
    });
    return {
      ...step,
      layers: step.layers.filter((_, i) => isNew[i]),
      paths: step.paths.filter((_, i) => isNew[i]),
    };
  });
}

export class Exporter implements AsyncDisposable {
  private readonly tenant: Tenant<ServedTimeline>;
  private readonly held: HeldChain;
  private readonly files: Files;
  private readonly directory: string;
  private readonly cache: StoreCache;
  private made = 0;

  /** `directory` does not exist yet. */
  constructor(options: { tenant: Tenant<ServedTimeline>; held: HeldChain; directory: string; files: Files }) {
    this.tenant = options.tenant;
    this.held = options.held;
    this.files = options.files;
    this.directory = options.directory;
    this.cache = new StoreCache({ capacityBytes: CACHE_BYTES }, { files: options.files });
  }

  async export(step: TransferStep, signal?: AbortSignal): Promise<ExportedStep> {
    const windows = await this.windowsOf(step);
    const replaced = await this.storedAtEnd(step, windows);
    const layers: FoundLayer[] = [];
    for (const span of step.spans) layers.push(...(await this.layersOf(step, span, replaced, signal)));
    if (windows.length > 0) layers.push(await this.windowLayer(windows, step.toLsn));
    const planned: PlannedLayer[] = [];
    for (const { path, descriptor } of layers) {
      signal?.throwIfAborted();
      planned.push({ descriptor, fingerprint: await fingerprintOf(this.files, path, descriptor) });
    }
    const last = step.spans.at(-1)?.timelineId ?? this.held.chain.at(-1)?.view.id;
    assert(last !== undefined, "a step has a source");
    return {
      kind: step.kind,
      timelineId: step.timelineId,
      ancestor: step.ancestor,
      importId: step.importId,
      fromLsn: step.fromLsn,
      toLsn: step.toLsn,
      history: step.spans.flatMap((span) => this.historyOf(span)),
      retention: await this.retentionOf(step),
      createdAt: this.tenant.timeline(last).createdAt,
      layers: planned,
      paths: layers.map((layer) => layer.path),
    };
  }

  /** Removes the files that were made. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.cache[Symbol.asyncDispose]();
    if (this.made > 0) await this.files.removeTree(this.directory);
  }

  private section(span: SourceSpan): ChainSection {
    const section = this.held.chain.find((candidate) => candidate.view.id === span.timelineId);
    assert(section !== undefined, "a span is of the chain");
    return section;
  }

  private historyOf(span: SourceSpan): HistoryView[] {
    return this.section(span).view.history.filter(
      ({ startLsn }) => startLsn >= span.fromLsn && startLsn < span.toLsn,
    );
  }

  /** What of the step will be readable, if not all of it. */
  private async retentionOf(step: TransferStep): Promise<Retention | undefined> {
    const span = step.spans.findLast((candidate) => this.gapBelow(candidate) !== undefined);
    if (span === undefined) return undefined;
    const { retention } = this.held.timeline(span.timelineId);
    const cutoff = retention && floorAt(retention, span.toLsn);
    assert(retention !== undefined && cutoff !== undefined, "there is a gap");
    // What comes before is not there as it is here, or is the receiver's own.
    if (step.kind === "extend" || span !== step.spans[0]) return { cutoff, points: [] };
    const isWithin = (point: RetainedPoint): boolean =>
      point.lsn < cutoff.lsn && (point.lsn > span.fromLsn || this.isWhole(step, span));
    const stretches = retention.stretches?.filter(({ from, to }) => isWithin(from) && isWithin(to)) ?? [];
    const points = retention.points.filter(isWithin);
    return { cutoff, points, ...(stretches.length > 0 ? { stretches } : {}) };
  }

  /** Up to where a span lacks changes that were garbage collected; undefined if it has all. */
  private gapBelow({ timelineId, fromLsn, toLsn }: SourceSpan): Lsn | undefined {
    const { retention } = this.held.timeline(timelineId);
    if (retention === undefined || toLsn === fromLsn) return undefined;
    const floor = floorAt(retention, toLsn);
    if (floor === undefined) throw belowCutoff(toLsn, retention.cutoff.lsn);
    return floor.lsn > fromLsn ? floor.lsn : undefined;
  }

  /** Whether a timeline is sent from its beginning, with the images that it has there. */
  private isWhole(step: TransferStep, span: SourceSpan): boolean {
    return step.kind === "create" && span.fromLsn === this.section(span).view.startLsn;
  }

  private async windowsOf(step: TransferStep): Promise<RecordWindow[]> {
    const last = step.spans.at(-1);
    if (last === undefined) return [];
    // Below a gap nobody asks; at the end of one, the cutoff says what the record before is.
    const gapLsn = step.spans.reduce(
      (highest, span) => lsnMax(highest, this.gapBelow(span) ?? highest),
      toLsn(0),
    );
    const seams = step.spans.slice(1).map((span) => span.fromLsn);
    if (step.kind === "extend") seams.push(step.fromLsn);
    const { store } = this.held.timeline(last.timelineId);
    if (last.toLsn < store.durableLsn) seams.push(last.toLsn);
    const points = seams.filter((lsn) => lsn > gapLsn);
    const windows: number[] = [];
    for (const span of step.spans) {
      const fromLsn = lsnMax(span.fromLsn, gapLsn);
      if (fromLsn >= span.toLsn) continue;
      const source = this.held.timeline(span.timelineId).store;
      windows.push(...(await windowsCompletedLater(source, { fromLsn, toLsn: span.toLsn })));
    }
    const sections = this.held.chain.map(({ view, startLsn, endLsn }) => ({
      store: this.held.timeline(view.id).store,
      startLsn,
      endLsn,
    }));
    return windowsAround(sections, { points, windows }, step.toLsn);
  }

  /** Windows that the source has stored at exactly the end: they give way to the complete ones. */
  private async storedAtEnd(step: TransferStep, windows: readonly RecordWindow[]): Promise<Key[]> {
    const last = step.spans.at(-1);
    if (last === undefined) return [];
    const { store } = this.held.timeline(last.timelineId);
    const keys: Key[] = [];
    for (const { window } of windows) {
      const key = recordWindowKey(window);
      const { values } = await store.get(key, step.toLsn);
      if (values[0]?.lsn === step.toLsn) keys.push(key);
    }
    return keys;
  }

  private async layersOf(
    step: TransferStep,
    span: SourceSpan,
    replaced: readonly Key[],
    signal: AbortSignal | undefined,
  ): Promise<FoundLayer[]> {
    const { store, layers } = this.held.timeline(span.timelineId);
    const { view } = this.section(span);
    const isWhole = this.isWhole(step, span);
    const gapLsn = this.gapBelow(span) ?? -1;
    const found: FoundLayer[] = [];
    for (const descriptor of layers) {
      signal?.throwIfAborted();
      const path = store.pathOf(descriptor);
      if (descriptor.kind === LayerKind.Image) {
        const isWanted =
          descriptor.endLsn <= span.toLsn &&
          (isWhole || descriptor.endLsn > span.fromLsn) &&
          (descriptor.endLsn <= gapLsn || !descriptor.derived);
        if (isWanted) found.push({ path, descriptor });
        continue;
      }
      if (descriptor.endLsn <= span.fromLsn || descriptor.startLsn >= span.toLsn) continue;
      const fits = descriptor.startLsn >= span.fromLsn && descriptor.endLsn <= span.toLsn;
      const isReplaced =
        descriptor.endLsn >= step.toLsn && replaced.some((key) => rangeContains(descriptor.range, key));
      if (fits && !isReplaced) found.push({ path, descriptor });
      else
        found.push(
          ...(await this.cut({ path, descriptor }, span, { startLsn: view.startLsn, replaced, step })),
        );
    }
    return found;
  }

  private async cut(
    { path, descriptor }: FoundLayer,
    span: SourceSpan,
    { startLsn, replaced, step }: { startLsn: Lsn; replaced: readonly Key[]; step: TransferStep },
  ): Promise<FoundLayer[]> {
    const from = descriptor.startLsn > span.fromLsn ? descriptor.startLsn : span.fromLsn;
    const to = descriptor.endLsn < span.toLsn ? descriptor.endLsn : span.toLsn;
    const isReplaced = (prefix: KeyPrefix, block: number): boolean =>
      replaced.some((key) => key.block === block && compareKeyPrefixes(key, prefix) === 0);
    await this.files.makeDirectory(this.directory);
    const written = await mergeDeltas(
      {
        inputs: [new LayerFile(path, descriptor, this.cache)],
        startLsn: from,
        endLsn: to,
        startInclusive: step.kind === "create" && from === startLsn,
        fileBytesMax: Number.MAX_SAFE_INTEGER,
        omit: (prefix, block, lsn) => lsn === step.toLsn && isReplaced(prefix, block),
        newPath: () => this.newPath(),
      },
      this.files,
    );
    return written.map((layer) => ({
      path: layer.path,
      descriptor: {
        name: "",
        kind: LayerKind.Delta,
        startLsn: from,
        endLsn: to,
        range: layer.range,
        sizeBytes: layer.sizeBytes,
        valueCount: layer.valueCount,
      },
    }));
  }

  private async windowLayer(windows: readonly RecordWindow[], lsn: Lsn): Promise<FoundLayer> {
    await this.files.makeDirectory(this.directory);
    const path = this.newPath();
    const { range, sizeBytes, valueCount } = await writeWindows(windows, { path, lsn, files: this.files });
    const startLsn = (lsn - 1) as Lsn;
    const descriptor = {
      name: "",
      kind: LayerKind.Delta,
      startLsn,
      endLsn: lsn,
      range,
      sizeBytes,
      valueCount,
    };
    return { path, descriptor };
  }

  private newPath(): string {
    return join(this.directory, `${++this.made}.delta`);
  }
}

/** Cheap to compute: header, directory and footer only. Content is compared chunk by chunk. */
async function fingerprintOf(
  files: Files,
  path: string,
  { sizeBytes, derived }: LayerDescriptor,
): Promise<string> {
  const handle = await files.open(path, "r");
  try {
    const header = await readExactly(handle, 0, HEADER_SIZE, path);
    const footer = await readExactly(handle, sizeBytes - FOOTER_SIZE, FOOTER_SIZE, path);
    const { directoryPosition, directorySize } = decodeFooter(footer, sizeBytes, path);
    const directory = await readExactly(handle, directoryPosition, directorySize, path);
    const hash = createHash("sha256").update(header).update(directory).update(footer);
    return hash.update(derived ? "derived" : "").digest("hex");
  } finally {
    await handle.close();
  }
}
