/**
 * Runs a story once for every call that it makes to the file system and every fault that may happen there, and has
 * what the disk then holds looked at.
 */
import { AssertionError, NeonError } from "../../src/base/errors.ts";
import {
  type CallKind,
  type Fault,
  FaultError,
  FaultyFiles,
  PowerLossError,
} from "../../src/storage/faulty-files.ts";
import { SeededRandom } from "../support/random.ts";
import { type Share, type ShareResult, described } from "./threads.ts";

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

/** Points that are run at the same time in a thread: many wait for space on the disk now and then. */
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

/**
 * Faults at every call of a story: the share of one thread. All of them, or every `size`th, which ones being a matter of
 * the seed: still some at each call.
 */
export async function faultEverywhere<S>(
  story: Story<S>,
  { seed, size, share, shares }: Share,
): Promise<ShareResult> {
  const clean = newRun(story, seed);
  await story.run(clean, story.begin());
  const { calls } = clean.files;
  const step = Math.max(1, size);
  const points = calls
    .flatMap(({ kind }, i) => pointsOf(kind, i + 1))
    .filter((_, i) => (i + seed) % step === 0);
  const queue = [...points.entries()].filter(([i]) => i % shares === share);
  const count = queue.length;
  let failure: string | undefined;
  const work = async (): Promise<void> => {
    for (let next = queue.pop(); next !== undefined && failure === undefined; next = queue.pop()) {
      const [i, point] = next;
      try {
        await runPoint(story, seed + i, point);
      } catch (error) {
        const what = calls[point.call - 1]?.what;
        failure = `${JSON.stringify(point)}, there: ${what}: ${described(error)}`;
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return { counts: { points: count, calls: share === 0 ? calls.length : 0 }, failure };
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
