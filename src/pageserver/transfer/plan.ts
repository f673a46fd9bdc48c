/**
 * What the sender announces: the timelines that the receiver is to make or make longer, and the layer files of each.
 * Everything in it is checked on arrival, against itself here and against the receiver's own state in `publish.ts`.
 */
import { corrupt } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { compareKeys } from "../../storage/key.ts";
import { formatKey, parseKey } from "../../storage/key-range.ts";
import type { LayerDescriptor } from "../../storage/layer-file.ts";
import { FILE_SIZE_MAX, FOOTER_SIZE, HEADER_SIZE, LayerKind } from "../../storage/layer-format.ts";
import type { RetainedPoint, Retention } from "../../storage/store.ts";
import { renderCommitTime, stretchEnds } from "../../storage/retention.ts";
import { JsonFields } from "../json-fields.ts";
import { type HistoryView, parseHistory, renderHistory } from "./description.ts";
import { CHUNK_SIZE, HISTORY_MAX, LAYERS_MAX, STEPS_MAX, TRANSFER_BYTES_MAX } from "./limits.ts";

export interface PlannedLayer {
  /** Its name is of no interest to the receiver, and not sent. */
  readonly descriptor: LayerDescriptor;
  /** 64 hexadecimal digits that tell the file from others: SHA-256 over its header, directory and footer. */
  readonly fingerprint: string;
}

export interface PlannedStep {
  readonly kind: "create" | "extend";
  readonly timelineId: TimelineId;
  readonly ancestor: { readonly timelineId: TimelineId; readonly lsn: Lsn } | undefined;
  readonly fromLsn: Lsn;
  readonly toLsn: Lsn;
  /** Of a root that is made: what it was imported as. */
  readonly importId?: TimelineId | undefined;
  /** What is added to its history. */
  readonly history: readonly HistoryView[];
  /** What garbage collection has left of what is sent, if not everything; below it, the receiver's own history. */
  readonly retention: Retention | undefined;
  /** Milliseconds since 1970; of a timeline that is made. */
  readonly createdAt: number;
  readonly layers: readonly PlannedLayer[];
}

export interface TransferPlan {
  readonly result: "created" | "updated";
  readonly commonLsn: Lsn | undefined;
  /** Ancestors first; the branch names the last. */
  readonly steps: readonly PlannedStep[];
}

export function planLayers(plan: TransferPlan): PlannedLayer[] {
  return plan.steps.flatMap((step) => step.layers);
}

export function planBytes(plan: TransferPlan): number {
  return planLayers(plan).reduce((total, layer) => total + layer.descriptor.sizeBytes, 0);
}

export function chunkCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / CHUNK_SIZE);
}

/** Size of a chunk of a file in bytes. */
export function chunkSize(sizeBytes: number, chunk: number): number {
  return Math.min(CHUNK_SIZE, sizeBytes - chunk * CHUNK_SIZE);
}

export function renderPlan(plan: TransferPlan): object {
  return {
    result: plan.result,
    common: plan.commonLsn === undefined ? null : formatLsn(plan.commonLsn),
    steps: plan.steps.map((step) => ({
      kind: step.kind,
      id: step.timelineId,
      ancestor: step.ancestor ? { id: step.ancestor.timelineId, lsn: formatLsn(step.ancestor.lsn) } : null,
      ...(step.importId === undefined ? {} : { import_id: step.importId }),
      from: formatLsn(step.fromLsn),
      to: formatLsn(step.toLsn),
      history: renderHistory(step.history),
      retention: step.retention ? renderRetention(step.retention) : null,
      created_at: new Date(step.createdAt).toISOString(),
      layers: step.layers.map(renderLayer),
    })),
  };
}

function renderLayer({ descriptor, fingerprint }: PlannedLayer): object {
  return {
    kind: descriptor.kind === LayerKind.Delta ? "delta" : "image",
    start: formatLsn(descriptor.startLsn),
    end: formatLsn(descriptor.endLsn),
    from_key: formatKey(descriptor.range.from),
    to_key: formatKey(descriptor.range.to),
    size: descriptor.sizeBytes,
    values: descriptor.valueCount,
    derived: descriptor.derived ?? false,
    fingerprint,
  };
}

