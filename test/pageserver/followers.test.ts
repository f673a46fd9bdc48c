/** Those who receive a timeline's WAL, in numbers: what was sent to whom, and how far behind they are. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { Metrics } from "../../src/pageserver/service/metrics.ts";
import { addServerMetrics } from "../../src/pageserver/service/server-metrics.ts";
import { type Follower, Followers, lagOf } from "../../src/pageserver/timeline/followers.ts";
import type { ServedTimeline } from "../../src/pageserver/timeline/served-timeline.ts";
import type { Tenants } from "../../src/pageserver/timeline/tenants.ts";

const TENANT = parseTenantId("a".repeat(32));
const TIMELINE = parseTimelineId("b".repeat(32));

function follower(name: string, sent: number, flushed?: number): Follower {
  const lsn = toLsn(flushed ?? 0);
  return {
    name,
    slot: undefined,
    user: "neon",
    startedAt: 0,
    sentLsn: toLsn(sent),
    sentBytes: sent,
    reported: flushed === undefined ? undefined : { writeLsn: lsn, flushLsn: lsn, applyLsn: lsn },
  };
}

void test("how far behind a follower is", () => {
  const end = toLsn(1000);
  assert.equal(lagOf(follower("silent", 900), end), 100);
  assert.equal(lagOf(follower("new", 900, 0), end), 100);
  assert.equal(lagOf(follower("slow", 900, 400), end), 600);
  // Its own WAL may be on its disk before we know that it is on ours.
  assert.equal(lagOf(follower("ahead", 1000, 1100), end), 0);
});

void test("what is sent counts on when a follower has gone", () => {
  const followers = new Followers();
  const first = followers.add(follower("a", 100));
  followers.add(follower("b", 20));
  assert.equal(followers.sentBytes, 120);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assert.equal(followers.sentBytes, 120);
  assert.deepEqual(
    followers.list().map(({ name }) => name),
    ["b"],
  );
});

void test("of followers of one name the worst is shown", async () => {
  const followers = new Followers();
  followers.add(follower("walreceiver", 900, 800));
  followers.add(follower("walreceiver", 950, 300));
  followers.add(follower("walreceiver", 980, 700));
  followers.add(follower('p"g\\', 980));
  const timeline = { wal: { followers, endLsn: toLsn(1000) } };
  const tenant = {
    id: TENANT,
    branches: () => [{ ref: { name: "main", timelineId: TIMELINE }, entry: { kind: "open", timeline } }],
  };
  const metrics = new Metrics();
  addServerMetrics(metrics, {
    tenants: { list: () => [{ kind: "open", tenant }] } as unknown as Tenants<ServedTimeline>,
    version: "1",
    startedAt: 0,
    libpqConnections: () => 0,
    httpConnections: () => 0,
    caches: {},
  });
  const labels = `tenant="${TENANT}",branch="main",timeline="${TIMELINE}"`;
  const lines = (await metrics.render()).split("\n").filter((line) => line.startsWith("neon_walsender"));
  assert.deepEqual(lines.sort(), [
    `neon_walsender_flush_lsn{${labels},application="walreceiver",slot=""} 300`,
    `neon_walsender_lag_bytes{${labels},application="p\\"g\\\\",slot=""} 20`,
    `neon_walsender_lag_bytes{${labels},application="walreceiver",slot=""} 700`,
    `neon_walsender_sent_bytes_total{${labels}} 3810`,
    `neon_walsender_sent_lsn{${labels},application="p\\"g\\\\",slot=""} 980`,
    `neon_walsender_sent_lsn{${labels},application="walreceiver",slot=""} 900`,
    `neon_walsenders{${labels}} 4`,
  ]);
});
