/** What the pageserver tells of itself in `/metrics` beside counts of requests: its process, tenants and timelines. */
import type { Labels, Metrics } from "./metrics.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenants } from "../timeline/tenants.ts";

export interface MeasuredServer {
  readonly tenants: Tenants<ServedTimeline>;
  readonly version: string;
  /** Milliseconds since 1970. */
  readonly startedAt: number;
  readonly libpqConnections: () => number;
}

type Values = Iterable<readonly [Labels, number]>;

export function addServerMetrics(metrics: Metrics, server: MeasuredServer): void {
  const { tenants, version, startedAt, libpqConnections } = server;
  const single = (value: () => number) => (): Values => [[{}, value()]];
  const add = (name: string, help: string, read: () => Values, type: "gauge" | "counter" = "gauge"): void =>
    metrics.addGauge({ name, help, read, type });
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
  for (const [name, help, value] of timelines) add(name, help, () => timelineValues(tenants, value));
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

/** One value for each timeline that a branch names. */
function* timelineValues(
  tenants: Tenants<ServedTimeline>,
  value: (timeline: ServedTimeline) => number | undefined,
): Values {
  for (const entry of tenants.list()) {
    if (entry.kind !== "open") continue;
    for (const { ref, entry: named } of entry.tenant.branches()) {
      const found = named.kind === "open" ? value(named.timeline) : undefined;
      if (found === undefined) continue;
      yield [{ tenant: entry.tenant.id, branch: ref.name, timeline: ref.timelineId }, found];
    }
  }
}