/** Throws `corrupt` for what no sender makes. */
export function parsePlan(value: unknown): TransferPlan {
  const fields = new JsonFields(value, "plan", (message) => corrupt(message));
  const result = fields.text("result");
  if (result !== "created" && result !== "updated")
    throw fields.wrong("result", "must be created or updated");
  const listed = fields.objects("steps");
  if (listed.length === 0 || listed.length > STEPS_MAX) {
    throw fields.wrong("steps", `must have from 1 to ${STEPS_MAX} entries`);
  }
  const ids = new Set<TimelineId>();
  const steps: PlannedStep[] = [];
  for (const [index, step] of listed.entries()) {
    const parsed = parseStep(step, index === 0);
    if (ids.has(parsed.timelineId)) throw step.wrong("id", "is used twice");
    ids.add(parsed.timelineId);
    const before = steps.at(-1);
    if (
      before &&
      (parsed.ancestor?.timelineId !== before.timelineId || parsed.ancestor.lsn !== before.toLsn)
    ) {
      throw step.wrong("ancestor", "must be the end of the step before");
    }
    steps.push(parsed);
  }
  const plan = { result, commonLsn: fields.has("common") ? fields.lsn("common") : undefined, steps } as const;
  checkTotals(plan);
  return plan;
}

function checkTotals(plan: TransferPlan): void {
  const layers = planLayers(plan);
  if (layers.length > LAYERS_MAX)
    throw corrupt(`the plan has ${layers.length} layers`, { layers: layers.length });
  const entries = plan.steps.reduce((total, step) => total + step.history.length, 0);
  if (entries > HISTORY_MAX) throw corrupt(`the plan has ${entries} entries of history`, { entries });
  const bytes = planBytes(plan);
  if (bytes > TRANSFER_BYTES_MAX) throw corrupt(`the plan is about ${bytes} bytes`, { bytes });
  const fingerprints = new Set(layers.map((layer) => layer.fingerprint));
  if (fingerprints.size !== layers.length) throw corrupt("the plan names a layer twice");
}

function parseStep(fields: JsonFields, isFirst: boolean): PlannedStep {
  const kind = fields.text("kind");
  if (kind !== "create" && kind !== "extend") throw fields.wrong("kind", "must be create or extend");
  if (kind === "extend" && !isFirst) throw fields.wrong("kind", "must be create behind the first step");
  const parent = fields.optionalObject("ancestor");
  const ancestor = parent && { timelineId: parent.timelineId("id"), lsn: parent.lsn("lsn") };
  const fromLsn = fields.lsn("from");
  const toLsn = fields.lsn("to");
  const retention = parseRetention(fields.optionalObject("retention"), fromLsn, toLsn);
  if (toLsn < fromLsn) throw fields.wrong("to", "must not lie below the start");
  if (kind === "extend" && retention) checkGap(fields, retention, fromLsn);
  if (kind === "extend" && ancestor)
    throw fields.wrong("ancestor", "must be null for a timeline that exists");
  if (ancestor && ancestor.lsn !== fromLsn) throw fields.wrong("from", "must be where the ancestor is left");
  const importId = fields.has("import_id") ? fields.timelineId("import_id") : undefined;
  if (importId !== undefined && (kind === "extend" || ancestor))
    throw fields.wrong("import_id", "must be null for a timeline that is no new root");
  const history = parseHistory(fields, fromLsn);
  const last = history.at(-1);
  if (last && last.startLsn >= toLsn) throw fields.wrong("history", "must lie below the end");
  return {
    kind,
    timelineId: fields.timelineId("id"),
    ancestor,
    importId,
    fromLsn,
    toLsn,
    history,
    retention,
    createdAt: fields.time("created_at"),
    layers: fields.objects("layers").map((layer) => parseLayer(layer, { kind, fromLsn, toLsn })),
  };
}

/** A timeline that exists keeps what it has below its end; up to the cutoff there is a gap. */
function checkGap(fields: JsonFields, { cutoff, points, stretches }: Retention, fromLsn: Lsn): void {
  if (cutoff.lsn > fromLsn && points.length === 0 && stretches === undefined) return;
  throw fields.wrong(
    "retention",
    "must have a cutoff above the end, and nothing else, for a timeline that exists",
  );
}

function renderRetention({ cutoff, points, stretches = [] }: Retention): object {
  return {
    cutoff: renderPoint(cutoff),
    points: points.map(renderPoint),
    stretches: stretches.map(({ from, to }) => ({ from: renderPoint(from), to: renderPoint(to) })),
  };
}

