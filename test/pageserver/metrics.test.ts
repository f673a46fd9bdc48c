/** /metrics: the text format, read by a parser that follows its grammar, and values that mean what they say. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { Counter, Histogram } from "../../src/pageserver/service/metrics.ts";
import { Harness, TENANT, TOKEN } from "./harness.ts";

interface Family {
  readonly type: string;
  readonly samples: Map<string, number>;
}

/** Strict: HELP, then TYPE, then samples of that family; no family and no sample twice. */
function parse(text: string): Map<string, Family> {
  assert.ok(text.endsWith("\n"));
  const families = new Map<string, Family>();
  let family: Family | undefined;
  let name = "";
  for (const line of text.trimEnd().split("\n")) {
    const help = /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) \S.*$/.exec(line);
    const type = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge|histogram)$/.exec(line);
    if (help) {
      name = help[1] ?? "";
      family = undefined;
    } else if (type) {
      assert.equal(type[1], name);
      assert.ok(!families.has(name), `${name} twice`);
      family = { type: type[2] ?? "", samples: new Map() };
      families.set(name, family);
    } else {
      const label = String.raw`[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"`;
      const sample = new RegExp(
        `^(${name}(?:_bucket|_sum|_count)?)(\\{${label}(?:,${label})*\\})? (\\S+)$`,
      ).exec(line);
      assert.ok(sample && family, line);
      const key = `${sample[1]}${sample[2] ?? ""}`;
      assert.ok(!family.samples.has(key), `${key} twice`);
      const value = Number(sample[3]);
      assert.ok(Number.isFinite(value), line);
      family.samples.set(key, value);
    }
  }
  return families;
}

void test("what the pageserver tells", async () => {
  await using harness = await Harness.withMain();
  const uri = `postgresql://neon:${TOKEN}@127.0.0.1:${harness.server.libpqPort}`;
  await using client = await connectLibpq(parseLibpqUri(uri));
  await client.query("status");
  await assert.rejects(client.query(`branch_list ${"c".repeat(32)}`));
  await harness.call("GET", "/v1/nonsense");
  const fetchMetrics = async (): Promise<Map<string, Family>> => {
    const response = await fetch(`${harness.url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    return parse(await response.text());
  };
  await fetchMetrics();
  const families = await fetchMetrics();
  const value = (name: string, labels = ""): number | undefined =>
    families.get(name)?.samples.get(`${name}${labels}`);
  assert.equal(value("neon_libpq_connections"), 1);
  assert.equal(value("neon_libpq_commands_total", '{command="status",result="ok"}'), 1);
  assert.equal(value("neon_libpq_commands_total", '{command="branch_list",result="not_found"}'), 1);
  assert.equal(value("neon_http_requests_total", '{method="",route="other",status="404"}'), 1);
  assert.equal(value("neon_http_requests_total", '{method="GET",route="/metrics",status="200"}'), 1);
  assert.equal(value("neon_tenants", '{state="active"}'), 1);
  assert.ok((value("process_resident_memory_bytes") ?? 0) > 1e6);
  const main = [...(families.get("neon_timeline_last_record_lsn")?.samples ?? [])];
  assert.equal(main.length, 1);
  assert.ok(main[0]?.[0].includes(`tenant="${TENANT}",branch="main"`));
  assert.equal(main[0]?.[1], 0x1500000);
  const unknown = await fetch(`${harness.url}/metrics`);
  assert.equal(unknown.status, 401);
});

void test("counts, buckets and labels", () => {
  const counter = new Counter("c", "Help.");
  assert.equal(counter.render(), "");
  counter.add({ a: 'x"\\\n' });
  counter.add({ a: 'x"\\\n' }, 2);
  assert.equal(counter.render(), '# HELP c Help.\n# TYPE c counter\nc{a="x\\"\\\\\\n"} 3\n');
  const histogram = new Histogram("h", "Help.");
  for (const seconds of [0, 0.0005, 0.0006, 3, 1000]) histogram.observe({}, seconds);
  const { samples } = parse(histogram.render()).get("h") ?? { samples: new Map<string, number>() };
  assert.equal(samples.get('h_bucket{le="0.0005"}'), 2);
  assert.equal(samples.get('h_bucket{le="0.001"}'), 3);
  assert.equal(samples.get('h_bucket{le="5"}'), 4);
  assert.equal(samples.get('h_bucket{le="+Inf"}'), 5);
  assert.equal(samples.get("h_count"), 5);
  assert.ok(Math.abs((samples.get("h_sum") ?? 0) - 1003.0011) < 1e-6);
});
