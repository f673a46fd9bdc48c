/** What the pageserver tells of itself in `/metrics` beside counts of requests: its process, tenants and timelines. */
import type { Lsn } from "../../base/lsn.ts";
import type { StoreStats } from "../../storage/store.ts";
import type { Labels, Metrics } from "./metrics.ts";
import { type Follower, lagOf } from "../timeline/followers.ts";
import { SLOT_PREFIX } from "../timeline/leases.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenants } from "../timeline/tenants.ts";
import type { TimelineWal } from "../timeline/timeline-wal.ts";

export interface MeasuredServer {
  readonly tenants: Tenants<ServedTimeline>;
  readonly version: string;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly libpqConnections: () => number;
  readonly httpConnections: () => number;
  /** By name. */
  readonly caches: Readonly<Record<string, MeasuredCache>>;
}

/** Any of our caches. */
export interface MeasuredCache {
  readonly sizeBytes: number;
  readonly counts: { readonly hits: number; readonly misses: number };
}

type Values = Iterable<readonly [Labels, number]>;
type Add = (name: string, help: string, read: () => Values, type?: "gauge" | "counter") => void;

export function addServerMetrics(metrics: Metrics, server: MeasuredServer): void {
  const { tenants, version, startedAt, libpqConnections, httpConnections, caches } = server;
  const single = (value: () => number) => (): Values => [[{}, value()]];
  const add: Add = (name, help, read, type = "gauge") => metrics.addGauge({ name, help, read, type });
  add("neon_build_info", "Version of the pageserver.", () => [[{ version }, 1]]);
  add(
    "process_start_time_seconds",
    "Start of the process since 1970.",
    single(() => startedAt / 1000),
  );
  add(
    "process_resident_memory_bytes",
    "Memory of the process.",
    single(() => process.memoryUsage.rss()),
  );
  add("process_cpu_seconds_total", "CPU time used.", single(cpuSeconds), "counter");
  add(
    "nodejs_heap_size_used_bytes",
    "Memory of JavaScript.",
    single(() => process.memoryUsage().heapUsed),
  );
  add(
    "nodejs_external_memory_bytes",
    "Memory of buffers.",
    single(() => process.memoryUsage().external),
  );
  add("neon_libpq_connections", "Clients that are connected over libpq.", single(libpqConnections));
  add("neon_http_connections", "Clients that are connected over HTTP.", single(httpConnections));
  const ofCaches = (value: (cache: MeasuredCache) => number) => (): Values =>
    Object.entries(caches).map(([name, cache]) => [{ cache: name }, value(cache)]);
  add(
    "neon_cache_bytes",
    "Memory of caches.",
    ofCaches((cache) => cache.sizeBytes),
  );
  add(
    "neon_cache_hits_total",
    "Look-ups that found something.",
    ofCaches((cache) => cache.counts.hits),
    "counter",
  );
  add(
    "neon_cache_misses_total",
    "Look-ups that did not.",
    ofCaches((cache) => cache.counts.misses),
    "counter",
  );
  add("neon_tenants", "Tenants by state.", () => tenantStates(tenants));
  const timelines: [string, string, (timeline: ServedTimeline) => number | undefined][] = [
    ["neon_timeline_last_record_lsn", "End of the last ingested record.", (t) => t.lastRecordLsn],
    ["neon_timeline_durable_lsn", "End of the WAL that is on disk.", (t) => t.durableWalLsn],
    ["neon_timeline_lag_bytes", "How far the compute's WAL is ahead.", (t) => t.lagBytes],
    ["neon_timeline_physical_bytes", "Size of the timeline's own files.", (t) => t.physicalBytes],
    ["neon_timeline_open_bytes", "Memory of the open layer.", (t) => t.exchange?.store.openBytes],
    ["neon_timeline_active", "1 while WAL can be ingested.", (t) => (t.state === "active" ? 1 : 0)],
    [
      "neon_timeline_writer_streaming",
      "1 while a compute streams.",
      (t) => (t.writer?.state === "streaming" ? 1 : 0),
    ],
  ];
  addReplicationMetrics(add, tenants);
  for (const [name, help, value] of timelines) add(name, help, () => timelineValues(tenants, value));
  add("neon_timeline_layers", "Layer files of the timeline's own.", () =>
    layerValues(tenants, (stats) => [stats.deltaCount, stats.imageCount]),
  );
  add("neon_timeline_layer_bytes", "Size of its own layer files.", () =>
    layerValues(tenants, (stats) => [stats.deltaBytes, stats.imageBytes]),
  );
}