function renderPoint({ lsn, previousLsn, commitMs }: RetainedPoint): object {
  return { lsn: formatLsn(lsn), previous_lsn: formatLsn(previousLsn), ...renderCommitTime(commitMs) };
}

function parseRetention(fields: JsonFields | undefined, fromLsn: Lsn, toLsn: Lsn): Retention | undefined {
  if (fields === undefined) return undefined;
  const listed = fields.objects("points");
  if (listed.length > HISTORY_MAX) throw fields.wrong("points", `must have at most ${HISTORY_MAX} entries`);
  const points = listed.map(parsePoint);
  const cutoff = parsePoint(fields.object("cutoff"));
  const stretches = (fields.has("stretches") ? fields.objects("stretches") : []).map((stretch) => ({
    from: parsePoint(stretch.object("from")),
    to: parsePoint(stretch.object("to")),
  }));
  if (stretches.length > HISTORY_MAX)
    throw fields.wrong("stretches", `must have at most ${HISTORY_MAX} entries`);
  const checkOrder = (key: string, ascending: readonly RetainedPoint[]): void => {
    let before = (fromLsn - 1) as Lsn;
    for (const { lsn, previousLsn } of [...ascending, cutoff]) {
      if (lsn <= before || lsn > toLsn || previousLsn > lsn) throw fields.wrong(key, "must be in order");
      before = lsn;
    }
  };
  checkOrder("points", points);
  checkOrder("stretches", stretchEnds(stretches));
  return { cutoff, points, ...(stretches.length > 0 ? { stretches } : {}) };
}

function parsePoint(fields: JsonFields): RetainedPoint {
  const commitMs = fields.has("commit_ms")
    ? fields.integer("commit_ms", { min: -TIME_MS_MAX, max: TIME_MS_MAX })
    : null;
  const limits = { min: -TIME_MS_MAX * 1000, max: TIME_MS_MAX * 1000 };
  const exactMs = fields.has("commit_us") ? fields.integer("commit_us", limits) / 1000 : commitMs;
  return { lsn: fields.lsn("lsn"), previousLsn: fields.lsn("previous_lsn"), commitMs: exactMs };
}

/** The last millisecond that JavaScript's Date knows. */
const TIME_MS_MAX = 8_640_000_000_000_000;
const FINGERPRINT = /^[0-9a-f]{64}$/;

function parseLayer(
  fields: JsonFields,
  step: { kind: PlannedStep["kind"]; fromLsn: Lsn; toLsn: Lsn },
): PlannedLayer {
  const kind = fields.text("kind");
  if (kind !== "delta" && kind !== "image") throw fields.wrong("kind", "must be delta or image");
  const startLsn = fields.lsn("start");
  const endLsn = fields.lsn("end");
  if (startLsn < step.fromLsn) throw fields.wrong("start", "must not lie below that of its step");
  if (endLsn > step.toLsn) throw fields.wrong("end", "must not lie above that of its step");
  const isBackward = kind === "delta" ? endLsn < startLsn : endLsn !== startLsn;
  if (isBackward)
    throw fields.wrong("end", `must fit the start of ${kind === "delta" ? "a delta" : "an image"}`);
  // What an extension has at its start is there already.
  if (kind === "image" && step.kind === "extend" && startLsn === step.fromLsn) {
    throw fields.wrong("start", "must lie above that of its step");
  }
  const range = { from: parseKey(fields.text("from_key")), to: parseKey(fields.text("to_key")) };
  if (compareKeys(range.from, range.to) >= 0) throw fields.wrong("to_key", "must lie above from_key");
  const isDerived = fields.boolean("derived");
  if (isDerived && kind === "delta") throw fields.wrong("derived", "must be false for a delta");
  const fingerprint = fields.text("fingerprint");
  if (!FINGERPRINT.test(fingerprint)) throw fields.wrong("fingerprint", "must have 64 hexadecimal digits");
  return {
    descriptor: {
      name: `${fingerprint}.${kind}`,
      kind: kind === "delta" ? LayerKind.Delta : LayerKind.Image,
      startLsn,
      endLsn,
      range,
      sizeBytes: fields.integer("size", { min: HEADER_SIZE + FOOTER_SIZE, max: FILE_SIZE_MAX }),
      valueCount: fields.integer("values", { min: 0, max: FILE_SIZE_MAX }),
      ...(isDerived ? { derived: true as const } : {}),
    },
    fingerprint,
  };
}
