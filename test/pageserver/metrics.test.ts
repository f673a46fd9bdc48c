/** /metrics: the text format, read by a parser that is not ours, and values that mean what they say. */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { Metrics } from "../../src/pageserver/service/metrics.ts";
import { Harness, TENANT, TOKEN } from "./harness.ts";

interface Sample {
  readonly value?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly buckets?: Readonly<Record<string, string>>;
}

interface Family {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly metrics: readonly Sample[];
}

/** It comes without types. */
const parseText: (text: string) => Family[] = createRequire(import.meta.url)("parse-prometheus-text-format");

/** No family and no series twice, every value a number. */
function parse(text: string): Map<string, Family> {
  assert.ok(text.endsWith("\n"));
  const names = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name);
  assert.equal(new Set(names).size, names.length, "no family twice");
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  const series = lines.map((line) => line.slice(0, line.lastIndexOf(" ")));
  assert.equal(new Set(series).size, series.length, "no series twice");
  for (const line of lines) assert.ok(!Number.isNaN(Number(line.split(" ").at(-1))), line);
  const families = parseText(text);
  assert.deepEqual(
    families.map(({ name }) => name),
    names,
  );
  return new Map(families.map((family) => [family.name, family]));
}

function sampleOf(family: Family | undefined, labels: Record<string, string> = {}): Sample | undefined {
  return family?.metrics.find(
    (sample) =>
      JSON.stringify(sample.labels ?? {}, Object.keys(sample.labels ?? {}).sort()) ===
      JSON.stringify(labels, Object.keys(labels).sort()),
  );
}

void test("what the pageserver tells", async () => {
  await using harness = await Harness.withMain();
  const uri = `postgresql://neon:${TOKEN}@127.0.0.1:${harness.server.libpqPort}`;
  await using client = await connectLibpq(parseLibpqUri(uri));
  await client.query("status");
  await assert.rejects(client.query(`branch_list ${"c".repeat(32)}`));
  await harness.call("GET", "/v1/nonsense");
  let text = "";
  const fetchMetrics = async (): Promise<Map<string, Family>> => {
    const response = await fetch(`${harness.url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    text = await response.text();
    return parse(text);
  };
  await fetchMetrics();
  const families = await fetchMetrics();
  const value = (name: string, labels: Record<string, string> = {}): number =>
    Number(sampleOf(families.get(name), labels)?.value);
  assert.equal(value("neon_libpq_connections"), 1);
  assert.ok(value("neon_http_connections") >= 1);
  assert.equal(value("neon_libpq_commands_total", { command: "status", result: "ok" }), 1);
  assert.equal(value("neon_libpq_commands_total", { command: "branch_list", result: "not_found" }), 1);
  assert.equal(value("neon_http_requests_total", { method: "", route: "other", status: "404" }), 1);
  assert.equal(value("neon_http_requests_total", { method: "GET", route: "/metrics", status: "200" }), 1);
  // The parser leaves the labels of histograms out.
  assert.equal(families.get("neon_http_request_seconds")?.type, "HISTOGRAM");
  assert.match(text, /^neon_http_request_seconds_count\{method="GET",route="\/metrics"\} 1$/m);
  assert.equal(value("neon_tenants", { state: "active" }), 1);
  assert.ok(value("process_resident_memory_bytes") > 1e6);
  assert.equal(families.get("process_cpu_seconds_total")?.type, "COUNTER");
  for (const name of ["neon_cache_bytes", "neon_cache_hits_total", "neon_cache_misses_total"]) {
    assert.equal(value(name, { cache: "pages" }), 0);
  }
  const main = families.get("neon_timeline_last_record_lsn")?.metrics ?? [];
  assert.equal(main.length, 1);
  assert.deepEqual([main[0]?.labels?.["tenant"], main[0]?.labels?.["branch"]], [TENANT, "main"]);
  assert.equal(Number(main[0]?.value), 0x1500000);
  const unknown = await fetch(`${harness.url}/metrics`);
  assert.equal(unknown.status, 401);
});

void test("counts, buckets and labels", async () => {
  const metrics = new Metrics();
  const odd = 'x"\\\n{}=,';
  metrics.libpqCommands.add({ command: odd, result: "ok" });
  metrics.libpqCommands.add({ command: odd, result: "ok" }, 2);
  for (const seconds of [0, 0.0005, 0.0006, 3, 1000]) {
    metrics.libpqDurations.observe({ command: "status" }, seconds);
  }
  metrics.addGauge({
    name: "g",
    help: "Help.",
    read: () => [
      [{ a: "1" }, 5],
      [{ a: "2" }, 6],
    ],
  });
  metrics.addGauge({ name: "nothing", help: "Help.", read: () => [] });
  const text = await metrics.render();
  assert.ok(text.includes('neon_libpq_commands_total{command="x\\"\\\\\\n{}=,",result="ok"} 3\n'));
  const families = parse(text);
  assert.equal(sampleOf(families.get("g"), { a: "2" })?.value, "6");
  assert.equal(families.has("nothing"), false);
  const buckets = families.get("neon_libpq_command_seconds")?.metrics[0]?.buckets;
  assert.deepEqual(
    ["0.0005", "0.001", "5", "+Inf"].map((bound) => buckets?.[bound]),
    ["2", "3", "4", "5"],
  );
  assert.match(text, /^neon_libpq_command_seconds_count\{command="status"\} 5$/m);
  const [, sum] = /^neon_libpq_command_seconds_sum\{command="status"\} (\S+)$/m.exec(text) ?? [];
  assert.ok(Math.abs(Number(sum) - 1003.0011) < 1e-6);
  // Each render is of its moment, and a second server has its own.
  parse(await metrics.render());
  assert.equal(parse(await new Metrics().render()).get("neon_libpq_commands_total")?.metrics.length ?? 0, 0);
});
