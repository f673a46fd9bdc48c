/**
 * Runs a story once for every call that it makes to the file system and every fault that may happen there, and has
 * what the disk then holds looked at.
 */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { AssertionError, NeonError } from "../../src/base/errors.ts";
import {
  type CallKind,
  type Fault,
  FaultError,
  FaultyFiles,
  PowerLossError,
} from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";

/** What is looked at after the fault. */
export type Aftermath = "power loss" | "kill" | "kill, then power loss";

export interface Point {
  readonly call: number;
  readonly fault: Fault;
  readonly aftermath: Aftermath;
  /** The disk lied: what was acknowledged may be gone, but nothing wrong may be served. */
  readonly diskLied: boolean;
}

/** One run of a story. */
export interface Run {
  readonly files: FaultyFiles;
  readonly random: SeededRandom;
}

export interface Story<S> {
  /** Whatever is remembered between the run and the look at the disk. */
  readonly begin: () => S;
  /** Runs to its end, or throws when the fault does not allow that. */
  readonly run: (run: Run, state: S) => Promise<void>;
  /** Looks at what the disk holds. */
  readonly check: (run: Run, state: S, point: Point) => Promise<void>;
  readonly files?: { readonly interleave?: boolean; readonly direct?: boolean };
}

/** Points that are run at the same time: many wait for space on the disk now and then. */
const PARALLEL = 12;

const CHANGING: readonly CallKind[] = ["write", "sync", "change"];

function pointsOf(kind: CallKind, call: number): Point[] {
  const points: Point[] = [];
  const add = (fault: Fault, aftermath: Aftermath, diskLied = false): void => {
    points.push({ call, fault, aftermath, diskLied });
  };
  add({ kind: "error", code: "EIO" }, "kill, then power loss");
  if (CHANGING.includes(kind)) {
    add({ kind: "power" }, "power loss");
    add({ kind: "power" }, "kill, then power loss");
    if (kind !== "sync") add({ kind: "error", code: "ENOSPC" }, "kill");
  }
  if (kind === "open") add({ kind: "error", code: "EMFILE" }, "kill");
  if (kind === "write") add({ kind: "short" }, "power loss");
  if (kind === "read") add({ kind: "short" }, "kill");
  if (kind === "sync") add({ kind: "lost-sync" }, "power loss", true);
  return points;
}

/** Every fault at every call. `sample` takes only so many of them, chosen at random. */
export async function faultEverywhere<S>(
  t: TestContext,
  story: Story<S>,
  options: { callsMin: number; sample?: number },
): Promise<void> {
  const random = SeededRandom.forTest(t);
  const clean = newRun(story, random.seed);
  const state = story.begin();
  await story.run(clean, state);
  const { calls } = clean.files;
  assert.ok(calls.length >= options.callsMin, `${calls.length} calls`);
  let points = calls.flatMap(({ kind }, i) => pointsOf(kind, i + 1));
  if (options.sample !== undefined && options.sample < points.length) {
    const wanted = options.sample / points.length;
    points = points.filter(() => random.chance(wanted));
  }
  t.diagnostic(`${calls.length} calls, ${points.length} points`);
  const queue = [...points.entries()];
  const worker = async (): Promise<void> => {
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      const [i, point] = next;
      const what = calls[point.call - 1];
      try {
        await runPoint(story, random.seed + i, point);
      } catch (error) {
        queue.length = 0;
        const fault = JSON.stringify(point);
        throw new Error(`NEON_TEST_SEED=${random.seed}, ${fault}, there: ${what?.what}`, { cause: error });
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}

function newRun<S>(story: Story<S>, seed: number): Run {
  const random = new SeededRandom(seed);
  const files = new FaultyFiles({ ...story.files, random: () => random.u32() });
  return { files, random };
}

async function runPoint<S>(story: Story<S>, seed: number, point: Point): Promise<void> {
  const run = newRun(story, seed);
  const state = story.begin();
  run.files.plan(point.call, point.fault);
  try {
    await story.run(run, state);
  } catch (error) {
    checkError(error);
  }
  const looked = async (files: FaultyFiles): Promise<FaultyFiles> => {
    await story.check({ files, random: run.random }, state, point);
    return files;
  };
  if (point.aftermath === "power loss") {
    await looked(run.files.afterPowerLoss());
    return;
  }
  const files = await looked(run.files.afterKill());
  if (point.aftermath === "kill, then power loss") await looked(files.afterPowerLoss());
}

/** A fault of the disk must come out as what it is, never as a bug of ours. */
function checkError(error: unknown): void {
  for (let cause: unknown = error; cause instanceof Error; { cause } = cause) {
    if (cause instanceof AssertionError) throw error;
    if (cause instanceof FaultError || cause instanceof PowerLossError) return;
  }
  if (!(error instanceof NeonError)) throw error;
}
