/**
 * Counters, histograms and gauges in the text format that Prometheus reads. Labels come from closed sets (routes,
 * commands, ids of timelines), so that the number of series is bounded.
 * Source: prometheus.io, "Exposition formats", text-based format 0.0.4.
 */

export type Labels = Readonly<Record<string, string>>;

/** Upper bounds of the buckets of durations, in seconds. */
const BUCKETS_S = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export class Counter {
  readonly name: string;
  private readonly help: string;
  private readonly values = new Map<string, number>();

  constructor(name: string, help: string) {
    this.name = name;
    this.help = help;
  }

  add(labels: Labels, count = 1): void {
    const key = formatLabels(labels);
    this.values.set(key, (this.values.get(key) ?? 0) + count);
  }

  render(): string {
    const lines = [...this.values].map(([labels, value]) => `${this.name}${labels} ${value}`);
    return block(this.name, "counter", this.help, lines);
  }
}

interface Durations {
  readonly labels: Labels;
  /** Of each bucket alone; the last one has no bound. */
  readonly counts: number[];
  sum: number;
}

export class Histogram {
  readonly name: string;
  private readonly help: string;
  private readonly series = new Map<string, Durations>();

  constructor(name: string, help: string) {
    this.name = name;
    this.help = help;
  }

  observe(labels: Labels, seconds: number): void {
    const key = formatLabels(labels);
    let durations = this.series.get(key);
    if (!durations) {
      durations = { labels, counts: new Array<number>(BUCKETS_S.length + 1).fill(0), sum: 0 };
      this.series.set(key, durations);
    }
    const found = BUCKETS_S.findIndex((bound) => seconds <= bound);
    const bucket = found < 0 ? BUCKETS_S.length : found;
    durations.counts[bucket] = (durations.counts[bucket] ?? 0) + 1;
    durations.sum += seconds;
  }

  render(): string {
    const lines: string[] = [];
    for (const [key, { labels, counts, sum }] of this.series) {
      let total = 0;
      for (const [index, count] of counts.entries()) {
        total += count;
        const le = String(BUCKETS_S[index] ?? "+Inf");
        lines.push(`${this.name}_bucket${formatLabels({ ...labels, le })} ${total}`);
      }
      lines.push(`${this.name}_sum${key} ${sum}`, `${this.name}_count${key} ${total}`);
    }
    return block(this.name, "histogram", this.help, lines);
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
  readonly httpRequests = new Counter("neon_http_requests_total", "HTTP requests by route and status.");
  readonly httpDurations = new Histogram(
    "neon_http_request_seconds",
    "Time of HTTP requests to their last byte.",
  );
  readonly libpqCommands = new Counter("neon_libpq_commands_total", "libpq commands by name and result.");
  readonly libpqDurations = new Histogram(
    "neon_libpq_command_seconds",
    "Time of libpq commands to their end.",
  );
  readonly pageRequests = new Counter("neon_page_requests_total", "Requests of page streams by kind.");
  private readonly gauges: Gauge[] = [];

  addGauge(gauge: Gauge): void {
    this.gauges.push(gauge);
  }

  render(): string {
    const families = [
      this.httpRequests.render(),
      this.httpDurations.render(),
      this.libpqCommands.render(),
      this.libpqDurations.render(),
      this.pageRequests.render(),
    ];
    for (const { name, help, type = "gauge", read } of this.gauges) {
      const lines = [...read()].map(([labels, value]) => `${name}${formatLabels(labels)} ${value}`);
      families.push(block(name, type, help, lines));
    }
    return families.join("");
  }
}

/** Nothing for a family without values. */
function block(name: string, type: string, help: string, lines: readonly string[]): string {
  if (lines.length === 0) return "";
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("\n")}\n`;
}

function formatLabels(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escapeValue(value)}"`);
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}

function escapeValue(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
