/** Space on disk: garbage collection, compaction and usage, as the pageserver does and reports them. */
import type { TimelineId } from "../base/ids.ts";
import type { Lsn } from "../base/lsn.ts";
import { type HttpCall, requestJson, requestJsonLines } from "./http.ts";
import {
  type JsonObject,
  arrayField,
  asObject,
  lsnField,
  numberField,
  textField,
  timelineIdField,
} from "./json.ts";
import type { PageserverClient } from "./pageserver-client.ts";

/** A timeline may take long; nothing is said meanwhile. */
const TIMEOUT_MS = 60 * 60_000;
const SHORT_TIMEOUT_MS = 60_000;

export interface TimelineNames {
  readonly timelineId: TimelineId;
  /** None for what only other branches stand on. */
  readonly branches: readonly string[];
}

export interface GcTimeline extends TimelineNames {
  /** From here on all of its own history is readable; null: all of it. */
  readonly cutoffLsn: Lsn | null;
  readonly removedBytes: number;
  readonly writtenBytes: number;
  readonly retained: readonly { readonly reason: string; readonly bytes: number; readonly layers: number }[];
  /** Moments below the cutoff that stay readable, and for whom. */
  readonly points: readonly { readonly lsn: Lsn; readonly usedBy: readonly string[] }[];
}

export interface GcReport {
  readonly removedBytes: number;
  readonly writtenBytes: number;
  readonly timelines: readonly GcTimeline[];
}

export interface GcOptions {
  readonly dryRun: boolean;
  /** Milliseconds; the setting unless given. */
  readonly pitrIntervalMs?: number | undefined;
  readonly horizonBytes?: number | undefined;
}

export interface WorkOptions {
  readonly signal: AbortSignal;
  /** Called with the number of timelines that are done. */
  readonly onTimeline: (count: number) => void;
}

export interface CompactedTimeline extends TimelineNames {
  readonly inputLayers: number;
  readonly inputBytes: number;
  readonly outputLayers: number;
  readonly outputBytes: number;
}

export interface TimelineUsage extends TimelineNames {
  readonly totalBytes: number;
  readonly uniqueBytes: number;
  readonly sharedBytes: number;
  readonly historyBytes: number;
  readonly walBytes: number;
}

export interface UsageReport {
  readonly timelines: readonly TimelineUsage[];
  /** Of the tenant, but of no timeline. */
  readonly otherBytes: number;
  readonly totalBytes: number;
}

/** Removes history that nothing needs any more, or only says what that would be. */
export async function collectGarbage(
  client: PageserverClient,
  { dryRun, pitrIntervalMs, horizonBytes }: GcOptions,
  options: WorkOptions,
): Promise<GcReport> {
  const body = {
    dry_run: dryRun,
    ...(pitrIntervalMs === undefined ? {} : { pitr_interval_ms: pitrIntervalMs }),
    ...(horizonBytes === undefined ? {} : { gc_horizon_bytes: horizonBytes }),
  };
  const report = await work(client, { method: "POST", path: client.tenantPath("/gc"), body }, options);
  return {
    removedBytes: numberField(report, "removed_bytes"),
    writtenBytes: numberField(report, "written_bytes"),
    timelines: objects(report, "timelines").map((timeline) => ({
      ...namesOf(timeline),
      cutoffLsn: timeline["gc_cutoff_lsn"] === null ? null : lsnField(timeline, "gc_cutoff_lsn"),
      removedBytes: numberField(timeline, "removed_bytes"),
      writtenBytes: numberField(timeline, "written_bytes"),
      retained: objects(timeline, "retained").map((kept) => ({
        reason: textField(kept, "reason"),
        bytes: numberField(kept, "bytes"),
        layers: numberField(kept, "layers"),
      })),
      points: objects(timeline, "points").map((point) => ({
        lsn: lsnField(point, "lsn"),
        usedBy: arrayField(point, "used_by").map(String),
      })),
    })),
  };
}

/** Merges layers of all timelines as far as it is worth it, now instead of by and by. */
export async function compactTenant(
  client: PageserverClient,
  options: WorkOptions,
): Promise<CompactedTimeline[]> {
  const call = { method: "POST", path: client.tenantPath("/compact"), body: {} } as const;
  return objects(await work(client, call, options), "timelines").map((timeline) => ({
    ...namesOf(timeline),
    inputLayers: numberField(timeline, "input_layers"),
    inputBytes: numberField(timeline, "input_bytes"),
    outputLayers: numberField(timeline, "delta_layers") + numberField(timeline, "image_layers"),
    outputBytes: numberField(timeline, "delta_bytes") + numberField(timeline, "image_bytes"),
  }));
}

export async function diskUsage(client: PageserverClient, signal: AbortSignal): Promise<UsageReport> {
  const call = {
    method: "GET",
    path: client.tenantPath("/du"),
    timeoutMs: SHORT_TIMEOUT_MS,
    signal,
  } as const;
  const report = asObject(await requestJson(client.target, call), "answer");
  return {
    timelines: objects(report, "timelines").map((timeline) => ({
      ...namesOf(timeline),
      totalBytes: numberField(timeline, "total_bytes"),
      uniqueBytes: numberField(timeline, "unique_bytes"),
      sharedBytes: numberField(timeline, "shared_bytes"),
      historyBytes: numberField(timeline, "history_bytes"),
      walBytes: numberField(timeline, "wal_bytes"),
    })),
    otherBytes: numberField(report, "other_bytes"),
    totalBytes: numberField(report, "total_bytes"),
  };
}

async function work(
  client: PageserverClient,
  call: Pick<HttpCall, "method" | "path" | "body">,
  { signal, onTimeline }: WorkOptions,
): Promise<JsonObject> {
  const request = { ...call, timeoutMs: TIMEOUT_MS, signal };
  const result = await requestJsonLines(client.target, request, (value) => {
    const { timelines } = asObject(value, "progress");
    if (typeof timelines === "number") onTimeline(timelines);
  });
  return asObject(result, "result");
}

function namesOf(timeline: JsonObject): TimelineNames {
  return {
    timelineId: timelineIdField(timeline, "timeline_id"),
    branches: arrayField(timeline, "branches").map(String),
  };
}

function objects(object: JsonObject, field: string): JsonObject[] {
  return arrayField(object, field).map((item) => asObject(item, `${field}[]`));
}
