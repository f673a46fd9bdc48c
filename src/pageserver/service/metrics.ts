/**
 * What the pageserver counts and measures, in the text format that Prometheus reads, by `prom-client`. Labels come from
 * closed sets (routes, commands, ids of timelines), so that the number of series is bounded. Nothing is kept outside of a
 * `Metrics`: a process may have several servers.
 */
import {
  Counter as PromCounter,
  Gauge as PromGauge,
  Histogram as PromHistogram,
  Registry,
} from "prom-client";

export type Labels = Readonly<Record<string, string>>;

/** Upper bounds of the buckets of durations, in seconds. */
const BUCKETS_S = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export class Counter {
  private readonly counter: PromCounter;

  constructor(registry: Registry, name: string, help: string, labelNames: readonly string[]) {
    this.counter = new PromCounter({ name, help, labelNames: [...labelNames], registers: [registry] });
  }

  add(labels: Labels, count = 1): void {
    this.counter.inc(labels, count);
  }
}

export class Histogram {
  private readonly histogram: PromHistogram;

  constructor(registry: Registry, name: string, help: string, labelNames: readonly string[]) {
    this.histogram = new PromHistogram({
      name,
      help,
      labelNames: [...labelNames],
      buckets: BUCKETS_S,
      registers: [registry],
    });
  }

  observe(labels: Labels, seconds: number): void {
    this.histogram.observe(labels, seconds);
  }
}

/** A family of values that are looked up when somebody asks. */
export interface Gauge {
  readonly name: string;
  readonly help: string;
  /** `counter` for what only grows. */
  readonly type?: "gauge" | "counter";
  readonly read: () => Iterable<readonly [Labels, number]>;
}

export class Metrics {
  private readonly registry = new Registry();
  readonly httpRequests = this.counter("neon_http_requests_total", "HTTP requests by route and status.", [
    "method",
    "route",
    "status",
  ]);
  readonly httpDurations = this.histogram(
    "neon_http_request_seconds",
    "Time of HTTP requests to their last byte.",
    ["method", "route"],
  );
  readonly libpqCommands = this.counter("neon_libpq_commands_total", "libpq commands by name and result.", [
    "command",
    "result",
  ]);
  readonly libpqDurations = this.histogram(
    "neon_libpq_command_seconds",
    "Time of libpq commands to their end.",
    ["command"],
  );
  readonly pageRequests = this.counter("neon_page_requests_total", "Requests of page streams by kind.", [
    "kind",
  ]);
  readonly grpcRequests = this.counter(
    "neon_grpc_requests_total",
    "gRPC requests by method, status and, for pages, class.",
    ["method", "class", "status"],
  );
  readonly grpcPages = this.counter("neon_grpc_pages_total", "Pages sent over gRPC by class of request.", [
    "class",
  ]);
  readonly grpcDurations = this.histogram(
    "neon_grpc_request_seconds",
    "Time of gRPC requests to their answer.",
    ["method"],
  );
  private readonly gauges: Gauge[] = [];

  addGauge(gauge: Gauge): void {
    this.gauges.push(gauge);
  }

  /** Of the text that `render` gives. */
  get contentType(): string {
    return this.registry.contentType;
  }

  async render(): Promise<string> {
    const now = new Registry();
    for (const gauge of this.gauges) readInto(now, gauge);
    const parts = [await this.registry.metrics(), await now.metrics()];
    return parts.map((part) => `${part.trimEnd()}\n`).join("\n");
  }

  private counter(name: string, help: string, labelNames: readonly string[]): Counter {
    return new Counter(this.registry, name, help, labelNames);
  }

  private histogram(name: string, help: string, labelNames: readonly string[]): Histogram {
    return new Histogram(this.registry, name, help, labelNames);
  }
}

/** The values of this moment; nothing for a family that has none. */
function readInto(registry: Registry, { name, help, type, read }: Gauge): void {
  const values = [...read()];
  if (values.length === 0) return;
  const labelNames = [...new Set(values.flatMap(([labels]) => Object.keys(labels)))];
  const options = { name, help, labelNames, registers: [registry] };
  if (type === "counter") {
    const counter = new PromCounter(options);
    for (const [labels, value] of values) counter.inc({ ...labels }, value);
  } else {
    const gauge = new PromGauge(options);
    for (const [labels, value] of values) gauge.set({ ...labels }, value);
  }
}
