/**
 * One flipped bit in any file of a tenant: either the damage is noticed, when the tenant is opened, when a page is
 * read, or by the check; or it has changed nothing, and everything acknowledged is there and right.
 */
import assert from "node:assert/strict";
import { setImmediate as nextTurn } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { TenantReport } from "../../src/pageserver/check/check-tenant.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { Scene } from "./scene.ts";
import { type Share, type ShareResult, described } from "./threads.ts";
import { TINY_START, TinyWal } from "./tiny-cluster.ts";

/** Branches with the LSN up to which their WAL was acknowledged. */
type Acknowledged = ReadonlyMap<string, number>;

export interface Specimen {
  readonly wal: TinyWal;
  readonly acknowledged: Acknowledged;
  readonly files: FaultyFiles;
}

/** Two branches with layers of both kinds, and WAL that is in no layer, as a kill leaves them. */
export async function makeSpecimen(random: SeededRandom): Promise<Specimen> {
  const wal = new TinyWal(random, 16_000);
  const files = new FaultyFiles({ random: () => random.u32() });
  files.addDirectory("/work");
  const scene = await Scene.open(files, random);
  await scene.createTenant();
  const main = await scene.import("main");
  await scene.noteWriter(main);
  let point = main.lastRecordLsn;
  // At least one record, however long it is.
  for (let end = TINY_START + 6000; point === main.startLsn; end += 1000) {
    point = await scene.feed(main, wal, end);
  }
  await main.checkpoint();
  await scene.tenant.createBranch("dev", main.id, point);
  const dev = scene.timeline("dev");
  await scene.noteWriter(dev);
  const acknowledged = new Map([
    ["main", await scene.feed(main, wal, wal.endLsn)],
    ["dev", await scene.feed(dev, wal, TINY_START + 12_000)],
  ]);
  // The WAL logs make room ahead after they have acknowledged.
  for (let turn = 0; turn < 20; turn++) await nextTurn();
  const killed = files.afterKill();
  await scene.stop();
  assert.ok(!killed.paths().some((path) => path.endsWith(".tmp")), "nothing is half done");
  return { wal, acknowledged, files: killed };
}

type KindOfFile = "layer" | "index" | "copy" | "WAL" | "mark" | "metadata" | "ref" | "tenant";

function kindOf(path: string): KindOfFile {
  if (/\.(delta|image)$/.test(path)) return "layer";
  if (path.endsWith("/index.json")) return "index";
  if (path.endsWith("/copy.index.json")) return "copy";
  if (path.includes("/wal/")) return "WAL";
  if (path.endsWith("/wal.durable")) return "mark";
  if (path.endsWith("/metadata.json")) return "metadata";
  if (path.includes("/refs/")) return "ref";
  assert.ok(path.endsWith("/tenant.json"), path);
  return "tenant";
}

/** Where in a file something may be flipped: of a WAL segment the part that was written, and a little more. */
function spanOf(path: string, bytes: Uint8Array): [number, number] {
  if (kindOf(path) !== "WAL") return [0, bytes.length];
  const from = bytes.findIndex((byte) => byte !== 0);
  const to = bytes.findLastIndex((byte) => byte !== 0);
  return from < 0 ? [0, 4096] : [from, Math.min(bytes.length, to + 64)];
}

/** What came of it. */
type Outcome = "found when opened" | "found when read" | "found by the check" | "changed nothing";

export async function flipBits({ seed, size, share, shares }: Share): Promise<ShareResult> {
  const specimen = await makeSpecimen(new SeededRandom(seed));
  const random = new SeededRandom(seed + 1 + share);
  const byKind = new Map<KindOfFile, string[]>();
  const spans = new Map<string, [number, number]>();
  for (const path of specimen.files.paths()) {
    byKind.set(kindOf(path), [...(byKind.get(kindOf(path)) ?? []), path]);
    spans.set(path, spanOf(path, specimen.files.contentOf(path)));
  }
  const kinds = [...byKind.keys()];
  assert.equal(kinds.length, 8, `kinds of files: ${kinds.join(", ")}`);
  const counts: Record<string, number> = {};
  const count = (name: string): void => {
    counts[name] = (counts[name] ?? 0) + 1;
  };
  for (let trial = share; trial < size; trial += shares) {
    const kind = random.pick(kinds);
    const path = random.pick(byKind.get(kind) ?? []);
    const [from, to] = spans.get(path) ?? [0, 0];
    const [at, bit] = [random.between(from, to - 1), random.below(8)];
    try {
      const outcome = await tryFlip(specimen, random, { path, at, bit });
      // WAL has bytes that mean nothing: behind its end, between records, below the end of the layers. The note how far
      // it is durable is made anew when all of it has been taken in; the copy of an index, whenever it is not one.
      const mayPass = kind === "WAL" || kind === "mark" || kind === "copy";
      assert.ok(outcome !== "changed nothing" || mayPass, "it was noticed");
      count(outcome);
      count(kind);
    } catch (error) {
      return { counts, failure: `bit ${bit} of byte ${at} of ${path}: ${described(error)}` };
    }
  }
  return { counts, failure: undefined };
}

async function tryFlip(
  specimen: Specimen,
  random: SeededRandom,
  flip: { path: string; at: number; bit: number },
): Promise<Outcome> {
  const files = specimen.files.copy();
  const bytes = files.contentOf(flip.path);
  bytes[flip.at] = (bytes[flip.at] ?? 0) ^ (1 << flip.bit);
  files.replaceContent(flip.path, bytes);
  const scene = new Scene(files, random);
  try {
    return await look(scene, specimen, random);
  } finally {
    files.afterKill();
    await scene.stop();
  }
}

async function look(scene: Scene, { wal, acknowledged }: Specimen, random: SeededRandom): Promise<Outcome> {
  await scene.tenants.open();
  const [entry] = scene.tenants.list();
  assert.ok(entry, "the tenant does not vanish");
  if (entry.kind === "broken") return "found when opened";
  let outcome: Outcome = "changed nothing";
  const { tenant } = entry;
  if (tenant.damagedRefs.size > 0) outcome = "found when opened";
  for (const [name, lsn] of acknowledged) {
    if (tenant.damagedRefs.has(name)) continue;
    if (tenant.branch(name).entry.kind === "broken") {
      outcome = "found when opened";
      continue;
    }
    const timeline = scene.timeline(name);
    if (timeline.state !== "active") {
      outcome = "found when opened";
      continue;
    }
    assert.ok(timeline.lastRecordLsn >= lsn, `${name} was acknowledged up to ${lsn}`);
    try {
      await scene.check(timeline, wal, timeline.lastRecordLsn);
      await scene.check(timeline, wal, random.between(TINY_START, lsn));
    } catch (error) {
      if (!(error instanceof NeonError && error.code === ErrorCode.Corrupt)) throw error;
      outcome = "found when read";
    }
  }
  const report = await tenant.check({ signal: new AbortController().signal, progress: () => undefined });
  if (report.state === "corrupt") return outcome === "changed nothing" ? "found by the check" : outcome;
  assert.equal(outcome, "changed nothing", `the check finds it too: ${JSON.stringify(found(report))}`);
  return outcome;
}

function found(report: TenantReport): unknown {
  return [report.state, report.tenant.details, report.timelines.map((timeline) => timeline.details)];
}
