/**
 * Settings that a tenant may have of its own, in place of the server's: what they are called by the original's clients, what
 * they are in tenant.json, and which values they take.
 */
import type { RetentionSettings } from "../compaction/maintenance.ts";
import type { JsonFields } from "../json-fields.ts";
import { formatDuration, readDuration } from "../duration.ts";

export interface TenantSettings extends RetentionSettings {
  /** Size of the open layer at which it is written to disk … */
  readonly checkpointDistanceBytes: number;
  /** … or its age. */
  readonly checkpointTimeoutMs: number;
  /** Pause between two rounds of garbage collection; 0: only on request. */
  readonly gcPeriodMs: number;
  /** The same for compaction. */
  readonly compactionPeriodMs: number;
  /** Layers that were written one by one and are merged together. */
  readonly flushedLayersMin: number;
  /** A layer file that compaction writes is closed at this size. */
  readonly layerBytesMax: number;
  /** Layers above the last image that a read may have to ask before there is a new one. */
  readonly imageLayersMax: number;
  /** Layers that wait to be merged above which WAL is taken in more slowly; 0: never. */
  readonly flushDelayLayers: number;
  /** How long a lease of an LSN holds. */
  readonly leaseMs: number;
  /** The same for one that came with the LSN of a time. */
  readonly timeLeaseMs: number;
}

/** Those that a tenant has of its own. */
export type TenantOverrides = Partial<TenantSettings>;

interface Setting {
  readonly field: keyof TenantSettings;
  /** As the original calls it. */
  readonly name: string;
  /** A time is a text such as `1h 30m` for clients. */
  readonly kind: "bytes" | "time" | "count";
  readonly min: number;
  readonly max: number;
}

const MIB = 1024 * 1024;
const DAY_MS = 86_400_000;

const SETTINGS: readonly Setting[] = [
  {
    field: "checkpointDistanceBytes",
    name: "checkpoint_distance",
    kind: "bytes",
    min: MIB / 16,
    max: 2 ** 36,
  },
  { field: "checkpointTimeoutMs", name: "checkpoint_timeout", kind: "time", min: 1000, max: 7 * DAY_MS },
  { field: "gcHorizonBytes", name: "gc_horizon", kind: "bytes", min: 0, max: 2 ** 50 },
  { field: "gcPeriodMs", name: "gc_period", kind: "time", min: 0, max: 7 * DAY_MS },
  { field: "pitrIntervalMs", name: "pitr_interval", kind: "time", min: 0, max: 100 * 366 * DAY_MS },
  { field: "layerBytesMax", name: "compaction_target_size", kind: "bytes", min: MIB, max: 1024 * MIB },
  { field: "compactionPeriodMs", name: "compaction_period", kind: "time", min: 0, max: 7 * DAY_MS },
  { field: "flushedLayersMin", name: "compaction_threshold", kind: "count", min: 1, max: 1000 },
  { field: "imageLayersMax", name: "image_creation_threshold", kind: "count", min: 1, max: 1000 },
  { field: "flushDelayLayers", name: "l0_flush_delay_threshold", kind: "count", min: 0, max: 100_000 },
  { field: "leaseMs", name: "lsn_lease_length", kind: "time", min: 0, max: 366 * DAY_MS },
  { field: "timeLeaseMs", name: "lsn_lease_length_for_ts", kind: "time", min: 0, max: 366 * DAY_MS },
];

/** Names by which clients know them. */
export const TENANT_SETTING_NAMES: readonly string[] = SETTINGS.map(({ name }) => name);

const FLUSHED_LAYERS_MIN = 8;
/** Layers that wait for compaction, in units of those that one merge takes, above which WAL is taken in more slowly. */
const FLUSH_DELAY_FACTOR = 4;

/** What holds where neither the server nor the tenant says anything. */
export const DEFAULT_TENANT_SETTINGS: TenantSettings = {
  checkpointDistanceBytes: 64 * MIB,
  checkpointTimeoutMs: 600_000,
  gcHorizonBytes: 64 * MIB,
  gcPeriodMs: 3_600_000,
  pitrIntervalMs: 7 * DAY_MS,
  layerBytesMax: 128 * MIB,
  compactionPeriodMs: 20_000,
  flushedLayersMin: FLUSHED_LAYERS_MIN,
  imageLayersMax: 8,
  flushDelayLayers: FLUSH_DELAY_FACTOR * FLUSHED_LAYERS_MIN,
  leaseMs: 600_000,
  timeLeaseMs: 600_000,
};

/** Where nothing is merged by itself, waiting for it is pointless; otherwise it depends on how much a merge takes. */
export function flushDelayFor({
  compactionPeriodMs,
  flushedLayersMin,
}: Pick<TenantSettings, "compactionPeriodMs" | "flushedLayersMin">): number {
  return compactionPeriodMs === 0 ? 0 : FLUSH_DELAY_FACTOR * flushedLayersMin;
}

/** All settings of a tenant, from the server's and its own. */
export function effectiveSettings(server: TenantSettings, own: TenantOverrides): TenantSettings {
  const settings = { ...server, ...own };
  const decides = own.compactionPeriodMs !== undefined || own.flushedLayersMin !== undefined;
  if (own.flushDelayLayers !== undefined || !decides) return settings;
  return { ...settings, flushDelayLayers: flushDelayFor(settings) };
}

/** From the fields of a request, as far as they are there and not null. Throws for values that cannot be. */
export function readTenantSettings(body: JsonFields): TenantOverrides {
  const own: Partial<Record<keyof TenantSettings, number>> = {};
  for (const { field, name, kind, min, max } of SETTINGS) {
    if (!body.has(name)) continue;
    own[field] = kind === "time" ? readDuration(body, name, { min, max }) : body.integer(name, { min, max });
  }
  return own;
}

/** As they are shown to clients. */
export function renderTenantSettings(settings: TenantOverrides): Record<string, string | number> {
  const shown: Record<string, string | number> = {};
  for (const { field, name, kind } of SETTINGS) {
    const value = settings[field];
    if (value !== undefined) shown[name] = kind === "time" ? formatDuration(value) : value;
  }
  return shown;
}

/** What of them is left when those of these names are taken away. */
export function withoutSettings(own: TenantOverrides, names: readonly string[]): TenantOverrides {
  const left: Partial<Record<keyof TenantSettings, number>> = { ...own };
  for (const { field, name } of SETTINGS) if (names.includes(name)) delete left[field];
  return left;
}

const STORED_SUFFIX: Readonly<Record<Setting["kind"], string>> = { bytes: "_bytes", time: "_ms", count: "" };

function storedName({ name, kind }: Setting): string {
  return name + STORED_SUFFIX[kind];
}

/** For tenant.json. */
export function storeTenantSettings(own: TenantOverrides): Record<string, number> {
  const stored: Record<string, number> = {};
  for (const setting of SETTINGS) {
    const value = own[setting.field];
    if (value !== undefined) stored[storedName(setting)] = value;
  }
  return stored;
}

/** From tenant.json. What another release has allowed and this one does not is brought within bounds. */
export function loadTenantSettings(stored: JsonFields): TenantOverrides {
  const own: Partial<Record<keyof TenantSettings, number>> = {};
  for (const setting of SETTINGS) {
    const name = storedName(setting);
    if (!stored.has(name)) continue;
    const value = stored.integer(name, { min: 0, max: Number.MAX_SAFE_INTEGER });
    own[setting.field] = Math.min(Math.max(value, setting.min), setting.max);
  }
  return own;
}