/** Who receives WAL, and what slots keep of it. */
function addReplicationMetrics(add: Add, tenants: Tenants<ServedTimeline>): void {
  const ofTimelines = (value: (wal: TimelineWal) => number) => (): Values =>
    timelineValues(tenants, ({ wal }) => wal && value(wal));
  add(
    "neon_walsenders",
    "Clients that receive WAL.",
    ofTimelines(({ followers }) => followers.list().length),
  );
  add(
    "neon_walsender_sent_bytes_total",
    "WAL sent to clients.",
    ofTimelines(({ followers }) => followers.sentBytes),
    "counter",
  );
  const ofFollowers = (value: FollowerValue, worse: Worse) => (): Values =>
    followerValues(tenants, value, worse);
  add(
    "neon_walsender_sent_lsn",
    "Sent to a client up to here.",
    ofFollowers(({ sentLsn }) => sentLsn, Math.min),
  );
  add(
    "neon_walsender_flush_lsn",
    "What a client says that it has on its disk.",
    ofFollowers(({ reported }) => reported?.flushLsn, Math.min),
  );
  add(
    "neon_walsender_lag_bytes",
    "WAL that a client has not said to have on its disk.",
    ofFollowers(lagOf, Math.max),
  );
  add("neon_replication_slot_kept_bytes", "WAL behind what the client of a slot has.", () =>
    slotValues(tenants),
  );
}

type FollowerValue = (follower: Follower, endLsn: Lsn) => number | undefined;
/** The worse of two values. */
type Worse = (a: number, b: number) => number;

/** One value for each client; of those that call themselves the same, as most standbys do, the worst. */
function* followerValues(tenants: Tenants<ServedTimeline>, value: FollowerValue, worse: Worse): Values {
  for (const [labels, { wal }] of namedTimelines(tenants)) {
    if (wal === undefined) continue;
    const values = new Map<string, readonly [Labels, number]>();
    for (const follower of wal.followers.list()) {
      const found = value(follower, wal.endLsn);
      if (found === undefined) continue;
      const { name, slot = "" } = follower;
      const key = `${slot} ${name}`;
      const before = values.get(key)?.[1] ?? found;
      values.set(key, [{ ...labels, application: name, slot }, worse(before, found)]);
    }
    yield* values.values();
  }
}

function* slotValues(tenants: Tenants<ServedTimeline>): Values {
  for (const [labels, { leases, durableWalLsn }] of namedTimelines(tenants)) {
    for (const { name, lsn } of leases?.current() ?? []) {
      if (!name.startsWith(SLOT_PREFIX)) continue;
      yield [{ ...labels, slot: name.slice(SLOT_PREFIX.length) }, Math.max(0, durableWalLsn - lsn)];
    }
  }
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function* tenantStates(tenants: Tenants<ServedTimeline>): Values {
  const entries = tenants.list();
  const open = entries.filter((entry) => entry.kind === "open").length;
  yield [{ state: "active" }, open];
  yield [{ state: "broken" }, entries.length - open];
}

/** Numbers of delta and image layers of each timeline that a branch names. */
function* layerValues(
  tenants: Tenants<ServedTimeline>,
  values: (stats: StoreStats) => readonly [deltas: number, images: number],
): Values {
  for (const [labels, timeline] of namedTimelines(tenants)) {
    const stats = timeline.exchange?.store.stats;
    if (!stats) continue;
    const [deltas, images] = values(stats);
    yield [{ ...labels, kind: "delta" }, deltas];
    yield [{ ...labels, kind: "image" }, images];
  }
}

/** One value for each timeline that a branch names. */
function* timelineValues(
  tenants: Tenants<ServedTimeline>,
  value: (timeline: ServedTimeline) => number | undefined,
): Values {
  for (const [labels, timeline] of namedTimelines(tenants)) {
    const found = value(timeline);
    if (found !== undefined) yield [labels, found];
  }
}

/** With several names, once for each. */
function* namedTimelines(tenants: Tenants<ServedTimeline>): Iterable<readonly [Labels, ServedTimeline]> {
  for (const entry of tenants.list()) {
    if (entry.kind !== "open") continue;
    for (const { ref, entry: named } of entry.tenant.branches()) {
      if (named.kind !== "open") continue;
      yield [{ tenant: entry.tenant.id, branch: ref.name, timeline: ref.timelineId }, named.timeline];
    }
  }
}
